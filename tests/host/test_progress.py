"""What a user sees and can do while a mask is drawn."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from tools.api import RunInterrupted

from .conftest import SEGMENT, Graph


def test_progress_moves_to_its_end_and_previews_are_pictures_of_the_photo(client, scene, present):
    run = client.run(Graph(scene.image, "\n".join(present)).change(SEGMENT, steps=3, seed=11).prompt)
    steps = [event for event in run.of("progress") if event["node"] == SEGMENT]
    values = [event["value"] for event in steps]
    assert values == sorted(values) and values[-1] == steps[-1]["max"] >= 3 * len(present)
    previews = run.of("preview")
    assert len(previews) >= len(present)
    assert Image.open(io.BytesIO(previews[-1])).size[0] >= 64


def test_stop_stops_and_the_next_run_works(client, scene, present):
    started = time.monotonic()

    def press_stop(kind: str, data: object) -> None:
        if kind == "progress" and data["node"] == SEGMENT and data["value"] >= 2:
            client.interrupt()

    with pytest.raises(RunInterrupted, match="DiGSegSegment"):
        client.run(Graph(scene.image, present[0]).change(SEGMENT, steps=1000, seed=1).prompt, press_stop)
    assert time.monotonic() - started < 60
    assert client.run(Graph(scene.image, present[0]).change(SEGMENT, seed=2).prompt).outputs
