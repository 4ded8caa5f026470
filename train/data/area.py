"""Masks at another size by the share of every pixel that they cover, and what of them that size cannot show."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from digseg_nodes.core.geometry import plan_geometry, unfit
from train.data.base import Sample


def covered_share(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share in [0,1] of every pixel of a picture of `size` (height, width) that a mask covers: bool [H,W] -> float32 [*size].

    Exact for any size, larger ones too: pixels are the rectangles of an even grid over the mask.
    """
    if mask.shape == tuple(size):
        return mask.astype(np.float32)
    rows = _means(mask, size[0])  # [H,W] -> [h,W]
    return _means(rows.T, size[1]).T.astype(np.float32)  # [h,W] -> [h,w]


def _means(values: np.ndarray, count: int) -> np.ndarray:
    """Means [count,M] float64 of `count` equal stretches of rows [N,M], rows shared by two stretches by their parts."""
    length = len(values)
    sums = np.zeros((length + 1, values.shape[1]), np.int32 if values.dtype == bool else np.float64)
    np.cumsum(values, axis=0, out=sums[1:])
    edges = np.arange(count + 1) * length / count
    whole = np.minimum(edges.astype(np.int64), length - 1)
    upto = sums[whole] + (edges - whole)[:, None] * values[whole]
    return np.diff(upto, axis=0) * (count / length)


def soft_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask bool [H,W] as it is taught at `size` (height, width): float32 [*size] in [0,1], 1 somewhere unless it is empty.

    The share of every pixel that is covered; a thing smaller than a pixel everywhere is brightened until its best pixel is 1, so
    that it stays something to select at a threshold of one half.
    """
    share = covered_share(mask, size)
    return share / best if 0 < (best := share.max(initial=0)) < 1 else share


@dataclass
class Lost:
    """What the masks of a class lose at a training resolution, summed over the photos.

    masks: how many there are. vanished: those that cover no pixel at that resolution by more than half. ceiling: the IoU of the
    masks as taught, brought back to the photos' own pixels, with the true ones: no model trained there scores more.
    """

    masks: int = 0
    vanished: int = 0
    common: int = 0
    union: int = 0

    @property
    def ceiling(self) -> float:
        """In [0,1]; 1 for a class without masks."""
        return self.common / self.union if self.union else 1.0

    def add(self, mask: np.ndarray, resolution: int) -> None:
        """Count a mask bool [H,W] that shows something."""
        geometry = plan_geometry(*mask.shape, resolution)
        self.masks += 1
        self.vanished += not (covered_share(mask, geometry.resized) > 0.5).any()
        taught = torch.from_numpy(soft_mask(mask, geometry.resized))[None]
        back = unfit(taught, geometry)[0].numpy() > 0.5
        self.common += int((back & mask).sum())
        self.union += int((back | mask).sum())


def count_lost(found: dict[str, Lost], sample: Sample, resolution: int) -> None:
    """Add what the masks of one sample lose when photos are trained at `resolution` pixels, their longest side, by class."""
    for query in sample.queries:
        if query.mask is not None and query.mask.any():
            found.setdefault(query.name, Lost()).add(query.mask, resolution)


def lost_lines(found: dict[str, Lost], resolution: int) -> Iterator[str]:
    """A table of it, the classes that lose most first."""
    yield f"  {f'at {resolution} pixels':24}masks  vanish  IoU at most"
    for name, one in sorted(found.items(), key=lambda pair: pair[1].ceiling):
        yield f"  {name[:23]:24}{one.masks:5}  {one.vanished:6}  {one.ceiling:.3f}"
