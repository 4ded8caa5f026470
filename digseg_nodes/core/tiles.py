"""Cutting large images into overlapping tiles and joining the tiles' masks without seams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 0.25
"""Share of a tile that it shares with its neighbour, at least; inside it the two masks fade into each other."""


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles lie: image size, tile size and top-left corners, all (row, column) in pixels."""

    size: tuple[int, int]
    tile: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


def plan_tiles(height: int, width: int, tile: int) -> TilePlan:
    """Square tiles of `tile` pixels (less on a side shorter than that), evenly spread, overlapping by at least OVERLAP."""
    rows, columns = _starts(height, tile), _starts(width, tile)
    corners = tuple((r, c) for r in rows for c in columns)
    return TilePlan((height, width), (min(tile, height), min(tile, width)), corners)


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    count = -(-(length - tile) // max(1, round(tile * (1 - OVERLAP)))) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def cut_tiles(image: Tensor, plan: TilePlan) -> Tensor:
    """[B,H,W,C] → [B*T,h,w,C], frame by frame, within a frame row by row."""
    tiles = [cut_tile(image, plan, i) for i in range(len(plan.corners))]
    return torch.stack(tiles, dim=1).flatten(0, 1)  # [B,T,h,w,C] → [B*T,h,w,C]


def cut_tile(image: Tensor, plan: TilePlan, index: int) -> Tensor:
    """Tile number `index` of [...,H,W,C]: [...,h,w,C]."""
    (r, c), (h, w) = plan.corners[index], plan.tile
    return image[..., r : r + h, c : c + w, :]


def add_tile(out: Tensor, masks: Tensor, plan: TilePlan, index: int) -> None:
    """Add masks of tile number `index` [...,h,w], already weighted, to masks of the whole image [...,H,W], in place."""
    (r, c), (h, w) = plan.corners[index], plan.tile
    out[..., r : r + h, c : c + w] += masks


def tile_weights(plan: TilePlan) -> Tensor:
    """How much every tile decides at its pixels: [T,h,w]; all tiles' weights add up to 1 at every pixel of the image."""
    height, width = plan.tile
    weight = torch.outer(_ramp(height), _ramp(width))  # [h,w]; a product, so that rows and columns fade independently
    total = torch.zeros(plan.size)
    for index in range(len(plan.corners)):
        add_tile(total, weight, plan, index)
    return torch.stack([weight / total[r : r + height, c : c + width] for r, c in plan.corners])


def _ramp(length: int) -> Tensor:
    """1 in the middle of a tile, falling with the square of the distance to its edges, never to 0.

    What a tile cuts off it recognises worst, so wherever tiles overlap the one that sees more around a pixel decides.
    """
    distance = torch.minimum(torch.arange(length), torch.arange(length - 1, -1, -1)).float() + 1.0
    return (distance / distance.max()).square()
