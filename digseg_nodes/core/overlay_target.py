"""Masks from models that paint the mask white onto the photo (`mask_target: overlay`, cocogold) instead of on black."""

from __future__ import annotations

from torch import Tensor

from .masks import soft_mask

OBSERVABLE = 0.05
"""Distance to white, in [0, 1], below which a pixel's white paint cannot be told from the photo."""


def unblend(decoded: Tensor, image: Tensor) -> Tensor:
    """How opaquely white was painted onto the photo: [N,3,H,W] → soft masks [N,H,W] in [0,1].

    decoded: D(z_s) in [-1,1]. image: the same photo as the network saw it, [N,3,H,W] in [0,1]. With
    prediction = (1 - m) image + m white, m is the least-squares solution over the channels, so that a channel counts by
    its distance to white: a blue sky is read from its red. Towards white photo pixels, where nothing is observable, m
    falls to 0. (Thresholding whiteness, as is usual, selects bright skies.)
    """
    prediction = (decoded.float() * 0.5 + 0.5).clamp(0.0, 1.0)
    distance = 1.0 - image.float()  # [N,3,H,W], white - image
    painted = ((prediction - image.float()) * distance).sum(1)
    return (painted / distance.square().sum(1).clamp(min=image.shape[1] * OBSERVABLE**2)).clamp(0.0, 1.0)


def masks_from_pixels(decoded: Tensor, image: Tensor, mask_target: str) -> Tensor:
    """Soft masks [N,H,W] from decoded pixels [N,3,H,W] in [-1,1], drawn as the checkpoint's mask_target says.

    image: the photo at the same size, [N,3,H,W] in [0,1]; only `overlay` looks at it.
    """
    return unblend(decoded, image) if mask_target == "overlay" else soft_mask(decoded)
