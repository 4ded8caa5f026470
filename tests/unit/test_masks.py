"""Decoded pixels become soft, hard, united and semantic masks."""

from __future__ import annotations

import pytest
import torch

from digseg_nodes.core.masks import (
    EMPTY_MASK,
    SKIP,
    WHOLE_PICTURE,
    Masks,
    as_frames,
    empty_note,
    fill_empty,
    harden,
    outline,
    overlay,
    pick,
    same_size,
    semantic_map,
    soft_mask,
    subtract,
    union,
)


def test_soft_mask_is_the_unclamped_mean_of_the_channels():
    decoded = torch.tensor([3.0, -1.0, -1.0]).view(1, 3, 1, 1)  # clamping first would give 1/3
    assert soft_mask(decoded).item() == pytest.approx(2 / 3)
    assert soft_mask(torch.full((1, 3, 2, 2), 5.0)).max() == 1 and soft_mask(torch.full((1, 3, 2, 2), -5.0)).min() == 0


def test_harden_is_exactly_black_and_white_and_excludes_the_threshold_itself():
    assert harden(torch.tensor([0.0, 0.5, 0.500001, 1.0])).tolist() == [0, 0, 1, 1]
    assert harden(torch.tensor([0.3]), 0.2).item() == 1


def test_union():
    soft = torch.tensor([[0.2, 0.7], [0.9, 0.1]]).view(1, 2, 1, 2)
    assert torch.equal(union(soft), torch.tensor([[[0.9, 0.7]]]))
    assert union(torch.zeros(3, 0, 4, 5)).shape == (3, 4, 5)


def test_semantic_map_takes_the_strongest_class_above_its_own_threshold():
    soft = torch.tensor([[0.9, 0.6, 0.4, 0.2, 0.55], [0.8, 0.7, 0.1, 0.6, 0.5]]).view(1, 2, 1, 5)
    assert semantic_map(soft, torch.tensor([0.5, 0.5])).flatten().tolist() == [1, 2, 0, 2, 1]
    assert semantic_map(soft, torch.tensor([0.95, 0.5])).flatten().tolist() == [2, 2, 0, 2, 0]
    assert semantic_map(torch.ones(1, 1, 2, 2) * 0.1, torch.tensor([0.0])).min() == 1
    assert semantic_map(torch.zeros(1, 3, 2, 2), torch.tensor([0.5, 0.5, 0.5])).max() == 0


def test_outline():
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1
    ring = outline(mask)
    assert ring.sum() == 12 and (ring <= mask).all()
    assert outline(torch.ones(1, 4, 4)).sum() == 0  # the picture's own edge is no contour


def test_overlay_changes_only_what_is_selected():
    image = torch.rand(1, 32, 32, 3)
    hard = torch.zeros(1, 2, 32, 32)
    hard[:, 0, 4:12, 4:12] = 1
    drawn = overlay(image, hard.unbind(1), torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    outside = hard[0].amax(0) == 0
    assert torch.equal(drawn[0][outside], image[0][outside])
    assert (drawn[0, 6:10, 6:10, 0] >= image[0, 6:10, 6:10, 0]).all() and not torch.equal(drawn, image)


def test_select_keeps_names_and_spread_together():
    soft = torch.rand(1, 3, 2, 2)
    chosen = Masks(soft, ("a", "b", "c"), torch.rand(1, 2, 2, 3), spread=soft / 2).select([2, 0])
    assert chosen.names == ("c", "a")
    assert torch.equal(chosen.soft, soft[:, [2, 0]]) and torch.equal(chosen.spread, soft[:, [2, 0]] / 2)


def found_masks() -> Masks:
    soft = torch.zeros(1, 2, 4, 6)
    soft[0, 0, :2], soft[0, 1, :, :2] = 0.7, 0.3
    return Masks(soft, ("red circle", "star"), torch.rand(1, 4, 6, 3), threshold=0.2)


def test_a_threshold_of_0_is_the_checkpoints():
    assert found_masks().threshold_or(0.0) == 0.2 and found_masks().threshold_or(0.4) == 0.4
    assert [found_masks().choose("star", threshold).united("hard").sum() for threshold in (0.0, 0.4)] == [8, 0]


def test_pick_unites_the_named_masks_or_all():
    found = found_masks()
    assert torch.equal(pick(found, " red   circle \n\n", "soft", 0.0), found.soft[:, 0])
    assert torch.equal(pick(found, "", "soft", 0.0), found.soft.amax(1))
    assert pick(found, "star", "hard", 0.0).sum() == 8 and pick(found, "star", "hard", 0.5).sum() == 0
    with pytest.raises(ValueError, match=r"no mask named 'moon'.*'red circle', 'star'"):
        pick(found, "moon", "hard", 0.0)


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)])
def test_masks_of_every_rank_are_compared_alike(shape):
    mask = torch.rand(shape)
    one, other = same_size(mask, torch.zeros(3, 4, 6))
    assert one.shape == other.shape == (3, 4, 6) and torch.equal(one[2], mask.reshape(4, 6))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (torch.ones(1, 4, 6), torch.ones(1, 6, 4), "prediction is 4 x 6 and truth is 6 x 4.*same image"),
        (torch.ones(1, 4, 6), torch.zeros(1, 64, 64), "truth looks like the MASK of Load Image for a photo without transp"),
        (torch.ones(0, 4, 6), torch.ones(1, 4, 6), r"prediction holds no mask at all, its shape is \(0, 4, 6\).*found nothing"),
        (torch.ones(2, 4, 6), torch.ones(3, 4, 6), "prediction has 2 frames and truth 3"),
        (torch.ones(2, 4, 6, 3), torch.ones(2, 4, 6), r"prediction has the shape \(2, 4, 6, 3\); a MASK is"),
        (torch.ones(2, 4, 6), None, "truth is a NoneType"),
    ],
)
def test_masks_that_cannot_be_compared_are_told_why(first, second, words):
    with pytest.raises(ValueError, match=words):
        same_size(first, second)


