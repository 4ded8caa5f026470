"""Colours for classes: distinct, readable on photographs, the same class number always the same colour."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import torch
from torch import Tensor

_FIRST = (
    (230, 57, 70),
    (29, 145, 240),
    (255, 190, 11),
    (6, 190, 120),
    (155, 93, 229),
    (251, 111, 32),
    (0, 196, 204),
    (241, 91, 181),
)


def palette(count: int) -> Tensor:
    """`count` colours [count,3] uint8. The first eight are picked by hand, each further one is as far from all as can be."""
    colours = _all_colours()
    return colours[torch.arange(count) % len(colours)]


@lru_cache(maxsize=1)
def _all_colours() -> Tensor:
    """Farthest-point order of a grid of 400 colours that are neither dark nor grey: [408,3] uint8."""
    grid = [
        [round(255 * c) for c in colorsys.hsv_to_rgb(hue / 25, saturation, value)]
        for hue in range(25)
        for saturation in (0.35, 0.55, 0.75, 1.0)
        for value in (0.5, 0.67, 0.83, 1.0)
    ]
    chosen, rest = torch.tensor(_FIRST, dtype=torch.float32), torch.tensor(grid, dtype=torch.float32)
    nearest = torch.cdist(rest, chosen).amin(1)
    for _ in range(len(rest)):
        best = rest[nearest.argmax()]
        chosen = torch.cat([chosen, best[None]])
        nearest = torch.minimum(nearest, (rest - best).norm(dim=1)).where(nearest >= 0, nearest)
        nearest[(rest == best).all(1)] = -1.0
    return chosen.to(torch.uint8)
