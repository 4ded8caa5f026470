"""What ComfyUI's own save nodes make of our MODEL, CLIP and VAE comes back through our loaders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.lora_names import to_kohya
from tests.parity.builders import SCHEDULERS, make_text, make_unet, make_vae, write_checkpoint
from tools.api import Client

from .conftest import LOADER, PICK, SEGMENT, Graph, masks_of, node
from .test_core_nodes import _random_lora

NAME, LORA = "saved-from.safetensors", "saved-from-lora.safetensors"
PATCHED, SAVE, OTHER = "8", "9", "10"


@pytest.fixture(scope="module")
def graph(host, scene) -> Graph:
    """A random checkpoint that starts from no noise, overlaid masks, two steps and a threshold of its own; and a LoRA for it."""
    unet, folder = make_unet("one_head_count"), host.base / "models"
    write_checkpoint(
        folder / "digseg" / NAME,
        unet,
        make_vae(),
        make_text(),
        SCHEDULERS["v_zero_snr"],
        resolution=128,
        default_steps=2,
        threshold=0.47,
        initial_noise="zero",
        mask_target="overlay",
    )
    (folder / "loras").mkdir(exist_ok=True)
    save_file(to_kohya(_random_lora(unet)), folder / "loras" / LORA)
    return Graph(scene.image, "a red circle", checkpoint=NAME).change(PICK, mode="soft")


def with_lora(graph: Graph, name: str = LORA) -> dict:
    """The graph with a LoRA between the loader's MODEL and Segment."""
    changed = graph.change(SEGMENT, model=[PATCHED, 0])
    changed.prompt[PATCHED] = node("DiGSegLoraLoader", model=[LOADER, 0], lora=name, strength=1.0)
    return changed.prompt


def mask(client: Client, prompt: dict) -> np.ndarray:
    return masks_of(client, client.run(prompt)).astype(int)


def taken(host, made: str, models: str, name: str) -> Path:
    """The newest file of ComfyUI's output folder, put among its models as its owner would."""
    newest = max((host.base / "output").glob(f"{made}_*_.safetensors"), key=lambda path: path.stat().st_mtime)
    return Path(shutil.copy(newest, host.base / "models" / models / name))


def test_a_merged_checkpoint_comes_back_with_all_it_needs(client, host, graph):
    """CheckpointSave of a model with a LoRA: baked in, masks as drawn with the LoRA, settings as of the original."""
    wanted, plain = mask(client, with_lora(graph)), mask(client, graph.prompt)
    assert np.abs(wanted - plain).max() > 2, "the LoRA does nothing"
    save = node("CheckpointSave", model=[PATCHED, 0], clip=[LOADER, 1], vae=[LOADER, 2], filename_prefix="kept/merged")
    client.run(with_lora(graph) | {SAVE: save})
    path = taken(host, "kept/merged", "digseg", "merged.safetensors")
    saved, original = open_checkpoint(path), open_checkpoint(host.base / "models" / "digseg" / NAME)
    assert saved.config == original.config and saved.components == original.components
    assert np.abs(mask(client, graph.change(LOADER, checkpoint=path.name).prompt) - wanted).max() <= 1


def test_a_saved_model_alone_comes_back_as_a_unet(client, host, graph):
    client.run(graph.prompt | {SAVE: node("ModelSave", model=[LOADER, 0], filename_prefix="kept/model")})
    path = taken(host, "kept/model", "digseg", "model.safetensors")
    assert open_checkpoint(path).components == ("unet",)
    changed = graph.change(SEGMENT, model=[OTHER, 0])
    changed.prompt[OTHER] = node("DiGSegUNETLoader", checkpoint=path.name, weight_dtype="default")
    assert np.abs(mask(client, changed.prompt) - mask(client, graph.prompt)).max() <= 1


def test_the_text_to_image_base_comes_back_too(client, host, graph):
    prompt = {
        LOADER: node("DiGSegBaseLoader", checkpoint="digseg-demo-base.safetensors"),
        SAVE: node("CheckpointSave", model=[LOADER, 0], clip=[LOADER, 1], vae=[LOADER, 2], filename_prefix="kept/base"),
    }
    client.run(prompt)
    path = taken(host, "kept/base", "digseg", "base-again.safetensors")
    assert open_checkpoint(path, in_channels=4).components == ("unet", "vae", "text_encoder")
    client.run({LOADER: node("DiGSegBaseLoader", checkpoint=path.name), SAVE: node("CLIPTextEncode", clip=[LOADER, 1], text="a")}
               | {OTHER: node("PreviewAny", source=[SAVE, 0])})  # fmt: skip


@pytest.mark.parametrize("kind", ["standard", "full_diff"])
def test_an_extracted_lora_loads_with_its_biases(client, host, graph, kind):
    """Extract and Save LoRA: the difference between the model with and without the LoRA, biases and all."""
    wanted = mask(client, with_lora(graph))
    prompt = with_lora(graph) | {
        OTHER: node("ModelMergeSubtract", model1=[PATCHED, 0], model2=[LOADER, 0], multiplier=1.0),
        SAVE: node("LoraSave", filename_prefix="kept/extracted", rank=4, lora_type=kind, bias_diff=True, model_diff=[OTHER, 0]),
    }
    client.run(prompt)
    path = taken(host, "kept/extracted", "loras", f"extracted-{kind}.safetensors")
    names = list(load_file(path))
    assert any(name.endswith(".diff_b") for name in names) and all(name.startswith("diffusion_model.") for name in names)
    found, stock = mask(client, with_lora(graph, path.name)), with_lora(graph)
    stock[PATCHED] = node("LoraLoaderModelOnly", model=[LOADER, 0], lora_name=path.name, strength_model=1.0)
    assert np.abs(found - mask(client, stock)).max() <= 1
    if kind == "full_diff":  # the other kind clamps the largest of its numbers
        assert np.abs(found - wanted).mean() < 0.2 * np.abs(mask(client, graph.prompt) - wanted).mean()


def test_a_lora_of_biases_alone_is_applied(client, host, graph):
    unbiased = load_file(host.base / "models" / "loras" / "extracted-standard.safetensors")
    biases = {name: value + 0.3 for name, value in unbiased.items() if name.endswith("out_layers.3.diff_b")}
    save_file(biases, host.base / "models" / "loras" / "biases.safetensors")
    assert biases and np.abs(mask(client, with_lora(graph, "biases.safetensors")) - mask(client, graph.prompt)).max() > 2