def faces() -> Masks:
    soft = torch.zeros(1, 3, 4, 6)
    soft[0, 0, :, :4], soft[0, 1, 1:3, 1:3], soft[0, 2, :, 5] = 0.9, 0.6, 0.8
    return Masks(soft, ("Face", "eyes", "hat"), torch.rand(1, 4, 6, 3), excluded=("eyes",))


def test_excluded_masks_are_taken_away_and_stay_pickable():
    found = faces()
    face, eyes, hat = (harden(found.soft[:, k]) for k in range(3))
    assert torch.equal(pick(found, "", "hard", 0.5), subtract(torch.maximum(face, hat), eyes))
    assert torch.equal(pick(found, "face", "hard", 0.5), face), "only what is named counts"
    assert torch.equal(pick(found, "EYES", "hard", 0.5), eyes)
    assert torch.equal(pick(found, "face: head, visage\n-eyes", "hard", 0.5), subtract(face, eyes))
    assert torch.equal(pick(found, "- hat", "hard", 0.5), subtract(face, torch.maximum(eyes, hat)))
    assert torch.equal(pick(found, "face\n-eyes", "soft", 0.5), (found.soft[:, 0] - found.soft[:, 1]).clamp(min=0))
    assert found.choose("").names() == ("Face", "hat")


def test_names_are_found_without_regard_to_case_and_the_nearest_is_named():
    found = faces()
    assert found.index_of("face") == 0 and found.index_of(" EYES ") == 1
    both = Masks(found.soft, ("Face", "face", "hat"), found.image)
    assert both.index_of("face") == 1 and both.index_of("FACE") == 0
    with pytest.raises(ValueError, match=r"no mask named 'eys'\. Did you mean 'eyes'\? .*: 'Face', 'eyes', 'hat'"):
        pick(found, "eys", "hard", 0.5)
    named = Masks(found.soft, ("-5 sign", "a: b", "hat"), found.image)
    assert named.choose("-5 sign\na: b").chosen == (0, 1), "a name as it stands goes first"


def test_an_empty_mask_stays_or_becomes_the_whole_picture_frame_by_frame():
    hard = torch.zeros(2, 3, 3)
    hard[1, 0, 0] = 1
    assert torch.equal(fill_empty(hard, hard, EMPTY_MASK), hard)
    filled = fill_empty(hard, hard, WHOLE_PICTURE)
    assert filled[0].all() and torch.equal(filled[1], hard[1])
    assert empty_note(hard, SKIP) == "" and "skipped" in empty_note(hard * 0, SKIP)


def test_a_mask_of_yes_and_no_is_a_mask():
    yes = torch.tensor([[[True, False]]])
    assert torch.equal(as_frames(yes, "mask"), torch.tensor([[[1.0, 0.0]]]))
    with pytest.raises(ValueError, match=r"mask holds torch\.uint8 values"):
        as_frames(yes.to(torch.uint8), "mask")
