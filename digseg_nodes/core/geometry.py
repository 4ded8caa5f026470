"""Fitting any image to the checkpoint's resolution and bringing masks back to the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .latent_space import PIXELS_PER_LATENT


@dataclass(frozen=True)
class Geometry:
    """How an image was fitted: original size, size after resizing, size after padding, all (height, width) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


def plan_geometry(height: int, width: int, resolution: int) -> Geometry:
    """Aspect kept, the longest side becomes `resolution` pixels; short sides are padded to a multiple of
    PIXELS_PER_LATENT, at least 64."""
    scale = resolution / max(height, width)
    resized = (max(1, round(height * scale)), max(1, round(width * scale)))
    smallest = min(64, -(-resolution // PIXELS_PER_LATENT) * PIXELS_PER_LATENT)
    padded = tuple(max(smallest, -(-side // PIXELS_PER_LATENT) * PIXELS_PER_LATENT) for side in resized)
    return Geometry((height, width), resized, padded)


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with anti-aliasing, pixel centres aligned: [N,C,H,W] → [N,C,*size]."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)


def fit(image: Tensor, geometry: Geometry) -> Tensor:
    """An image [B,H,W,C] in [0,1] as the network sees it: [B,3,*geometry.padded]. Alpha is dropped, grey repeated."""
    pixels = image[..., :3].movedim(-1, 1).float()  # [B,H,W,C] → [B,C,H,W]
    pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    pixels = resize(pixels, geometry.resized).clamp(0.0, 1.0)
    bottom, right = (p - r for p, r in zip(geometry.padded, geometry.resized, strict=True))
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate")


def unfit(masks: Tensor, geometry: Geometry) -> Tensor:
    """Masks [N,*geometry.padded] back on the original pixels: [N,*geometry.original]."""
    height, width = geometry.resized
    return resize(masks[:, None, :height, :width], geometry.original).squeeze(1).clamp(0.0, 1.0)
