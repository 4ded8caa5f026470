"""Scores against torchmetrics' and against cases worked out by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
)

from digseg_nodes.core.masks import outline
from digseg_nodes.core.metrics import boundary_f, dice, iou, precision, recall


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(iou, binary_jaccard_index), (dice, binary_f1_score), (precision, binary_precision), (recall, binary_recall)],
)
def test_agrees_with_torchmetrics(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.rand(2, 6, 20, 30, generator=generator) > 0.6
    expected = [theirs(p, t).item() for p, t in zip(prediction.int(), truth.int(), strict=True)]
    assert ours(prediction, truth).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("score", [iou, dice, precision, recall, boundary_f])
def test_empty_and_empty_agree_completely(score):
    assert score(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)).item() == 1


@pytest.mark.parametrize("score", [iou, dice, boundary_f])
def test_nothing_found_of_something_is_zero(score):
    truth = torch.zeros(1, 16, 16)
    truth[:, 4:8, 4:8] = 1
    assert score(torch.zeros(1, 16, 16), truth).item() == 0


def test_boundary_f_forgives_up_to_the_tolerance():
    square, moved = torch.zeros(2, 1, 40, 40)
    square[:, 10:30, 10:30] = 1
    moved[:, 12:32, 10:30] = 1
    assert boundary_f(square, square, 1).item() == pytest.approx(1)
    assert boundary_f(moved, square, 2).item() == pytest.approx(1)
    assert boundary_f(moved, square, 1).item() < 0.75


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(1, 5, 4\)"):
        iou(torch.zeros(1, 4, 4), torch.zeros(1, 5, 4))


def test_a_wide_tolerance_reaches_as_far_as_a_square_of_it():
    generator = torch.Generator().manual_seed(3)
    prediction, truth = ((torch.rand(2, 60, 90, generator=generator) > 0.97).float() for _ in range(2))
    for tolerance in (0, 1, 7, 64):
        edges = [
            torch.nn.functional.max_pool2d(m[:, None], 2 * tolerance + 1, 1, tolerance)[:, 0]
            for m in map(outline, (prediction, truth))
        ]
        hit = [
            (outline(m) * wide).sum((1, 2)) / outline(m).sum((1, 2))
            for m, wide in zip((prediction, truth), edges[::-1], strict=True)
        ]
        expected = 2 * hit[0] * hit[1] / (hit[0] + hit[1]).clamp(min=1e-9)
        assert torch.allclose(boundary_f(prediction, truth, tolerance), expected)


def test_a_wide_tolerance_takes_seconds():
    mask = (torch.rand(1, 1500, 1500, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    begun = time.process_time()
    boundary_f(mask, mask, 64)
    assert time.process_time() - begun < 5
