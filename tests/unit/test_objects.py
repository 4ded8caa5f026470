"""Masks fall apart into objects that are counted, sorted, boxed and handed on."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from digseg_nodes.core.masks import EMPTY_MASK, SKIP, WHOLE_PICTURE, Masks, as_masks
from digseg_nodes.core.object_picture import draw_objects
from digseg_nodes.core.objects import (
    SEG,
    ObjectSettings,
    bounding_boxes,
    close_gaps,
    fill_holes,
    in_place_of_nothing,
    object_masks,
    segs,
    split_objects,
    table,
)

SIZE = (40, 60)
ALL = ObjectSettings(smallest=0.0)


def squares(*boxes: tuple, frames: int = 1, value: float = 0.9) -> Masks:
    """One prompt, "square", with filled boxes (left, top, right, bottom) in its first frame."""
    soft = torch.zeros(frames, 1, *SIZE)
    for left, top, right, bottom in boxes:
        soft[0, 0, top:bottom, left:right] = value
    return Masks(soft, ("square",), torch.rand(frames, *SIZE, 3))


def split(found: Masks, settings: ObjectSettings = ALL, names: str = "") -> list:
    return split_objects(found.choose(names, 0.5), settings)


def test_parts_that_touch_nowhere_are_objects_with_box_area_and_score():
    found = squares((2, 3, 12, 9), (20, 5, 24, 30))
    found.soft[0, 0, 3:6, 2:12] = 0.7
    first, second = split(found)
    assert (first.box, second.box) == ((20, 5, 24, 30), (2, 3, 12, 9)), "the largest comes first"
    assert (first.pixels, second.pixels) == (100, 60) and second.score == pytest.approx(0.8)
    assert first.mask.shape == (25, 4) and first.mask.all() and first.label == "square" and first.frame == 0


def test_corners_join_at_8_and_part_at_4():
    found = squares((5, 5, 10, 10), (10, 10, 15, 15))
    assert [len(split(found, ObjectSettings(smallest=0, connectivity=c))) for c in ("8", "4")] == [1, 2]


def test_areas_are_shares_of_the_picture():
    found = squares((0, 0, 2, 2), (10, 0, 16, 10), (20, 0, 60, 40))
    kept = split(found, ObjectSettings(smallest=5 / 2400, largest=0.5))
    assert [item.pixels for item in kept] == [60], "4 pixels are less than 5 of 2400, 1600 more than half of them"


@pytest.mark.parametrize(
    ("sort", "lefts"),
    [("size", [20, 40, 2]), ("left", [2, 20, 40]), ("top", [40, 2, 20]), ("centre", [20, 40, 2]), ("score", [40, 20, 2])],
)
def test_order(sort, lefts):
    found = squares((2, 10, 6, 12), (20, 12, 40, 28), (40, 0, 50, 8))
    found.soft[0, 0, 0:8, 40:50], found.soft[0, 0, 10:12, 2:6] = 0.99, 0.6
    found.soft[0, 0, 12:28, 40] = 0
    settings = ObjectSettings(smallest=0, sort=sort)
    assert [item.box[0] for item in split(found, settings)] == lefts
    assert [item.box[0] for item in split(found, ObjectSettings(smallest=0, sort=sort, keep=2))] == lefts[:2]
    assert [item.box[0] for item in split(found, ObjectSettings(smallest=0, sort=sort, number=3))] == lefts[2:]
    assert split(found, ObjectSettings(smallest=0, sort=sort, number=4)) == []


def test_frame_by_frame_within_a_frame_prompt_by_prompt():
    soft = torch.zeros(2, 2, *SIZE)
    soft[0, 1, :5, :5], soft[1, 0, :5, :5], soft[1, 1, 9:14, :5], soft[0, 0, 9:14, :5] = 0.9, 0.9, 0.9, 0.9
    found = Masks(soft, ("b", "a"), torch.zeros(2, *SIZE, 3))
    assert [(item.frame, item.label) for item in split(found)] == [(0, "b"), (0, "a"), (1, "b"), (1, "a")]
    assert [(item.frame, item.label) for item in split(found, names="A")] == [(0, "a"), (1, "a")]


def test_what_is_excluded_is_cut_out_of_the_objects():
    soft = torch.zeros(1, 2, *SIZE)
    soft[0, 0, 10:20, 10:40], soft[0, 1, 5:30, 20:25] = 0.9, 0.9
    found = Masks(soft, ("bar", "post"), torch.zeros(1, *SIZE, 3), excluded=("post",))
    assert sorted(item.box for item in split(found)) == [(10, 10, 20, 20), (25, 10, 40, 20)]
    assert [item.label for item in split(found, names="post")] == ["post"]


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 7])
def test_gaps_up_to_the_width_are_bridged_and_wider_ones_are_not(gap):
    hard = np.zeros(SIZE, bool)
    hard[10:20, 5:15], hard[10:20, 15 + gap : 30 + gap] = True, True
    hard[0, 0] = hard[-1, -1] = True
    closed = close_gaps(hard, gap)
    assert closed[10:20, 5 : 30 + gap].all() and (closed | hard == closed).all()
    assert np.array_equal(close_gaps(hard, 0), hard)
    assert np.array_equal(close_gaps(hard, gap - 1), hard)
    assert closed.sum() - hard.sum() == 10 * gap, "nothing but the gap is added"


def test_holes_up_to_an_area_are_filled_and_bays_are_not():
    hard = np.zeros(SIZE, bool)
    hard[5:25, 5:25] = True
    hard[8:10, 8:10], hard[12:18, 12:18], hard[20:25, 20:22] = False, False, False
    small, both = fill_holes(hard, 4), fill_holes(hard, 36)
    assert small[8:10, 8:10].all() and not small[12:18, 12:18].any()
    assert both[12:18, 12:18].all() and not both[20:25, 20:22].any()
    assert np.array_equal(fill_holes(hard, 0.5), hard)
    assert not fill_holes(np.zeros(SIZE, bool), 1e9).any(), "the picture itself is no hole"


def test_masks_boxes_and_segments_agree():
    found = squares((2, 3, 12, 9), (50, 30, 60, 40), frames=2)
    objects = split(found)
    masks = object_masks(objects, SIZE)
    assert masks.shape == (2, *SIZE) and masks.dtype == torch.float32
    assert torch.equal(masks.amax(0), (found.soft[0, 0] > 0.5).float())
    boxes = bounding_boxes(objects, 2, SIZE, padding=4)
    assert boxes == [
        [
            {"x": 46, "y": 26, "width": 14, "height": 14, "label": "square", "score": 0.9},
            {"x": 0, "y": 0, "width": 16, "height": 13, "label": "square", "score": 0.9},
        ],
        [],
    ]
    size, parts = segs(objects, SIZE, padding=4, crop_factor=2.0)
    assert size == SIZE
    for part, mask, box in zip(parts, masks, boxes[0], strict=True):
        left, top, right, bottom = part.crop_region
        assert part.cropped_mask.shape == (bottom - top, right - left) and part.cropped_mask.dtype == np.float32
        assert np.array_equal(part.cropped_mask, mask[top:bottom, left:right].numpy()) and part.cropped_mask.sum() == mask.sum()
        assert part.bbox == [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        assert left <= part.bbox[0] and right >= part.bbox[2] and top <= part.bbox[1] and bottom >= part.bbox[3]
        assert (part.cropped_image, part.control_net_wrapper, part.label) == (None, None, "square")
        assert part.confidence == pytest.approx(0.9)
    assert parts[1].crop_region[2] - parts[1].crop_region[0] == 32
    assert SEG._fields[:4] == ("cropped_image", "cropped_mask", "confidence", "crop_region")


def test_the_table_numbers_what_the_batch_holds():
    found = squares((2, 3, 12, 9), (50, 30, 60, 40))
    found.soft[0, 0, 3:9, 2:12] = 0.7
    objects = split(found)
    rows = json.loads(table(objects, SIZE))
    second = {"number": 2, "frame": 0, "label": "square", "score": 0.7, "share": 0.025, "x": 2, "y": 3, "width": 10, "height": 6}
    assert rows == [
        {"number": 1, "frame": 0, "label": "square", "score": 0.9, "share": pytest.approx(100 / 2400, abs=1e-6)}
        | {"x": 50, "y": 30, "width": 10, "height": 10},
        second,
    ]
    grown = json.loads(table(objects, SIZE, padding=4))
    assert [(row["x"], row["y"], row["width"], row["height"]) for row in grown] == [(46, 26, 14, 14), (0, 0, 16, 13)]
    assert object_masks(objects, SIZE)[1, 3:9, 2:12].all()


def test_nothing_found_is_an_empty_mask_the_whole_picture_or_skipped():
    [nothing] = in_place_of_nothing(SIZE, 3, EMPTY_MASK)
    assert object_masks([nothing], SIZE).shape == (1, *SIZE) and not object_masks([nothing], SIZE).any()
    whole = in_place_of_nothing(SIZE, 3, WHOLE_PICTURE)
    assert object_masks(whole, SIZE).shape == (3, *SIZE) and object_masks(whole, SIZE).all()
    assert in_place_of_nothing(SIZE, 3, SKIP) is None
    with pytest.raises(ValueError, match="if_empty is 'crash'; use one of: empty mask, whole picture, skip"):
        in_place_of_nothing(SIZE, 3, "crash")


def test_the_picture_shows_every_object_in_its_box():
    found = squares((5, 8, 20, 30), (30, 8, 55, 35))
    drawn = draw_objects(found.image, split(found))
    assert drawn.shape == found.image.shape
    changed = (drawn - found.image).abs().amax(-1)[0] > 0.02
    assert changed[8:30, 5:20].float().mean() > 0.9 and changed[8:35, 30:55].float().mean() > 0.9
    assert not changed[:, :4].any() and not changed[36:].any()
    assert torch.allclose(draw_objects(found.image, []), found.image, atol=1 / 255)


def test_settings_that_no_object_can_meet_are_refused():
    with pytest.raises(ValueError, match=r"smallest is 0\.5 and largest 0\.1"):
        ObjectSettings(smallest=0.5, largest=0.1)
    with pytest.raises(ValueError, match="sort is 'weight'; use one of: size, score, left, top, centre"):
        ObjectSettings(sort="weight")
    with pytest.raises(ValueError, match="connectivity is '6'"):
        ObjectSettings(connectivity="6")


def test_any_mask_becomes_masks_of_one_prompt():
    mask = torch.rand(3, *SIZE)
    found = as_masks(None, mask, torch.rand(1, *SIZE, 4))
    assert found.names == ("object",) and torch.equal(found.soft[:, 0], mask) and found.image.shape == (3, *SIZE, 3)
    assert as_masks(found, None, None) is found
    for given in ((None, None, None), (found, mask, None)):
        with pytest.raises(ValueError, match="connect one of the two"):
            as_masks(*given)
    with pytest.raises(ValueError, match="The image is 1 x 9 x 9 and the mask 3 x 40 x 60"):
        as_masks(None, mask, torch.rand(1, 9, 9, 3))


def test_500_parts_of_a_4k_mask_take_less_than_the_second_promised():
    soft = torch.zeros(1, 1, 2160, 3840)
    for row in range(20):
        for column in range(25):
            soft[0, 0, row * 108 : row * 108 + 80, column * 153 : column * 153 + 140] = 0.8
    found = Masks(soft, ("tile",), soft[:, 0, :, :, None].expand(-1, -1, -1, 3))
    times = []
    for _ in range(3):
        start = time.process_time()
        objects = split(found)
        boxes, parts = bounding_boxes(objects, 1, (2160, 3840)), segs(objects, (2160, 3840))
        times.append(time.process_time() - start)
    assert len(objects) == len(boxes[0]) == len(parts[1]) == 500
    assert min(times) < 1


def test_more_objects_than_masks_can_be_had_are_refused_at_once():
    noise = (torch.rand(1, 1, 300, 300, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    found = Masks(noise, ("a",), torch.zeros(1, 300, 300, 3)).choose("", 0.5)
    with pytest.raises(ValueError, match=r"5000 at most are given.*Raise smallest, or set keep"):
        split_objects(found, ObjectSettings(0.0, 1.0, 0.0, 0, "4", "size", 0, 0))
    assert len(split_objects(found, ObjectSettings(0.0, 1.0, 0.0, 0, "4", "size", 7, 0))) == 7
