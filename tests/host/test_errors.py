"""Wrong inputs get an answer that says what was found and what to do."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dev import ROOT
from tools.api import GraphError, RunError

from .conftest import LOADER, PHOTO, PICK, SEGMENT, Graph, node


@pytest.fixture
def graph(scene, present) -> Graph:
    return Graph(scene.image, present[0])


@pytest.mark.parametrize("text", ["", "  \n \n"])
def test_empty_text(client, graph, text):
    with pytest.raises((GraphError, RunError), match=r"(?i)type|write|at least one"):
        client.run(graph.change(SEGMENT, text=text).prompt)


def test_unknown_name_lists_the_known_ones(client, graph, present):
    with pytest.raises(RunError, match=f"no mask named 'teapot'.*{present[0]}"):
        client.run(graph.change(PICK, names="teapot").prompt)


def test_checkpoint_that_is_not_there(client, graph):
    with pytest.raises((GraphError, RunError), match=r"nowhere\.safetensors"):
        client.run(graph.change(LOADER, checkpoint="nowhere.safetensors").prompt)


def test_text_to_image_model_is_named_and_refused(client, graph):
    with pytest.raises(RunError, match=r"4 input channels"):
        client.run(graph.change(LOADER, checkpoint="digseg-demo-base.safetensors").prompt)


def test_file_that_is_no_checkpoint(client, graph, host):
    folder = host.base / "models" / "digseg"
    (folder / "torn.safetensors").write_bytes(b"not a safetensors file")
    save_file({"some.weight": torch.zeros(3)}, folder / "other.safetensors")
    for name in ("torn.safetensors", "other.safetensors"):
        with pytest.raises(RunError, match=name):
            client.run(graph.change(LOADER, checkpoint=name).prompt)


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "U-Net"), ("vae.encoder", "VAE"), ("vae.decoder", "VAE"), ("text_encoder", "text encoder")]
)
def test_weights_that_are_no_numbers_are_named_and_not_the_precision(client, graph, host, part, name):
    folder = host.base / "models" / "digseg"
    bundled = ROOT / "digseg_nodes/models/digseg-demo.safetensors"
    tensors = load_file(bundled)
    with safe_open(bundled, "pt") as file:
        metadata = file.metadata()
    key = next(key for key in tensors if key.startswith(part) and key.endswith("weight"))
    tensors[key] = torch.full_like(tensors[key], torch.nan)
    save_file(tensors, folder / "broken.safetensors", metadata)
    with pytest.raises(RunError, match=rf"so do \d+ of the \d+ tensors of the {name}") as error:
        client.run(graph.change(LOADER, checkpoint="broken.safetensors").change(SEGMENT, decoder="vae").prompt)
    assert "--fp32" not in str(error.value)


def test_values_out_of_range_are_refused_before_anything_runs(client, graph):
    with pytest.raises(GraphError, match="ensemble"):
        client.run(graph.change(SEGMENT, ensemble=0).prompt)


def test_tiles_too_small_to_show_anything_are_refused(client, graph):
    with pytest.raises(RunError, match="Tiles of 8 pixels are too small to show anything; use 64 or more"):
        client.run(graph.change(SEGMENT, tile=8).prompt)


def test_a_resized_latent_is_refused(client, graph):
    """Decoded, its masks would be a part of the picture stretched over the photo."""
    prompt = dict(graph.prompt)
    text = prompt[SEGMENT]["inputs"]["text"]
    prompt["20"] = node("DiGSegPrompts", clip=[LOADER, 1], text=text, preset="none")
    prompt["21"] = node("DiGSegEncodeImage", vae=[LOADER, 2], image=[PHOTO, 0], resolution=0, tile=0, mirror=False)
    prompt["22"] = node("DiGSegSampler", model=[LOADER, 0], prompts=["20", 0], image=["21", 0], seed=0, steps=1, ensemble=1)
    prompt["23"] = node("LatentUpscaleBy", samples=["22", 0], upscale_method="bilinear", scale_by=2.0)
    prompt["24"] = node("DiGSegDecodeMasks", vae=[LOADER, 2], masks=["23", 0], uncertainty=False)
    prompt[PICK] = node("DiGSegPickMask", masks=["24", 0], names="", mode="hard", threshold=0.0, invert=False)
    with pytest.raises(RunError, match="resized or cropped on the way"):
        client.run(prompt)
