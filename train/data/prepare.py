"""From a sample's own pixels to the tensors that are encoded."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from digseg_nodes.core.geometry import Geometry, fit, plan_geometry
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.pixels import from_bytes
from train.data.area import covered_share, soft_mask
from train.data.base import Sample


@dataclass(frozen=True)
class Prepared:
    """pixels [3,H,W] in [-1,1]; masks bool [K,H,W] of the present queries in their order; valid bool [H/8,W/8] or None
    when every label is known."""

    pixels: Tensor
    masks: Tensor
    valid: Tensor | None


def prepare(sample: Sample, resolution: int, shape: str = "own", like: tuple[int, int] | None = None) -> Prepared:
    """A sample as the network sees it, by the very plan the nodes follow: the longest side at `resolution`.

    shape: of geometry.PHOTO_SHAPES. What is filled up repeats the border in the image and counts as unlabelled. like: (height,
    width) of another photo to plan for, so that versions of an image come out as large as it.
    """
    height, width = sample.image.shape[:2]
    geometry = replace(plan_geometry(*(like or (height, width)), resolution, shape), original=(height, width))
    present = [query.mask for query in sample.queries if query.mask is not None]
    masks = np.stack(present) if present else np.zeros((0, height, width), bool)
    unknown = np.zeros((1, height, width), bool) if sample.ignore is None else sample.ignore[None]
    known = _filled_up(_shrunk(~unknown, covered_share, geometry) > 0, geometry)
    return Prepared(
        fit(from_bytes(sample.image)[None], geometry)[0] * 2 - 1,  # [H,W,3] uint8 -> [3,h,w] in [-1,1]
        _filled_up(_shrunk(masks, soft_mask, geometry) > 0.5, geometry),  # none that shows something turns empty
        _valid_latents(known),
    )


def _shrunk(flags: np.ndarray, change: Callable[[np.ndarray, tuple[int, int]], np.ndarray], geometry: Geometry) -> Tensor:
    """Flags bool [K,H,W] by `change` to float32 [K,*geometry.resized]."""
    shrunk = [torch.from_numpy(change(one, geometry.resized)) for one in flags]
    return torch.stack(shrunk) if shrunk else torch.zeros((0, *geometry.resized))


def _filled_up(flags: Tensor, geometry: Geometry) -> Tensor:
    """Flags bool [K,*geometry.resized] -> [K,*geometry.padded], unset where the photo was filled up."""
    bottom, right = (p - r for p, r in zip(geometry.padded, geometry.resized, strict=True))
    return F.pad(flags, (0, right, 0, bottom))


def _valid_latents(known: Tensor) -> Tensor | None:
    """A latent counts when any of its 8x8 pixels is labelled: [1,H,W] -> [H/8,W/8], None when all are."""
    if known.all():
        return None
    return F.max_pool2d(known.float(), PIXELS_PER_LATENT)[0] > 0.5


def mask_pixels(masks: Tensor) -> Tensor:
    """The paper's segmentation map (section 3.4): {0,1} to {-1,+1} in three equal channels. [K,H,W] -> [K,3,H,W]."""
    return (masks.float() * 2 - 1)[:, None].expand(-1, 3, -1, -1)
