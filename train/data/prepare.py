"""From a sample's own pixels to the tensors that are encoded."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from digseg_nodes.core.geometry import Geometry, fit, plan_geometry
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.pixels import from_bytes
from train.data.area import covered_share, soft_mask
from train.data.base import Query, Sample


@dataclass(frozen=True)
class Prepared:
    """pixels [3,H,W] in [-1,1]; soft float32 [K,H,W] in [0,1], the masks of the present queries as they are taught, in order;
    valid bool [H/8,W/8] or None when every label is known."""

    pixels: Tensor
    soft: Tensor
    valid: Tensor | None

    @property
    def masks(self) -> Tensor:
        """The masks as bool [K,H,W]; none that shows something is empty."""
        return self.soft > 0.5


def prepare(sample: Sample, resolution: int, shape: str = "own", like: tuple[int, int] | None = None) -> Prepared:
    """A sample as the network sees it, by the very plan the nodes follow: the longest side at `resolution`.

    Masks are averaged by area (see train.data.area). shape: of geometry.PHOTO_SHAPES. What is filled up repeats the border in the
    image and counts as unlabelled. like: (height, width) of another photo to plan for, so that versions of an image come out as
    large as it.
    """
    height, width = sample.image.shape[:2]
    geometry = replace(plan_geometry(*(like or (height, width)), resolution, shape), original=(height, width))
    soft = [_taught(query, geometry.resized) for query in sample.queries if query.mask is not None]
    masks = torch.from_numpy(np.stack(soft)) if soft else torch.zeros((0, *geometry.resized))
    return Prepared(
        fit(from_bytes(sample.image)[None], geometry)[0] * 2 - 1,  # [H,W,3] uint8 -> [3,h,w] in [-1,1]
        filled_up(masks, geometry),
        _valid_latents(filled_up(_known(sample, geometry), geometry)),
    )


def _taught(query: Query, size: tuple[int, int]) -> np.ndarray:
    """The mask of a present query at `size`, float32 [*size] in [0,1]; soft labels keep their levels where some pixel is above
    one half."""
    if query.soft is None:
        return soft_mask(query.mask, size)
    share = covered_share(query.soft, size)
    return share if share.max() > 0.5 else soft_mask(query.soft, size)


def _known(sample: Sample, geometry: Geometry) -> Tensor:
    """Pixels any part of which is labelled, bool [1,*geometry.resized]."""
    if sample.ignore is None:
        return torch.ones((1, *geometry.resized), dtype=torch.bool)
    return torch.from_numpy(covered_share(~sample.ignore, geometry.resized) > 0)[None]


def filled_up(values: Tensor, geometry: Geometry) -> Tensor:
    """[K,*geometry.resized] -> [K,*geometry.padded], zero where the photo was filled up."""
    bottom, right = (p - r for p, r in zip(geometry.padded, geometry.resized, strict=True))
    return F.pad(values, (0, right, 0, bottom))


def _valid_latents(known: Tensor) -> Tensor | None:
    """A latent counts when any of its 8x8 pixels is labelled: [1,H,W] -> [H/8,W/8], None when all are."""
    if known.all():
        return None
    return F.max_pool2d(known.float(), PIXELS_PER_LATENT)[0] > 0.5
