"""Scores of predicted masks: one record per (image, query), and the summary of many."""

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from train.data.base import ABSENT_GROUPS, Query

LIT = 0.01
"""An absent prompt counts as fired when more than this share of the pixels lights up."""
SWEEP = 20
"""Thresholds of the sweep: multiples of 1 / SWEEP."""


@dataclass(frozen=True)
class Record:
    """How one query of one image was answered; counts are pixels of known label.

    sweep: for k = 0..SWEEP the pixels with ceil(SWEEP * soft) == k, first those inside the truth, then those outside.
    """

    image: int
    name: str
    prompt: str
    group: str
    intersection: int
    union: int
    coverage: float
    sweep: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def iou(self) -> float:
        """Intersection over union; both empty counts 1."""
        return self.intersection / self.union if self.union else 1.0


def score(image: int, query: Query, soft: Tensor, truth: Tensor, known: Tensor, threshold: float) -> Record:
    """Compare a soft mask [H,W] in [0,1] with the truth (bool [H,W]) where `known` (bool [H,W])."""
    soft, truth = soft[known], truth[known]  # both [P]
    hard = soft > threshold
    bins = np.ceil(soft.double().numpy() * SWEEP).astype(np.int64)
    sweep = tuple(tuple(np.bincount(bins[side], minlength=SWEEP + 1).tolist()) for side in (truth.numpy(), ~truth.numpy()))
    return Record(
        image,
        query.name,
        query.prompts[0],
        query.group,
        int((hard & truth).sum()),
        int((hard | truth).sum()),
        float(hard.float().mean()) if hard.numel() else 0.0,
        sweep,
    )


def summarise(records: list[Record]) -> dict:
    """Scores per group, over all present groups, and per class.

    miou is data-set-wise (the VOC definition): pixels summed per class over all images, then the mean over classes;
    mean_iou is the mean over prompts. absent_*: the share of prompts that light up more than 1 % of the pixels.
    """
    present = [record for record in records if record.group not in ABSENT_GROUPS]
    summary: dict = {
        "prompts": len(records),
        "miou": _miou(present),
        "mean_iou": _mean([r.iou for r in present]),
        "groups": {},
    }
    for group in sorted({record.group for record in records}):
        members = [record for record in records if record.group == group]
        if group in ABSENT_GROUPS:
            scores = {"fired": _mean([float(r.coverage > LIT) for r in members])}
        else:
            scores = {"miou": _miou(members), "mean_iou": _mean([r.iou for r in members])}
        summary["groups"][group] = {"prompts": len(members), **scores}
    summary["classes"] = {name: round(iou, 4) for name, iou in sorted(class_ious(present).items())}
    return summary


def class_ious(records: list[Record]) -> dict[str, float]:
    """Data-set-wise IoU per class name."""
    sums = defaultdict(lambda: [0, 0])
    for record in records:
        sums[record.name][0] += record.intersection
        sums[record.name][1] += record.union
    return {name: both / union if union else 1.0 for name, (both, union) in sums.items()}


def threshold_sweep(records: list[Record]) -> dict:
    """Data-set-wise mIoU and per-class IoU at every threshold k / SWEEP, absent prompts left out (paper, Fig. 2)."""
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, SWEEP + 1), np.int64))
    for record in records:
        if record.group not in ABSENT_GROUPS:
            totals[record.name] += np.array(record.sweep)
    classes = {name: _sweep_ious(counts) for name, counts in sorted(totals.items())}
    mean = np.mean(list(classes.values()), axis=0) if classes else np.zeros(SWEEP)
    thresholds = [k / SWEEP for k in range(SWEEP)]
    best = int(np.argmax(mean)) if classes else SWEEP // 2
    return {
        "thresholds": thresholds,
        "miou": mean.round(4).tolist(),
        "best_threshold": thresholds[best],
        "classes": {name: np.round(ious, 4).tolist() for name, ious in classes.items()},
    }


def _sweep_ious(counts: np.ndarray) -> np.ndarray:
    """counts [2, SWEEP+1] -> IoU [SWEEP] of "soft > k / SWEEP" for k = 0..SWEEP-1."""
    above = counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # pixels with a bin above k
    union = counts[0].sum() + above[1]
    return np.where(union > 0, above[0] / np.maximum(union, 1), 1.0)


def _miou(records: list[Record]) -> float | None:
    return _mean(list(class_ious(records).values()))


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def as_json(record: Record) -> dict:
    """A record without its sweep counts, with its IoU."""
    values = asdict(record)
    del values["sweep"]
    return {**values, "iou": round(record.iou, 4), "coverage": round(record.coverage, 5)}
