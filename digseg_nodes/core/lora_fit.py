"""Whether a LoRA under kohya's names fits a network, and in which words it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from .lora_names import layers_of


def half_pairs(lora: dict[str, Tensor]) -> Iterator[str]:
    """Layers with only one of the two matrices of a LoRA."""
    for layer, keys in layers_of(lora).items():
        if (f"{layer}.lora_down.weight" in keys) != (f"{layer}.lora_up.weight" in keys):
            yield layer


def wrong_shapes(lora: dict[str, Tensor], targets: dict[str, str], weights: dict[str, Tensor]) -> Iterator[tuple]:
    """(layer, shape in the LoRA, shape in the U-Net) where a low-rank pair multiplies to another shape."""
    for layer in layers_of(lora):
        down, up = lora.get(f"{layer}.lora_down.weight"), lora.get(f"{layer}.lora_up.weight")
        weight = weights.get(targets[layer])
        if down is None or up is None or weight is None or f"{layer}.lora_mid.weight" in lora:
            continue
        found, expected = (up.shape[0], down.shape[1]), tuple(weight.shape[:2])
        if found != expected:
            yield layer, found, expected


def bias_of(weight: str) -> str:
    """Name of the bias beside a layer's weight."""
    return weight.removesuffix("weight") + "bias"


def does_not_fit(path: Path, names: list[str], total: int, what: str) -> str:
    """The error for `names` of `total` layers or tensors of a LoRA file; what: what is wrong with them."""
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{path.name} does not fit this model: {len(names)} of {total} {what}: {listed}. Use a LoRA trained on this "
        "checkpoint's U-Net (the same Stable Diffusion family); text encoder layers cannot be applied to a MODEL."
    )
