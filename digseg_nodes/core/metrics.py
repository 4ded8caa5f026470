"""How well a hard mask matches the truth: IoU, Dice, precision, recall and the boundary F-score."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d
from torch import Tensor

from .masks import outline


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 1 where both are empty."""
    return torch.where(whole > 0, part / whole.clamp(min=1), torch.ones_like(part))


def _sums(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"The masks differ in shape: {tuple(prediction.shape)} and {tuple(truth.shape)}. Compare masks of the same image."
        )
    p, t = prediction.double(), truth.double()
    return (p * t).sum((-2, -1)), p.sum((-2, -1)), t.sum((-2, -1))


def iou(prediction: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union in [0,1] of hard masks [...,H,W] → [...]; both empty counts 1."""
    both, p, t = _sums(prediction, truth)
    return _ratio(both, p + t - both)


def dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice = F1 over pixels in [0,1] of hard masks [...,H,W] → [...]; both empty counts 1."""
    both, p, t = _sums(prediction, truth)
    return _ratio(2 * both, p + t)


def precision(prediction: Tensor, truth: Tensor) -> Tensor:
    """Share of predicted pixels that are true, [...,H,W] → [...] in [0,1]; nothing predicted counts 1."""
    both, p, _ = _sums(prediction, truth)
    return _ratio(both, p)


def recall(prediction: Tensor, truth: Tensor) -> Tensor:
    """Share of true pixels that are predicted, [...,H,W] → [...] in [0,1]; nothing true counts 1."""
    both, _, t = _sums(prediction, truth)
    return _ratio(both, t)


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """Everything within `radius` pixels, in a square, of hard masks [N,H,W]; takes as long for any radius."""
    wide = mask.bool().cpu().numpy().astype(np.uint8)
    for axis in (1, 2):
        wide = maximum_filter1d(wide, 2 * radius + 1, axis, mode="constant")
    return torch.from_numpy(wide).to(mask)


def boundary_f(prediction: Tensor, truth: Tensor, tolerance: int = 2) -> Tensor:
    """F-score of the contours within `tolerance` pixels (Csurka et al. 2013), hard masks [N,H,W] → [N] in [0,1]."""
    _sums(prediction, truth)
    p, t = (outline(m.float()) for m in (prediction, truth))
    hit_p, hit_t = (p * _dilate(t, tolerance)).sum((-2, -1)), (t * _dilate(p, tolerance)).sum((-2, -1))
    prec, rec = _ratio(hit_p, p.sum((-2, -1))), _ratio(hit_t, t.sum((-2, -1)))
    return 2 * prec * rec / (prec + rec).clamp(min=1e-9)
