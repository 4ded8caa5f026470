"""Training noise: annealed multi-scale Gaussian noise (paper section 3.6, "Noise Strategy")."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pyramid_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Resolutions below (height, width), each half of the one before, down to a side of one."""
    shapes = []
    while min(height, width) > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        shapes.append((height, width))
    return shapes


def multi_scale_noise(shape: tuple[int, ...], strength: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian noise plus `strength**i` times upsampled Gaussian noise of the i-th lower resolution.

    shape: (B, C, H, W); strength: [B] in [0, 1], one per sample. Every sample is divided by its own standard
    deviation, so samples of different strength keep the variance the schedule expects. Drawn on the CPU in float32.
    Paper section 3.6.
    """
    batch, channels, height, width = shape
    noise = torch.randn(shape, generator=generator)
    for level, lower in enumerate(pyramid_shapes(height, width), start=1):
        coarse = torch.randn((batch, channels, *lower), generator=generator)
        coarse = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        noise = noise + strength.pow(level).view(-1, 1, 1, 1) * coarse
    return noise / noise.std(dim=(1, 2, 3), keepdim=True, unbiased=False)


def annealed_strength(timesteps: Tensor, strength: float, train_timesteps: int) -> Tensor:
    """Strength of the low resolutions per timestep, `strength * t / T`: plain Gaussian noise at t = 0. [B] -> [B]."""
    return strength * timesteps.float() / train_timesteps
