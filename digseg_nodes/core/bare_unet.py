"""What an 8-channel U-Net file without DiGSeg metadata can be opened as, from its tensor names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import CheckpointError
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

_PREDICTIONS = {"eps": "epsilon", "noise": "epsilon", "v": "v_prediction"}
"""How files begin the name of a prediction type."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of the names of a network."""
_LDM_CONV, _LDM_TEXT = "input_blocks.0.0.weight", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_CONV, _TEXT = "conv_in.weight", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def unet_prefix(shapes: Shapes) -> tuple[str, bool] | None:
    """(key prefix, whether names are LDM's) of the U-Net in a file; None when there is none."""
    for prefix, conv, ldm in (
        (LDM_PREFIX["unet"], _LDM_CONV, True),
        ("", _LDM_CONV, True),
        ("unet.", _CONV, False),
        ("", _CONV, False),
        *((f"{outer}unet.{inner}", _CONV, False) for outer in ("", *WRAPPERS) for inner in ("", *WRAPPERS)),
        *((outer, _CONV, False) for outer in WRAPPERS),
    ):
        if len(shapes.get(prefix + conv, ())) == 4:
            return prefix, ldm
    return None


def unwrapped(name: str) -> str:
    """A tensor's name without what DistributedDataParallel and torch.compile put in front of it."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


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


def bare_scheduler(text_width: int, metadata: dict[str, str], names: Iterable[str] = ()) -> dict:
    """Stable Diffusion's noise schedule, with what the file says about itself.

    The prediction type is that of `modelspec.prediction_type`, of `modelspec.predict_key` or of a tensor named v_pred (both as
    ComfyUI's save nodes write them), else that of the base family; a tensor named ztsnr says zero terminal SNR. names: the
    file's tensors. Raises CheckpointError for a type that is neither epsilon nor v.
    """
    said = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key")
    names = set(names)
    if not said:
        said = "v" if "v_pred" in names or text_width == 1024 else "epsilon"
    kind = next((kind for word, kind in _PREDICTIONS.items() if said.strip().lower().startswith(word)), None)
    if kind is None:
        raise CheckpointError(
            f"The file says that its U-Net predicts {said!r}; only epsilon and v can be sampled here. Convert it, or use another."
        )
    zero = {"rescale_betas_zero_snr": True} if "ztsnr" in names and kind == "v_prediction" else {}
    return {**STABLE_DIFFUSION, "prediction_type": kind, **zero}
