"""LoRA files of every common format under kohya's names, which the host maps completely."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, tensor

from .errors import CheckpointError
from .untrusted import parse_json, read_json

_PREFIXES = ("unet.base_model.model.", "base_model.model.unet.", "base_model.model.", "unet.")
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
_SUFFIXES = {
    ".lora_A.default.weight": _DOWN,
    ".lora_A.weight": _DOWN,
    ".lora.down.weight": _DOWN,
    "_lora.down.weight": _DOWN,
    ".lora_linear_layer.down.weight": _DOWN,
    _DOWN: _DOWN,
    ".lora_B.default.weight": _UP,
    ".lora_B.weight": _UP,
    ".lora.up.weight": _UP,
    "_lora.up.weight": _UP,
    ".lora_linear_layer.up.weight": _UP,
    _UP: _UP,
    ".dora_scale": ".dora_scale",
    ".alpha": ".alpha",
    ".lora_mid.weight": ".lora_mid.weight",
    ".diff": ".diff",
    ".diff_b": ".diff_b",
    **{
        f".{name}": f".{name}"
        for name in (
            "hada_w1_a",
            "hada_w1_b",
            "hada_w2_a",
            "hada_w2_b",
            "hada_t1",
            "hada_t2",
            "lokr_w1",
            "lokr_w1_a",
            "lokr_w1_b",
            "lokr_w2",
            "lokr_w2_a",
            "lokr_w2_b",
            "lokr_t2",
            "reshape_weight",
            "w_norm",
            "b_norm",
            "set_weight",
            "oft_blocks",
            "rescale",
        )
    },
}
"""What stands behind a layer's name, by format (peft, diffusers, old attention processors, kohya and LyCORIS) → kohya's."""


def split_name(key: str) -> tuple[str, str] | None:
    """(layer, kohya suffix) of a LoRA tensor's name; None when its end is unknown."""
    for suffix, kohya in _SUFFIXES.items():
        if key.endswith(suffix):
            return key[: -len(suffix)], kohya
    return None


def kohya_layer(layer: str) -> str:
    """A layer's name as kohya writes it: `unet.mid_block.….to_q` → `lora_unet_mid_block_…_to_q`; kohya's stay."""
    if layer.startswith(("lora_unet_", "lora_te", "lycoris_", "diffusion_model.", "text_encoder.")):
        return layer
    for prefix in _PREFIXES:
        layer = layer.removeprefix(prefix)
    layer = layer.replace(".processor.", ".")
    layer = re.sub(r"\.to_out$", ".to_out.0", layer)
    return "lora_unet_" + layer.replace(".", "_")


def adapter_settings(path: Path) -> dict | None:
    """The LoraConfig that peft writes beside its adapter_model.safetensors; None for other files."""
    settings = path.with_name("adapter_config.json")
    return read_json(settings) if path.name == "adapter_model.safetensors" and settings.is_file() else None


def to_kohya(
    lora: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    peft_config: dict | None = None,
) -> dict[str, Tensor]:
    """A LoRA's tensors under kohya's names, with `.alpha` where its strength is not 1.

    metadata: the file's, where diffusers keeps lora_alpha. peft_config: the adapter_config.json beside a peft file.
    Raises CheckpointError naming the tensors whose kind is unknown, and for peft's DoRA, whose norm the host takes of
    the weights without the LoRA.
    """
    dora = [key for key in lora if ".lora_magnitude_vector" in key]
    if dora:
        raise CheckpointError(
            f"it is a peft DoRA ({len(dora)} magnitudes, for example {dora[0]}), which ComfyUI computes "
            "differently. Train a plain LoRA, or merge it into the checkpoint."
        )
    unknown = [key for key in lora if split_name(key) is None]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(lora)} tensors are of no known LoRA format, for example {', '.join(sorted(unknown)[:5])}."
        )
    renamed, stored = {}, {}
    for key, value in lora.items():
        layer, suffix = split_name(key)
        name = kohya_layer(layer) + suffix
        if name in renamed:
            raise CheckpointError(f"{stored[name]} and {key} are the same tensor under two names. Keep one of them.")
        _check_tensor(key, suffix, value)
        renamed[name], stored[name] = value, key
    settings = peft_config or _unet_settings(metadata or {})
    return {**renamed, **_alphas(renamed, settings)}


def _check_tensor(key: str, suffix: str, value: Tensor) -> None:
    """CheckpointError for a strength that is no number, and for matrices that are none."""
    if suffix == ".alpha" and (value.numel() != 1 or value.is_complex() or not math.isfinite(value.item())):
        raise CheckpointError(f"{key} is {_found(value)}; one number is expected. Export it again.")
    if suffix in (_DOWN, _UP) and (value.ndim < 2 or not value.numel()):
        raise CheckpointError(f"{key} is {list(value.shape)}; a matrix of rank 1 or more is expected. Export it again.")


def _found(value: Tensor) -> str:
    """A tensor that should be one number: its shape, or the number."""
    return f"of shape {list(value.shape)}" if value.numel() != 1 else str(value.item())


def _unet_settings(metadata: dict[str, str]) -> dict:
    """The U-Net's LoraConfig out of diffusers' `lora_adapter_metadata`."""
    try:
        found = parse_json(metadata.get("lora_adapter_metadata") or "{}")
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}")
    except ValueError as error:
        raise CheckpointError(f"its lora_adapter_metadata, which holds its strength, cannot be read ({error}).") from error
    return {key.removeprefix("unet."): value for key, value in found.items() if key.startswith("unet.")}


def _alphas(lora: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    """`.alpha` per layer for a peft LoraConfig; the host's strength of a layer is alpha / rank."""
    patterns, default = _strengths(settings)
    alphas = {}
    for key, value in lora.items():
        layer = key.removesuffix(_DOWN)
        if not key.endswith(_DOWN) or f"{layer}.alpha" in lora:
            continue
        alpha = _by_pattern(patterns, layer, default)
        if alpha is not None:
            rank = value.shape[0]
            alphas[f"{layer}.alpha"] = tensor(float(alpha) * (rank**0.5 if settings.get("use_rslora") else 1.0))
    return alphas


def _strengths(settings: dict) -> tuple[dict[str, float], float | None]:
    """alpha_pattern and lora_alpha of a peft LoraConfig; CheckpointError where they are no numbers."""
    patterns, default = settings.get("alpha_pattern") or {}, settings.get("lora_alpha")
    if not isinstance(patterns, dict):
        raise CheckpointError(f"its alpha_pattern is {str(patterns)[:40]!r}; a table of numbers is expected. Export it again.")
    for name, value in [("lora_alpha", default), *patterns.items()]:
        if value is not None and not _is_number(value):
            place = name if name == "lora_alpha" else f"alpha_pattern of {name[:60]!r}"
            raise CheckpointError(f"its {place} is {str(value)[:40]!r}; a number is expected. Export it again.")
    return patterns, default


def _is_number(value: object) -> bool:
    """Whether a value out of JSON is a number that a float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _by_pattern(patterns: dict, layer: str, default: float | None) -> float | None:
    """peft's rule: a pattern names the end of a layer."""
    for pattern, value in patterns.items():
        if re.search(rf"(^|_){re.escape(pattern).replace(chr(92) + '.', '_')}$", layer):
            return value
    return default


def layers_of(lora: Iterable[str]) -> dict[str, list[str]]:
    """Layer → its tensors' names, of a LoRA under kohya's names."""
    layers: dict[str, list[str]] = {}
    for key in lora:
        layers.setdefault(split_name(key)[0], []).append(key)
    return layers
