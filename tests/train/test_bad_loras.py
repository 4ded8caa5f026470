"""A LoRA that cannot be merged is refused by name, before anything is changed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from digseg_nodes.core.checkpoint import CheckpointError
from tests.bad_loras import BAD_NAMES, FIT, UNFIT, layer_of
from tests.train.helpers import tiny_unet
from train.networks.lora import MERGED, merge_lora

LAYERS = {"linear": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "conv": "conv_in", "norm": "conv_norm_out"}
PLAIN = {name.removeprefix(".") for name in MERGED}
PLAIN_FIT = [row for row in FIT if set(row[2]) <= PLAIN]


@pytest.fixture(scope="module")
def unet():
    """A tiny U-Net of a segmenter."""
    torch.manual_seed(0)
    return tiny_unet(8).eval().requires_grad_(False)


def layer(unet, kind: str, parts: dict) -> dict[str, torch.Tensor]:
    """A layer of the U-Net in kohya's names."""
    return layer_of("lora_unet_" + LAYERS[kind].replace(".", "_"), parts, unet.get_submodule(LAYERS[kind]).weight.shape)


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in PLAIN_FIT], ids=[row[0] for row in PLAIN_FIT])
def test_plain_pairs_are_merged(unet, tmp_path, kind, parts):
    before = unet.get_submodule(LAYERS[kind]).weight.clone()
    save_file(layer(unet, kind, parts), tmp_path / "lora.safetensors")
    merge_lora(unet, tmp_path / "lora.safetensors")
    assert not torch.equal(before, unet.get_submodule(LAYERS[kind]).weight)


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_what_does_not_fit_is_named_and_nothing_is_merged(unet, tmp_path, kind, parts):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    save_file({**layer(unet, "conv", FIT[2][2]), **layer(unet, kind, parts)}, tmp_path / "lora.safetensors")
    with pytest.raises(
        CheckpointError, match=r"lora\.safetensors (changes lora_unet_|does not fit|is no LoRA).*(merged here|lora_unet_)"
    ):
        merge_lora(unet, tmp_path / "lora.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize(("tensors", "settings", "words"), [row[1:] for row in BAD_NAMES], ids=[row[0] for row in BAD_NAMES])
def test_strengths_that_are_no_numbers_are_refused(unet, tmp_path, tensors, settings, words):
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings or {}))
    with pytest.raises(CheckpointError, match=words):
        merge_lora(unet, path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "it holds no tensors"),
        (
            {"unet..lora_A.weight": torch.zeros(2, 6), "unet..lora_B.weight": torch.zeros(8, 2)},
            "changes lora_unet_.*does not have",
        ),
        ({".lora_down.weight": torch.zeros(2, 6), ".lora_up.weight": torch.zeros(8, 2)}, "changes lora_unet_.*does not have"),
        ({"lora_unet_mid_block.alpha": torch.tensor(1.0)}, "changes lora_unet_mid_block, which the U-Net does not have"),
    ],
)
def test_layers_without_a_weight_are_refused(unet, tmp_path, tensors, words):
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=words):
        merge_lora(unet, tmp_path / "lora.safetensors")
