"""Colours for classes: distinct, readable on photographs, the same class number always the same colour."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

_FIRST = ((230, 57, 70), (29, 145, 240), (255, 190, 11), (6, 190, 120),
          (155, 93, 229), (251, 111, 32), (0, 196, 204), (241, 91, 181))
_GOLDEN = 0.618033988749895


def palette(count: int) -> Tensor:
    """`count` colours [count,3] uint8. The first eight are picked by hand, the rest walk the hue circle by the golden ratio."""
    colours = list(_FIRST[:count])
    for i in range(len(colours), count):
        hue, ring = (i * _GOLDEN) % 1.0, i % 3
        rgb = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[ring], (0.95, 0.85, 0.65)[ring])
        colours.append(tuple(round(255 * c) for c in rgb))
    return torch.tensor(colours, dtype=torch.uint8).reshape(-1, 3)
