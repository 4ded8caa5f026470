"""Nodes that ComfyUI ships work on our MODEL and VAE, and LoRAs from disk on both loaders; on a small random model."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from digseg_nodes.core.lora_names import to_kohya
from tests.parity.builders import SCHEDULERS, make_text, make_unet, make_vae, write_checkpoint
from tools.api import Client, RunError

from .conftest import LOADER, PHOTO, PICK, SEGMENT, Graph, masks_of, node

EXTRA = "9"
PATCHES = {
    "FreeU": node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "perturbed attention": node("PerturbedAttentionGuidance", scale=3.0),
    "stock LoRA": node("LoraLoaderModelOnly", lora_name="random.safetensors", strength_model=1.0),
    "our LoRA": node("DiGSegLoraLoader", lora="random.safetensors", strength=1.0),
}


@pytest.fixture(scope="module")
def models(host):
    """A random checkpoint, a LoRA for it in kohya's names and in diffusers', and one for another network."""
    unet = make_unet("one_head_count")
    folder = host.base / "models"
    write_checkpoint(
        folder / "digseg" / "random.safetensors",
        unet,
        make_vae(),
        make_text(),
        SCHEDULERS["v_zero_snr"],
        resolution=128,
        default_steps=2,
    )  # 2 x 2 at the lowest level: one position has no attention to perturb
    tensors = _random_lora(unet)
    (folder / "loras").mkdir(exist_ok=True)
    save_file(to_kohya(tensors), folder / "loras" / "random.safetensors")
    save_file({f"unet.{k}": v for k, v in tensors.items()}, folder / "loras" / "diffusers.safetensors")
    save_file(
        {"lora_unet_elsewhere.lora_down.weight": torch.zeros(4, 4), "lora_unet_elsewhere.lora_up.weight": torch.zeros(4, 4)},
        folder / "loras" / "foreign.safetensors",
    )


def _random_lora(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v", "conv_in", "ff.net.2"]))
    generator = torch.Generator().manual_seed(4)
    tensors = get_peft_model_state_dict(unet)
    return {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in tensors.items()}


@pytest.fixture(scope="module")
def graph(models, scene) -> Graph:
    return Graph(scene.image, "a red circle", checkpoint="random.safetensors").change(PICK, mode="soft")


def with_patch(graph: Graph, patch: dict) -> dict:
    """The graph with one more node between the loader's MODEL and Segment."""
    changed = graph.change(SEGMENT, model=[EXTRA, 0])
    changed.prompt[EXTRA] = {**patch, "inputs": {**patch["inputs"], "model": [LOADER, 0]}}
    return changed.prompt


@pytest.fixture(scope="module")
def plain(host, graph) -> np.ndarray:
    with Client(host.url) as client:
        return masks_of(client, client.run(graph.prompt))


@pytest.mark.parametrize("name", PATCHES)
def test_model_patches_act(client, graph, plain, name):
    patched = masks_of(client, client.run(with_patch(graph, PATCHES[name])))
    assert patched.shape == plain.shape
    assert np.abs(patched.astype(int) - plain).max() > 2


def test_both_lora_loaders_agree_in_every_format(client, graph):
    stock = masks_of(client, client.run(with_patch(graph, PATCHES["stock LoRA"])))
    for name in ("random.safetensors", "diffusers.safetensors"):
        ours = masks_of(client, client.run(with_patch(graph, node("DiGSegLoraLoader", lora=name, strength=1.0))))
        assert np.abs(ours.astype(int) - stock).max() <= 1


def test_lora_that_does_not_fit_is_an_error(client, graph):
    with pytest.raises(RunError, match="lora_unet_elsewhere"):
        client.run(with_patch(graph, node("DiGSegLoraLoader", lora="foreign.safetensors", strength=1.0)))


def test_model_sampling_that_says_the_same_changes_nothing(client, graph, plain):
    same = node("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)
    assert np.abs(masks_of(client, client.run(with_patch(graph, same))).astype(int) - plain).max() <= 1


def test_model_sampling_that_says_another_thing_acts(client, graph, plain):
    other = node("ModelSamplingDiscrete", sampling="eps", zsnr=False)
    assert np.abs(masks_of(client, client.run(with_patch(graph, other))).astype(int) - plain).max() > 2


def test_compiled_model_draws_the_same_masks(client, graph, plain):
    """With `cudagraphs`, which traces and partitions the whole network and then runs it as it is where there is no GPU."""
    compiled = node("TorchCompileModel", backend="cudagraphs")
    assert np.abs(masks_of(client, client.run(with_patch(graph, compiled))).astype(int) - plain).max() <= 1


def test_tiled_vae(client, graph):
    """Tiles that hold the whole photo give the very picture of the plain nodes; smaller ones give one of the same size."""
    plain = {"encode": node("VAEEncode"), "decode": node("VAEDecode")}
    whole, small = (round_trip(client, graph, tiled_nodes(size)) for size in (256, 64))
    assert np.abs(whole.astype(int) - round_trip(client, graph, plain)).max() <= 1
    assert small.shape == whole.shape
    assert small.std() > 1


def tiled_nodes(size: int) -> dict:
    settings = {"tile_size": size, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    return {"encode": node("VAEEncodeTiled", **settings), "decode": node("VAEDecodeTiled", **settings)}


def round_trip(client: Client, graph: Graph, nodes: dict) -> np.ndarray:
    """The photo through a node that encodes and one that decodes: uint8 [H, W, 3]."""
    prompt = {key: graph.prompt[key] for key in (LOADER, PHOTO)} | copy.deepcopy(nodes)
    prompt["encode"]["inputs"] |= {"pixels": [PHOTO, 0], "vae": [LOADER, 2]}
    prompt["decode"]["inputs"] |= {"samples": ["encode", 0], "vae": [LOADER, 2]}
    prompt["shown"] = node("PreviewImage", images=["decode", 0])
    png = client.picture(client.run(prompt).outputs["shown"]["images"][0])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
