"""Scores of predictors whose result is known."""

import numpy as np
import pytest
import torch

from train.data.base import Query, Sample
from train.scoring.closed_set import ClosedScores
from train.scoring.scores import contour, score, summarise, threshold_sweep

TRUTH = np.zeros((10, 10), bool)
TRUTH[2:6, 2:7] = True
QUERIES = [
    Query("cat", ("cat",), TRUTH),
    Query("dog", ("dog",), TRUTH.T, "held_out"),
    Query("cow", ("cow",), None, "absent_random"),
]
KNOWN = torch.ones(10, 10, dtype=torch.bool)


def records(predict, known=KNOWN):
    masks = [query.mask if query.mask is not None else np.zeros_like(TRUTH) for query in QUERIES]
    return [
        score(0, query, predict(torch.from_numpy(mask)), torch.from_numpy(mask), known, 0.5)
        for query, mask in zip(QUERIES, masks, strict=True)
    ]


def test_a_perfect_predictor():
    summary = summarise(records(lambda truth: truth.float()))
    assert summary["miou"] == 1
    assert summary["groups"]["seen"]["miou"] == summary["groups"]["held_out"]["miou"] == 1
    assert summary["groups"]["absent_random"] == {"prompts": 1, "fired": 0.0}


def test_an_empty_predictor():
    summary = summarise(records(lambda truth: torch.zeros(truth.shape)))
    assert summary["miou"] == 0
    assert summary["groups"]["absent_random"]["fired"] == 0


def test_everything_lit():
    summary = summarise(records(lambda truth: torch.ones(truth.shape)))
    assert summary["groups"]["seen"]["miou"] == pytest.approx(0.2)
    assert summary["groups"]["absent_random"]["fired"] == 1


@pytest.mark.parametrize(("pixels", "fired"), [(1, 0.0), (2, 1.0)])
def test_an_absent_prompt_fires_above_one_percent_of_the_picture(pixels, fired):
    def few(truth):
        return (torch.arange(truth.numel()).view(truth.shape) < pixels).float()

    assert summarise(records(few))["groups"]["absent_random"]["fired"] == fired


def test_miou_sums_pixels_per_class_over_the_data_set():
    small, large = np.zeros((10, 10), bool), np.ones((10, 10), bool)
    small[0, 0] = True
    pairs = [(small, torch.zeros(10, 10)), (large, torch.ones(10, 10))]
    summary = summarise(
        [score(i, Query("cat", ("cat",), mask), soft, torch.from_numpy(mask), KNOWN, 0.5) for i, (mask, soft) in enumerate(pairs)]
    )
    assert summary["miou"] == pytest.approx(100 / 101, abs=1e-4)
    assert summary["mean_iou"] == 0.5


def test_image_iou_is_the_mean_over_images_of_the_mean_over_their_prompts():
    right, wrong = torch.from_numpy(TRUTH), torch.zeros(10, 10)
    told = [(0, right), (0, right), (0, wrong), (1, wrong)]
    found = [score(image, Query(f"{n}", ("x",), TRUTH), soft.float(), right, KNOWN, 0.5) for n, (image, soft) in enumerate(told)]
    assert summarise(found)["image_iou"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-4)
    assert summarise(found)["mean_iou"] == 0.5


def test_unknown_pixels_leave_the_score():
    known = KNOWN.clone()
    known[:, 5:] = False

    def wrong_on_the_right(truth):
        soft = truth.float()
        soft[:, 7:] = 1 - soft[:, 7:]  # farther off than contours reach
        return soft

    summary = summarise(records(wrong_on_the_right, known))
    assert summary["miou"] == summary["boundary_iou"] == 1
    assert summary["groups"]["absent_random"]["fired"] == 0
    assert summarise(records(wrong_on_the_right))["miou"] < 1


def test_the_sweep_equals_scoring_at_each_threshold():
    soft = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    truth = torch.from_numpy(TRUTH)
    sweep = threshold_sweep([score(0, QUERIES[0], soft, truth, KNOWN, 0.5)])
    for threshold, value in zip(sweep["thresholds"], sweep["miou"], strict=True):
        assert value == pytest.approx(score(0, QUERIES[0], soft, truth, KNOWN, threshold).iou, abs=1e-4)


def test_contours_are_the_outermost_pixels():
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 5:12, 5:12] = True
    inner = torch.zeros_like(mask)
    inner[0, 6:11, 6:11] = True
    assert torch.equal(contour(mask), mask & ~inner)  # 2 % of the diagonal is half a pixel: at least one counts
    assert contour(torch.ones(1, 6, 6, dtype=torch.bool))[0, 0].all()  # the image's border counts as outside


def test_contours_are_as_wide_as_two_percent_of_the_diagonal():
    whole = torch.ones(1, 150, 200, dtype=torch.bool)
    assert contour(whole)[0, 75].sum() == 2 * 5
    assert contour(whole)[0, :, 100].sum() == 2 * 5


def test_boundary_iou_is_stricter_than_iou():
    grown = torch.from_numpy(np.pad(TRUTH, 1))[:-2, 1:-1] | torch.from_numpy(TRUTH)
    summary = summarise([score(0, QUERIES[0], grown.float(), torch.from_numpy(TRUTH), KNOWN, 0.5)])
    assert summary["boundary_iou"] < summary["miou"] < summary["dice"] < 1


def test_a_closed_label_set_gives_each_pixel_to_one_class():
    sample = Sample(np.zeros((10, 10, 3), np.uint8), (QUERIES[0],), ~np.pad(np.ones((8, 10), bool), ((0, 2), (0, 0))))
    scores = ClosedScores(["cat", "dog"])
    soft = torch.zeros(2, 10, 10)
    soft[0][torch.from_numpy(TRUTH)] = 0.8
    soft[1, 2:4] = 0.9  # wins two of the four rows of the cat and lights ten pixels in each
    soft[1, 8:] = 0.9  # unlabelled
    scores.add(sample, soft, 0.5)
    assert scores.summary()["classes"] == {"cat": 0.5}
    assert scores.summary()["pixel_accuracy"] == 0.75
