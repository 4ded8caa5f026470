"""Scores against torchmetrics' and against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
)

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
