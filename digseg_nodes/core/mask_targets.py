"""How a model draws its masks, the checkpoint's `mask_target`: what is encoded in training, and how it is read again.

binary: white on black, the paper's 3.4. overlay: white painted onto the photo, as cocogold does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .masks import soft_mask

MASK_TARGETS = ("binary", "overlay")
OBSERVABLE = 0.05
"""Distance to white, in [0, 1], below which a pixel's white paint cannot be told from the photo."""


def shows_photo(mask_target: str) -> bool:
    """Whether what is drawn is painted on the photo, so that it cannot be drawn or read without it."""
    return mask_target == "overlay"


def drawn(masks: Tensor, pixels: Tensor, mask_target: str) -> Tensor:
    """What mask latents are encoded from, [K,3,H,W] in [-1,1]: three equal channels in black and white, or painted photos.

    masks: [K,H,W] in [0,1]. pixels: their photos [K,3,H,W] in [-1,1]; only where `shows_photo`.
    """
    weights = masks[:, None].float()  # [K,1,H,W]
    if shows_photo(mask_target):
        return torch.lerp(pixels, torch.ones_like(pixels), weights)
    return (weights * 2 - 1).expand(-1, 3, -1, -1)


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

    image: the photo at the same size, [N,3,H,W] in [0,1]; only where `shows_photo`.
    """
    return unblend(decoded, image) if shows_photo(mask_target) else soft_mask(decoded)
