"""Fitting any image to the checkpoint's resolution and bringing masks back to the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .latent_space import PIXELS_PER_LATENT

PHOTO_SHAPES = ("own", "whole", "square")
"""How a photo that is not square becomes what the network sees, its longest side at the resolution. own: the short side
goes to the nearest multiple of `shape_step`. whole: to the photo's aspect, filled up to a multiple of PIXELS_PER_LATENT.
square: to the photo's aspect, filled up to a square."""
SMALLEST_SIDE = 64
"""Pixels; a shorter side is filled up to it, as far as the resolution allows."""


@dataclass(frozen=True)
class Geometry:
    """How an image was fitted: original size, size after resizing, size after padding, all (height, width) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def latent(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        return self.padded[0] // PIXELS_PER_LATENT, self.padded[1] // PIXELS_PER_LATENT


def shape_step(resolution: int) -> int:
    """Sides of photos in their own shape are multiples of this: a sixteenth of the resolution, a multiple of 8."""
    return max(1, resolution // (16 * PIXELS_PER_LATENT)) * PIXELS_PER_LATENT


def plan_geometry(height: int, width: int, resolution: int, shape: str = "whole") -> Geometry:
    """How a photo is seen: its longest side becomes `resolution` pixels, the other as `shape` of PHOTO_SHAPES says; both are
    filled up to a multiple of PIXELS_PER_LATENT, at least SMALLEST_SIDE."""
    scale = resolution / max(height, width)
    resized = [max(1, round(side * scale)) for side in (height, width)]
    full = _filled(resolution)
    smallest = min(SMALLEST_SIDE, full)
    if shape == "own":
        step = shape_step(resolution)
        resized = [side if side < smallest else min(resolution, max(smallest, round(side / step) * step)) for side in resized]
    padded = tuple(full if shape == "square" else max(smallest, _filled(side)) for side in resized)
    return Geometry((height, width), tuple(resized), padded)


def _filled(side: int) -> int:
    """The next multiple of PIXELS_PER_LATENT."""
    return -(-side // PIXELS_PER_LATENT) * PIXELS_PER_LATENT


def guide_geometry(seen: Geometry, guide: float) -> Geometry:
    """The size at which a photo guides the masks of the guided decoder: up to `guide` times what the U-Net saw of it, no
    larger than the photo itself unless the U-Net saw it larger.

    Latent pixels become whole multiples of PIXELS_PER_LATENT, so that the photo lies on the latent's grid to half a pixel.
    """
    scale = max(1.0, min(guide, max(seen.original) / max(seen.resized)))
    grid = tuple(int(cells * scale + 1e-6) for cells in seen.latent)
    resized = tuple(max(1, round(side * to / cells)) for side, to, cells in zip(seen.resized, grid, seen.latent, strict=True))
    return Geometry(seen.original, resized, (grid[0] * PIXELS_PER_LATENT, grid[1] * PIXELS_PER_LATENT))


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
