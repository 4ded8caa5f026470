"""API prompts around the pack's nodes, and what comes back from them."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
from PIL import Image

from tools import demo
from tools.api import Client, Run

CHECKPOINT = "digseg-demo.safetensors"
LOADER, PHOTO, SEGMENT, PICK, COVERAGE = "1", "2", "3", "4", "5"


class Graph:
    """Photo -> Segment -> Pick Mask -> coverage as text; `change` exchanges widget values of one node."""

    def __init__(self, image: str, text: str, names: str = "", checkpoint: str = CHECKPOINT):
        self.prompt = {
            LOADER: node("DiGSegCheckpointLoader", checkpoint=checkpoint),
            PHOTO: node("LoadImage", image=image),
            SEGMENT: node(
                "DiGSegSegment",
                model=[LOADER, 0],
                clip=[LOADER, 1],
                vae=[LOADER, 2],
                image=[PHOTO, 0],
                text=text,
                seed=0,
                steps=0,
                ensemble=1,
                threshold=0.0,
                resolution=0,
                tile=0,
                uncertainty=False,
            ),
            PICK: node("DiGSegPickMask", masks=[SEGMENT, 0], names=names, mode="hard", threshold=0.0, invert=False),
            COVERAGE: node("PreviewAny", source=[PICK, 1]),
        }

    def change(self, which: str, **values) -> Graph:
        changed = copy.deepcopy(self)
        changed.prompt[which]["inputs"].update(values)
        return changed


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def masks_of(client: Client, run: Run) -> np.ndarray:
    """The picked masks as ComfyUI shows them: uint8 [B, H, W]."""
    shown = [client.picture(entry) for entry in run.outputs[PICK]["images"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in shown])


def coverage_of(run: Run) -> float:
    return float(run.outputs[COVERAGE]["text"][0])


@pytest.fixture(scope="session")
def scene() -> demo.Scene:
    """The first bundled scene."""
    return demo.load_scenes()[0]


@pytest.fixture
def present(scene) -> list[str]:
    """Prompts that are in the first scene."""
    return [entry["prompt"] for entry in scene.prompts if entry["mask"]]
