"""Scores of predicted masks: one record per (image, query), and the summary of many."""

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.masks import outline
from train.data.base import ABSENT_GROUPS, Query

FALSE_POSITIVE_AREA = 0.01
"""An absent prompt has fired, which makes it a false positive, when its hard mask selects more than this share of the pixels."""
SWEEP = 20
"""Thresholds of the sweep: multiples of 1 / SWEEP."""


@dataclass(frozen=True)
class Record:
    """How the hard mask of one query of one image agrees with the truth; counts are pixels of known label.

    edge_*: the same counts for the contours, pixels within 2 % of the diagonal inside the mask (boundary IoU). sweep: for
    k = 0..SWEEP the pixels with ceil(SWEEP * soft) == k, first those inside the truth, then those outside.
    """

    image: int
    name: str
    prompt: str
    group: str
    intersection: int
    union: int
    edge_intersection: int
    edge_union: int
    coverage: float
    sweep: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def iou(self) -> float:
        """Intersection over union; both empty counts 1."""
        return self.intersection / self.union if self.union else 1.0


def score(image: int, query: Query, soft: Tensor, truth: Tensor, known: Tensor, threshold: float) -> Record:
    """Compare a soft mask [H,W] in [0,1] with the truth (bool [H,W]) where `known` (bool [H,W]).

    Raises CheckpointError for a mask that is not finite."""
    if not torch.isfinite(soft).all():
        raise CheckpointError(
            f"The mask of {query.prompts[0]!r} on image {image} holds NaN or infinite values and cannot be scored: the "
            "checkpoint is damaged, or it overflows in this precision."
        )
    hard = soft > threshold
    edges = contour(torch.stack([hard, truth]))[:, known]  # [2,P]
    soft, truth, hard = soft[known], truth[known], hard[known]  # [P] each
    bins = np.ceil(soft.double().numpy() * SWEEP).astype(np.int64)
    sides = (truth.numpy(), ~truth.numpy())
    return Record(
        image,
        query.name,
        query.prompts[0],
        query.group,
        int((hard & truth).sum()),
        int((hard | truth).sum()),
        int(edges.all(0).sum()),
        int(edges.any(0).sum()),
        float(hard.float().mean()) if hard.numel() else 0.0,
        tuple(tuple(np.bincount(bins[side], minlength=SWEEP + 1).tolist()) for side in sides),
    )


def contour(masks: Tensor) -> Tensor:
    """Pixels of bool masks [N,H,W] within 2 % of the image's diagonal of their outside or of the image's border.

    Cheng et al. 2021, "Boundary IoU".
    """
    height, width = masks.shape[-2:]
    reach = max(1, round(0.02 * (height**2 + width**2) ** 0.5))
    return outline(masks.float(), reach, border=True) > 0


def summarise(records: list[Record]) -> dict:
    """Scores per group, over all present groups, and per class.

    miou is data-set-wise: pixels summed per class over the images that show it, then the mean over classes; so are dice and
    boundary_iou. What is selected where the class is not comes under absent_*; closed_set.py counts over all pixels, as VOC does.
    mean_iou is the mean over prompts, image_iou the mean over images of the mean over their prompts. fired, of absent_*: the
    false positive rate, the share of prompts that select more than FALSE_POSITIVE_AREA.
    """
    present = [record for record in records if record.group not in ABSENT_GROUPS]
    summary: dict = {
        "prompts": len(records),
        **_present_scores(present),
        "groups": {},
    }
    for group in sorted({record.group for record in records}):
        members = [record for record in records if record.group == group]
        if group in ABSENT_GROUPS:
            scores = {"fired": _mean([float(r.coverage > FALSE_POSITIVE_AREA) for r in members])}
        else:
            scores = _present_scores(members)
        summary["groups"][group] = {"prompts": len(members), **scores}
    summary["classes"] = {name: round(iou, 4) for name, iou in sorted(class_ious(present).items())}
    return summary


def _present_scores(records: list[Record]) -> dict:
    ious = list(class_ious(records).values())
    images: dict[int, list[float]] = defaultdict(list)
    for record in records:
        images[record.image].append(record.iou)
    return {
        "miou": _mean(ious),
        "mean_iou": _mean([record.iou for record in records]),
        "image_iou": _mean([sum(values) / len(values) for values in images.values()]),
        "dice": _mean([2 * iou / (1 + iou) for iou in ious]),
        "boundary_iou": _mean(list(class_ious(records, "edge_").values())),
    }


def class_ious(records: list[Record], kind: str = "") -> dict[str, float]:
    """Data-set-wise IoU per class name; kind "edge_" for the contours."""
    sums = defaultdict(lambda: [0, 0])
    for record in records:
        sums[record.name][0] += getattr(record, f"{kind}intersection")
        sums[record.name][1] += getattr(record, f"{kind}union")
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


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def as_json(record: Record) -> dict:
    """A record without its sweep counts, with its IoU."""
    values = asdict(record)
    del values["sweep"]
    return {**values, "iou": round(record.iou, 4), "coverage": round(record.coverage, 5)}
