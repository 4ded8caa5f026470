"""What an 8-channel U-Net file without DiGSeg metadata can be opened as, from its tensor names and shapes alone."""

from __future__ import annotations

from .latent_space import LATENT_CHANNELS, SEGMENTER_CHANNELS
from .ldm_names import LDM_PREFIX
from .schedule import STABLE_DIFFUSION

Shapes = dict[str, tuple[int, ...]]

_COMMON = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": SEGMENTER_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
STABLE_DIFFUSION_UNETS = {
    768: {**_COMMON, "cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False},
    1024: {**_COMMON, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}
"""The U-Net configs of Stable Diffusion 1.x and 2.x with eight input channels, by the width of their text."""

_LDM_CONV, _LDM_TEXT = "input_blocks.0.0.weight", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_CONV, _TEXT = "conv_in.weight", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def unet_prefix(shapes: Shapes) -> tuple[str, bool] | None:
    """(key prefix, whether names are LDM's) of the U-Net in a file; None when there is none."""
    for prefix, conv, ldm in (
        (LDM_PREFIX["unet"], _LDM_CONV, True),
        ("", _LDM_CONV, True),
        ("unet.", _CONV, False),
        ("", _CONV, False),
    ):
        if len(shapes.get(prefix + conv, ())) == 4:
            return prefix, ldm
    return None


def input_channels(shapes: Shapes) -> int | None:
    """Input channels of the U-Net in a file; None when there is none."""
    found = unet_prefix(shapes)
    return found and shapes[found[0] + (_LDM_CONV if found[1] else _CONV)][1]


def bare_unet_config(shapes: Shapes) -> dict | None:
    """The diffusers config of an 8-channel U-Net of Stable Diffusion 1.x or 2.x; None for any other."""
    found = unet_prefix(shapes)
    if found is None or input_channels(shapes) != SEGMENTER_CHANNELS:
        return None
    prefix, ldm = found
    if f"{prefix}label_emb.0.0.weight" in shapes or "label_emb.0.0.weight" in shapes:
        return None
    text = shapes.get(prefix + (_LDM_TEXT if ldm else _TEXT), (0, 0))
    first = shapes[prefix + (_LDM_CONV if ldm else _CONV)][0]
    return STABLE_DIFFUSION_UNETS.get(text[-1]) if first == _COMMON["block_out_channels"][0] else None


def bare_scheduler(text_width: int, metadata: dict[str, str]) -> dict:
    """Stable Diffusion's noise schedule; prediction type from `modelspec.prediction_type`, else that of the base family."""
    said = metadata.get("modelspec.prediction_type", "v" if text_width == 1024 else "epsilon")
    return {**STABLE_DIFFUSION, "prediction_type": "v_prediction" if said.startswith("v") else "epsilon"}
