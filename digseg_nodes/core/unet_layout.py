"""Translates a diffusers UNet2DConditionModel config into the layout ComfyUI's own UNetModel is built from."""

from __future__ import annotations

from fractions import Fraction

HOST_GROUPS = 32
"""GroupNorm groups, fixed in the host's U-Net and VAE."""

_REQUIRED = {
    "act_fn": ("silu",),
    "norm_num_groups": (HOST_GROUPS,),
    "norm_eps": (1e-5,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "center_input_sample": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "time_cond_proj_dim": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "projection_class_embeddings_input_dim": (None,),
    "class_embeddings_concat": (False,),
    "attention_type": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "num_attention_heads": (None,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
}
"""What the host hard-codes: any other value would load and compute something else, so it is refused."""


class UnsupportedUNet(ValueError):  # noqa: N818 (reads as what it is)
    """A U-Net config the host's UNetModel cannot represent."""


class _Multiple(Fraction):
    """An entry of channel_mult such as 3/2: the host multiplies it with model_channels and needs a whole number."""

    def __mul__(self, channels: int) -> int:
        return int(Fraction(self.numerator, self.denominator) * channels)

    __rmul__ = __mul__


def _per_level(value, levels: int) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value] * levels


def _same(config: dict, key: str, levels: int, default=None):
    values = _per_level(config.get(key, default), levels)
    if len({str(v) for v in values}) != 1:
        raise UnsupportedUNet(f"{key}={values}: it must be the same at every level.")
    return values[0]


def _check(config: dict) -> None:
    for key, allowed in _REQUIRED.items():
        if key in config and config[key] not in allowed:
            raise UnsupportedUNet(f"{key}={config[key]!r}; ComfyUI's U-Net has {allowed[0]!r} built in.")
    channels = config["block_out_channels"]
    if any(c % HOST_GROUPS for c in channels):
        raise UnsupportedUNet(f"block_out_channels={list(channels)}: all must be multiples of {HOST_GROUPS}.")
    if any(_per_level(config.get("only_cross_attention", False), len(channels))):
        raise UnsupportedUNet("only_cross_attention=True is not supported.")


def _transformer_depths(config: dict, levels: int, layers: int) -> tuple[list[int], list[int]]:
    """Transformer blocks per residual block, down path and up path, level 0 first."""
    depth = _per_level(config.get("transformer_layers_per_block", 1), levels)
    down, up = [], []
    for i, (d, u) in enumerate(zip(config["down_block_types"], reversed(config["up_block_types"]), strict=True)):
        for block in (d, u):
            if block not in ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"):
                raise UnsupportedUNet(f"Block type {block} at level {i} is not supported.")
        down += [depth[i] if d.startswith("Cross") else 0] * layers
        up += [depth[i] if u.startswith("Cross") else 0] * (layers + 1)
    return down, up


def head_counts(config: dict) -> list[int]:
    """Attention heads per level. (diffusers calls the number of heads `attention_head_dim`.)"""
    channels = config["block_out_channels"]
    heads = _per_level(config.get("attention_head_dim", 8), len(channels))
    if any(c % h for c, h in zip(channels, heads, strict=True)):
        raise UnsupportedUNet(f"attention_head_dim={heads} does not divide block_out_channels={list(channels)}.")
    return heads


def _head_layout(config: dict) -> tuple[dict, bool]:
    """Host head settings, and whether the heads must be set block by block after construction."""
    heads = head_counts(config)
    widths = {c // h for c, h in zip(config["block_out_channels"], heads, strict=True)}
    if len(set(heads)) == 1:
        return {"num_heads": heads[0], "num_head_channels": -1}, False
    if len(widths) == 1:
        return {"num_heads": -1, "num_head_channels": widths.pop()}, False
    return {"num_heads": heads[0], "num_head_channels": -1}, True


def host_layout(config: dict) -> tuple[dict, bool]:
    """Keyword arguments of the host's UNetModel for a diffusers config, and whether heads differ in count and width.

    Raises UnsupportedUNet, naming the setting, for anything the host would compute differently.
    """
    _check(config)
    channels = list(config["block_out_channels"])
    levels = len(channels)
    layers = _same(config, "layers_per_block", levels, 2)
    down, up = _transformer_depths(config, levels, layers)
    heads, uneven = _head_layout(config)
    depth = _per_level(config.get("transformer_layers_per_block", 1), levels)
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [_Multiple(c, channels[0]) for c in channels],
        "num_res_blocks": [layers] * levels,
        "transformer_depth": down,
        "transformer_depth_output": up,
        "transformer_depth_middle": depth[-1],
        "context_dim": _same(config, "cross_attention_dim", levels),
        "use_linear_in_transformer": bool(config.get("use_linear_projection", False)),
        "use_spatial_transformer": True,
        "legacy": False,
        "use_checkpoint": False,
        "adm_in_channels": None,
        "num_classes": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        **heads,
    }, uneven
