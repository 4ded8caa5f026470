"""What of a LoRA does not fit a network is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from digseg_nodes.core.errors import CheckpointError
from digseg_nodes.core.lora_fit import check_not_empty, does_not_fit, faults
from digseg_nodes.core.lora_names import to_kohya
from tests.bad_loras import BAD_NAMES, FIT, UNFIT, layer_of

SHAPES = {"linear": (24, 6), "conv": (24, 6, 3, 3), "norm": (24,)}


def found(kind: str, parts: dict) -> dict[str, str]:
    """The faults of one layer of a kind."""
    bias = {"lora_unet_a": (24,)} if kind != "linear" else {}
    return faults(layer_of("lora_unet_a", parts, SHAPES[kind]), {"lora_unet_a": SHAPES[kind]}, bias)


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in FIT], ids=[row[0] for row in FIT])
def test_what_changes_a_layer(kind, parts):
    assert found(kind, parts) == {}


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_what_changes_none_is_named_with_its_shapes(kind, parts):
    words = found(kind, parts)["lora_unet_a"]
    assert f"on a weight of {list(SHAPES[kind])}" in words and all(name in words for name in parts)


@pytest.mark.parametrize(("tensors", "settings", "words"), [row[1:] for row in BAD_NAMES], ids=[row[0] for row in BAD_NAMES])
def test_strengths_that_are_no_numbers(tensors, settings, words):
    with pytest.raises(CheckpointError, match=words) as refused:
        to_kohya(tensors, peft_config=settings)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_a_file_without_tensors():
    with pytest.raises(CheckpointError, match=r"a\.safetensors is no LoRA: it holds no tensors"):
        check_not_empty({}, None, "a.safetensors")
    check_not_empty({}, "a mask decoder", "a.safetensors")


def test_a_long_list_is_cut():
    words = does_not_fit(Path("x.safetensors"), [f"layer{i}" for i in range(11)], 20, "have another shape")
    assert "x.safetensors" in words and "11 of 20 have another shape" in words
    assert "layer7 and 3 more" in words and "layer8" not in words
