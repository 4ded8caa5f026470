"""The loss on masks: binary cross-entropy and Dice, unlabelled pixels left out."""

import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 1.0
"""Pixels added to both sides of Dice, so that an empty truth asks for an empty mask."""


def mask_loss(logits: Tensor, truth: Tensor, known: Tensor | None = None, focal: float = 0.0) -> Tensor:
    """Mean cross-entropy of the known pixels plus the mean over masks of 1 - Dice: scalar.

    logits [M,H,W]; truth [M,H,W] in {0,1}; known [M,H,W], 1 where the label is known, or None when all are. Computed in float32.
    focal: exponent of the focal loss (Lin et al. 2017): a pixel that gets the truth a share p counts (1 - p)^focal; 0 is plain.
    """
    logits, truth = logits.float(), truth.float()
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if focal:
        cross = cross * (1 - (-cross).exp()).clamp(min=1e-6) ** focal
    soft = logits.sigmoid()
    if known is None:
        return cross.mean() + dice_loss(soft, truth)
    known = known.float()
    return (cross * known).sum() / known.sum().clamp(min=1) + dice_loss(soft * known, truth * known)


def dice_loss(soft: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice of soft masks [M,H,W] in [0,1] against {0,1}, each mask counting the same: scalar."""
    both, either = (soft * truth).sum((1, 2)), soft.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * both + SMOOTHING) / (either + SMOOTHING)).mean()
