"""The latent space of Stable Diffusion 1.x and 2.x and the length of their prompts: the numbers that no file says."""

from __future__ import annotations

PIXELS_PER_LATENT = 8
"""Pixels along one side of a latent: every side that enters the VAE is a multiple of it."""
LATENT_CHANNELS = 4
SCALING_FACTOR = 0.18215
"""What the VAE's posterior mean is multiplied with before the U-Net sees it."""
PROMPT_TOKENS = 77
"""Tokens of an encoded prompt, start and end included."""


def unet_input_channels(latent_channels: int = LATENT_CHANNELS) -> int:
    """Channels of a DiGSeg U-Net's input, [image latent, noisy mask latent], by the channels of one latent."""
    return 2 * latent_channels


SEGMENTER_CHANNELS = unet_input_channels()
"""Input channels of a DiGSeg U-Net of Stable Diffusion's kind."""


def segments(unet: dict) -> bool:
    """Whether a U-Net's diffusers config has the input of a DiGSeg model; its output is one latent."""
    channels = unet.get("out_channels", LATENT_CHANNELS)
    return unet.get("in_channels", channels) == unet_input_channels(channels)
