"""Translates a diffusers AutoencoderKL config into the layout ComfyUI's own VAE is built from."""

from __future__ import annotations

from .errors import CheckpointError
from .latent_space import SCALING_FACTOR
from .unet_layout import HOST_GROUPS


def vae_layout(config: dict, name: str) -> dict | None:
    """The host's VAE config; None means the ordinary Stable Diffusion VAE, which the host knows.

    name: of the file, for the CheckpointError when the host cannot run this VAE.
    """
    channels = list(config["block_out_channels"])
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
    layers = config.get("layers_per_block", 2)
    if channels == [128, 256, 512, 512] and layers == 2:
        return None
    ddconfig = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": [c // channels[0] for c in channels],
        "num_res_blocks": layers,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"params": {"ddconfig": ddconfig, "embed_dim": config["latent_channels"]}}
