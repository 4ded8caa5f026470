"""What of a LoRA does not fit a network is named."""

from __future__ import annotations

from pathlib import Path

import torch

from digseg_nodes.core.lora_fit import does_not_fit, half_pairs, wrong_shapes


def pair(layer: str, out: int, rank: int, into: int) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_down.weight": torch.zeros(rank, into), f"{layer}.lora_up.weight": torch.zeros(out, rank)}


def test_half_a_pair():
    whole, half = pair("lora_unet_a", 8, 2, 6), pair("lora_unet_b", 8, 2, 6)
    del half["lora_unet_b.lora_up.weight"]
    assert list(half_pairs(whole | half)) == ["lora_unet_b"]


def test_pairs_that_multiply_to_another_shape():
    lora = pair("lora_unet_a", 8, 2, 6) | pair("lora_unet_b", 8, 2, 7)
    weights = {"a.weight": torch.zeros(8, 6), "b.weight": torch.zeros(8, 6, 3, 3)}
    targets = {"lora_unet_a": "a.weight", "lora_unet_b": "b.weight"}
    assert list(wrong_shapes(lora, targets, weights)) == [("lora_unet_b", (8, 7), (8, 6))]


def test_a_long_list_is_cut():
    words = does_not_fit(Path("x.safetensors"), [f"layer{i}" for i in range(11)], 20, "have another shape")
    assert "x.safetensors" in words and "11 of 20 have another shape" in words
    assert "layer7 and 3 more" in words and "layer8" not in words
