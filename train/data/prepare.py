"""From a sample's own pixels to the square tensors that are encoded."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from digseg_nodes.core.geometry import Geometry, fit, plan_geometry
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.pixels import from_bytes
from train.data.base import Sample


@dataclass(frozen=True)
class Prepared:
    """pixels [3,R,R] in [-1,1]; masks bool [K,R,R] of the present queries in their order; valid bool [R/8,R/8] or None
    when every label is known."""

    pixels: Tensor
    masks: Tensor
    valid: Tensor | None


def prepare(sample: Sample, resolution: int) -> Prepared:
    """Fit a sample into a square of `resolution` pixels as the nodes do: longest side scaled, the rest padded.

    Padding repeats the border in the image and counts as unlabelled. Masks are resized by nearest neighbour.
    """
    height, width = sample.image.shape[:2]
    geometry = plan_geometry(height, width, resolution)
    present = [query.mask for query in sample.queries if query.mask is not None]
    masks = np.stack(present) if present else np.zeros((0, height, width), bool)
    known = _fit_flags(
        ~sample.ignore[None] if sample.ignore is not None else np.ones((1, height, width), bool), geometry, resolution
    )
    return Prepared(
        _fit_image(sample.image, geometry, resolution), _fit_flags(masks, geometry, resolution), _valid_latents(known)
    )


def _fit_image(image: np.ndarray, geometry: Geometry, resolution: int) -> Tensor:
    pixels = fit(from_bytes(image)[None], geometry)[0]  # [H,W,3] uint8 -> [3,h,w] in [0,1]
    return _pad(pixels[None], resolution, "replicate")[0] * 2 - 1


def _fit_flags(flags: np.ndarray, geometry: Geometry, resolution: int) -> Tensor:
    tensor = torch.from_numpy(flags)[:, None].float()  # [K,H,W] -> [K,1,H,W]
    if flags.shape[0] and tuple(flags.shape[1:]) != geometry.resized:
        tensor = F.interpolate(tensor, size=geometry.resized, mode="nearest-exact")
    if not flags.shape[0]:
        tensor = torch.zeros((0, 1, *geometry.resized))
    return _pad(tensor, resolution, "constant")[:, 0] > 0.5


def _pad(tensor: Tensor, resolution: int, mode: str) -> Tensor:
    right, bottom = resolution - tensor.shape[-1], resolution - tensor.shape[-2]
    return F.pad(tensor, (0, right, 0, bottom), mode=mode) if right or bottom else tensor


def _valid_latents(known: Tensor) -> Tensor | None:
    """A latent counts when any of its 8x8 pixels is labelled: [1,R,R] -> [R/8,R/8], None when all are."""
    if known.all():
        return None
    return F.max_pool2d(known.float(), PIXELS_PER_LATENT)[0] > 0.5


def mask_pixels(masks: Tensor) -> Tensor:
    """The paper's segmentation map (section 3.4): {0,1} to {-1,+1} in three equal channels. [K,R,R] -> [K,3,R,R]."""
    return (masks.float() * 2 - 1)[:, None].expand(-1, 3, -1, -1)
