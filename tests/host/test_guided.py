"""The guided mask decoder in ComfyUI: who decodes, with which nodes, and what those without one are told."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.builders import SCHEDULERS, make_text, make_unet, make_vae, with_mask_decoder, write_checkpoint
from tools.api import RunError

from .conftest import node
from .test_nodes_split import (
    DECODE,
    LOADER,
    MAP,
    PICK,
    PICK_STEPS,
    PROMPTS,
    SAMPLE,
    SEGMENT,
    Steps,
    shown,
    upload,
    with_stock_nodes,
)

PLAIN, GUIDED = "random-plain.safetensors", "random-guided.safetensors"


@pytest.fixture(scope="module")
def checkpoints(host):
    """Two files of one random model, of which one has a mask decoder."""
    folder, parts = host.base / "models" / "digseg", (make_unet("one_head_count"), make_vae(), make_text())
    write_checkpoint(folder / PLAIN, *parts, SCHEDULERS["v_zero_snr"], resolution=64, default_steps=2)
    with_mask_decoder(folder / PLAIN, folder / GUIDED)


@pytest.fixture
def photo(client, checkpoints, tmp_path) -> str:
    return upload(client, tmp_path / "guided.png", 96, 128)


def masks(client, checkpoint: str, photo: str, **settings) -> np.ndarray:
    """What DiGSeg Segment draws."""
    graph = Steps(checkpoint, photo, **{k: v for k, v in settings.items() if k != "decoder"})
    graph.set(SEGMENT, **{k: v for k, v in settings.items() if k == "decoder"})
    return shown(client, client.run(graph.one_only), PICK)


def test_auto_takes_the_guided_decoder_where_there_is_one(client, photo):
    said_nothing, guided, vae = (
        masks(client, GUIDED, photo),
        *(masks(client, GUIDED, photo, decoder=d) for d in ("guided", "vae")),
    )
    assert guided.std() > 5 and np.array_equal(said_nothing, guided)
    assert np.abs(guided.astype(int) - vae).mean() > 5
    assert np.array_equal(masks(client, PLAIN, photo, decoder="auto"), vae)


@pytest.mark.parametrize(
    "settings", [{}, {"ensemble": 2, "uncertainty": True}, {"mirror": True, "tile": 64, "ensemble": 2, "uncertainty": True}]
)
def test_steps_and_all_in_one_are_bit_identical(client, photo, settings):
    graph = Steps(GUIDED, photo, **settings)
    graph.set(SEGMENT, decoder="guided").set(DECODE, decoder="guided")
    graph.prompt["20"] = node("DiGSegCompareMasks", prediction=[PICK, 0], truth=[PICK_STEPS, 0], threshold=0.5, tolerance=1)
    run = client.run(graph.prompt)
    one, steps = shown(client, run, PICK), shown(client, run, PICK_STEPS)
    assert one.std() > 5 and np.array_equal(one, steps)


def test_another_decoder_decodes_again_and_nothing_more(client, photo):
    graph = Steps(GUIDED, photo)
    client.run(graph.steps_only)
    assert set(client.run(graph.set(DECODE, decoder="vae").steps_only).executed) == {DECODE, PICK_STEPS, MAP}


def test_guided_without_a_mask_decoder_says_what_to_do_before_any_work(client, photo):
    graph = Steps(PLAIN, photo).set(SEGMENT, decoder="guided")
    with pytest.raises(RunError, match=r"There is no guided mask decoder .* Choose decoder auto or vae"):
        client.run(graph.one_only)
    with pytest.raises(RunError, match=r"There is no guided mask decoder"):
        client.run(Steps(PLAIN, photo).set(DECODE, decoder="guided").steps_only)


def test_a_stock_samplers_masks_bring_the_decoder_of_the_model_behind_conditioning(client, photo):
    graph = Steps(GUIDED, photo, "red circle").without(SEGMENT, PICK, PROMPTS, SAMPLE, DECODE, PICK_STEPS, MAP)
    graph |= with_stock_nodes(steps=2, add_noise=False)
    without = shown(client, client.run(graph), "66")
    graph["65"]["inputs"]["decoder"] = "guided"
    with pytest.raises(RunError, match=r"DiGSeg Conditioning has no MODEL"):
        client.run(graph)
    graph["61"]["inputs"]["model"] = [LOADER, 0]
    guided = shown(client, client.run(graph), "66")
    graph["65"]["inputs"]["decoder"] = "vae"
    assert np.array_equal(shown(client, client.run(graph), "66"), without)
    assert guided.std() > 5 and np.abs(guided.astype(int) - without).mean() > 5


@pytest.mark.parametrize("name", ["DiGSegSegment", "DiGSegDecodeMasks"])
def test_the_new_widget_is_the_last_one(object_info, name):
    """Saved graphs hold widget values by position."""
    order = object_info[name]["input_order"]
    assert order["optional"][-1] == "decoder" and object_info[name]["input"]["optional"]["decoder"][1]["default"] == "auto"
