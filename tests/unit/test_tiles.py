"""Tiles cover the image, and their masks join without seams."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from digseg_nodes.core.tiles import TilePlan, add_tile, cut_tiles, plan_tiles, tile_weights

CASES = [
    (512, 512, 128),
    (500, 333, 128),
    (64, 1000, 96),
    (100, 100, 256),
    (129, 128, 128),
    (1, 300, 64),
    (4000, 3001, 1024),
]


def join_tiles(masks: torch.Tensor, plan: TilePlan) -> torch.Tensor:
    """[B,T,K,h,w] → [B,K,H,W]."""
    out = torch.zeros(masks.shape[0], masks.shape[2], *plan.size)
    for index, weight in enumerate(tile_weights(plan)):
        add_tile(out, masks[:, index] * weight, plan, index)
    return out


@pytest.mark.parametrize(("height", "width", "tile"), CASES)
def test_tiles_cover_everything_with_enough_overlap(height, width, tile):
    plan = plan_tiles(height, width, tile)
    assert plan.tile == (min(tile, height), min(tile, width))
    for axis, length in enumerate((height, width)):
        starts = sorted({corner[axis] for corner in plan.corners})
        assert starts[0] == 0 and starts[-1] + plan.tile[axis] == length
        steps = [b - a for a, b in pairwise(starts)]
        assert all(step <= 0.75 * tile + 1 for step in steps), "neighbours share a quarter at least"


@pytest.mark.parametrize(("height", "width", "tile"), CASES[:-1])
def test_cutting_and_joining_gives_the_same_picture(height, width, tile):
    image = torch.rand(2, height, width, 3)
    plan = plan_tiles(height, width, tile)
    tiles = cut_tiles(image, plan)
    assert tiles.shape == (2 * len(plan.corners), *plan.tile, 3)
    masks = tiles.unflatten(0, (2, -1)).movedim(-1, 2)  # [B*T,h,w,3] → [B,T,3,h,w]
    assert torch.allclose(join_tiles(masks, plan), image.movedim(-1, 1), atol=1e-6)


def test_seams_fade():
    """Neighbouring tiles that disagree completely change from one to the other gradually, never in a jump."""
    plan = plan_tiles(128, 512, 128)
    masks = torch.zeros(1, len(plan.corners), 1, 128, 128)
    masks[:, ::2] = 1
    joined = join_tiles(masks, plan)[0, 0]
    assert (joined[:, 1:] - joined[:, :-1]).abs().max() < 0.07
    assert joined.min() == 0 and joined.max() == 1
