"""Translates a diffusers AutoencoderKL config into the layout ComfyUI's own VAE is built from."""

from __future__ import annotations

from .errors import CheckpointError
from .latent_space import LATENT_CHANNELS, SCALING_FACTOR
from .unet_layout import HOST_GROUPS

_REQUIRED = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "out_channels": (3,),
    "latent_channels": (LATENT_CHANNELS,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
"""What the host hard-codes, or DiGSeg: any other value would load and compute something else, so it is refused."""
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def vae_layout(config: dict, name: str) -> dict | None:
    """The host's VAE config; None means the ordinary Stable Diffusion VAE, which the host knows.

    name: of the file, for the CheckpointError when the host cannot run this VAE.
    """
    channels = list(config["block_out_channels"])
    _check(config, len(channels), name)
    if config.get("norm_num_groups", HOST_GROUPS) != HOST_GROUPS or len(channels) != 4:
        raise CheckpointError(
            f"{name} has a VAE with {config.get('norm_num_groups')} norm groups and {len(channels)} "
            f"levels; ComfyUI's has {HOST_GROUPS} and 4."
        )
    if abs(config.get("scaling_factor", SCALING_FACTOR) - SCALING_FACTOR) > 1e-6:
        raise CheckpointError(
            f"{name} has a VAE with scaling factor {config['scaling_factor']}; Stable Diffusion 1.x "
            f"and 2.x have {SCALING_FACTOR}, the only one supported."
        )
    usual = channels == [128, 256, 512, 512] and config.get("layers_per_block", 2) == 2
    return None if usual else {"params": vae_arguments(config)}


def vae_arguments(config: dict) -> dict:
    """Keyword arguments of the host's AutoencoderKL for a config that `vae_layout` takes."""
    channels = list(config["block_out_channels"])
    ddconfig = {
        "double_z": True,
        "z_channels": config.get("latent_channels", LATENT_CHANNELS),
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": [c // channels[0] for c in channels],
        "num_res_blocks": config.get("layers_per_block", 2),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"ddconfig": ddconfig, "embed_dim": config.get("latent_channels", LATENT_CHANNELS)}


def _check(config: dict, levels: int, name: str) -> None:
    """Raises CheckpointError for the first setting that is not the host's."""
    for key, allowed in _REQUIRED.items():
        if key in config and config[key] not in allowed:
            found = str(config[key])[:40]
            raise CheckpointError(f"{name} has a VAE with {key}={found}; ComfyUI's has {allowed[0]} built in.")
    for key, block in _BLOCKS.items():
        if key in config and list(config[key]) != [block] * levels:
            raise CheckpointError(f"{name} has a VAE with {key}={str(config[key])[:80]}; ComfyUI's has {levels} of {block}.")
