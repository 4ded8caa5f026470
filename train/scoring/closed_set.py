"""Scores of a closed label set: every class asked for, each pixel given to the best one (paper section 3.1)."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from digseg_nodes.core.masks import semantic_map
from train.data.base import Sample

UNKNOWN = -1


class ClosedScores:
    """Confusion of the classes `names` (1..K) and the background (0) over pixels of known label."""

    def __init__(self, names: list[str]):
        self.names = names
        self.confusion = torch.zeros((len(names) + 1,) * 2, dtype=torch.int64)  # [truth, predicted]

    def add(self, sample: Sample, soft: Tensor, threshold: float) -> None:
        """Count one image; soft [K,H,W] in [0,1] in the order of the names."""
        truth = torch.from_numpy(label_map(sample, self.names))
        found = semantic_map(soft[None], torch.full((len(self.names),), threshold))[0]
        self.confusion += multiclass_confusion_matrix(found, truth, len(self.names) + 1, ignore_index=UNKNOWN)

    def summary(self) -> dict:
        """mIoU over the classes that occur (background left out), pixel accuracy over everything labelled."""
        return summarise_confusion(self.confusion, self.names)


def label_map(sample: Sample, names: list[str]) -> np.ndarray:
    """Class numbers int64 [H,W]: 0 background, k for the k-th name, -1 where the label is unknown; later classes win."""
    labels = np.zeros(sample.image.shape[:2], np.int64)
    for query in sample.queries:
        if query.mask is not None and query.name in names:
            labels[query.mask] = names.index(query.name) + 1
    if sample.ignore is not None:
        labels[sample.ignore] = UNKNOWN
    return labels


def summarise_confusion(confusion: Tensor, names: list[str]) -> dict:
    """Scores from a confusion matrix [K+1,K+1] of (truth, predicted) pixels."""
    right, truth = confusion.diagonal().double(), confusion.sum(1).double()
    union = truth + confusion.sum(0) - right
    ious = {name: float(right[k] / union[k]) for k, name in enumerate(names, start=1) if truth[k] > 0}
    return {
        "miou": round(float(np.mean(list(ious.values()))), 4) if ious else None,
        "pixel_accuracy": round(float(right.sum() / truth.sum().clamp(min=1)), 4),
        "classes": {name: round(value, 4) for name, value in ious.items()},
    }
