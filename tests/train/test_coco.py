"""COCO JSON as tools write it: ids and names compared by what they mean, outlines checked before they are drawn (K3, K4, K22,
K23)."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco

from train.check_data import main as check_data
from train.data.base import DataError
from train.data.build import open_split
from train.data.config import load_data
from train.data.outlines import OutlineError, outline_mask, polygon_mask, unpacked

SIZE = (40, 60)
BOX = [10, 5, 30, 5, 30, 25, 10, 25]
MASK = polygon_mask([BOX], *SIZE)


def packed(mask: np.ndarray) -> dict:
    run = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": run["counts"].decode()}


def counted(mask: np.ndarray) -> dict:
    return {"size": list(mask.shape), "counts": unpacked(packed(mask)["counts"])}


def one(**changes) -> dict:
    return {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [BOX], "iscrowd": 0, **changes}


def source_of(root, annotations, images=None, categories=None, names=("p.jpg",), **settings):
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (90, 80, 70)).save(root / "images" / name)
    values = {
        "images": images or [{"id": 1, "file_name": "p.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}] if categories is None else categories,
        "annotations": annotations,
    }
    (root / "c.json").write_text(json.dumps(values), encoding="utf-8")
    part = {"type": "coco", "images": "images", "annotations": "c.json", **settings}
    (root / "data.yaml").write_text(json.dumps({"train": part}), encoding="utf-8")
    return open_split(load_data(root / "data.yaml"), "train")[0][0]


def present(source, index: int = 0) -> dict[str, np.ndarray]:
    return {query.name: query.mask for query in source.sample(index).queries if query.mask is not None}


@pytest.mark.parametrize("image_id", [1, 1.0, "1", " 1"])
@pytest.mark.parametrize("category_id", [1, "1", 1.0, "cat"])
def test_ids_are_compared_by_what_they_mean(tmp_path, image_id, category_id):
    source = source_of(tmp_path, [one(image_id=image_id, category_id=category_id)])
    assert np.array_equal(present(source)["cat"], MASK)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 9}, "1 annotations of c.json have an image_id that it does not list: 9"),
        ({"image_id": None}, "an image_id that it does not list: None"),
        ({"category_id": 9}, "a category_id that it does not list: 9"),
    ],
)
def test_annotations_of_nothing_are_counted(tmp_path, change, said):
    source = source_of(tmp_path, [one(), one(id=2, **change)])
    assert any(said in finding.text and finding.left_over for finding in source.findings())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]}, 'id 1 is there for "a" and for "b"'),
        ({"categories": []}, "lists no categories"),
        ({"images": [{"id": 1, "file_name": "p.jpg"}, {"id": "1", "file_name": "q.jpg"}]}, "for p.jpg and for q.jpg"),
        ({"images": [{"id": 1, "file_name": "no.jpg"}]}, "1 of 1 photos .* are not in"),
        ({"images": [{"id": 1, "file_name": ""}]}, "both are needed"),
    ],
)
def test_what_means_two_things_or_nothing_is_said(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        source_of(tmp_path, [one()], **changes)


def test_category_names_that_are_numbers_are_text(tmp_path):
    assert source_of(tmp_path, [one()], categories=[{"id": 1, "name": 5}]).class_names == ["5"]


def test_a_root_category_without_annotations_is_not_asked_for(tmp_path):
    roots = [{"id": 0, "name": "objects", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "objects"}]
    source = source_of(tmp_path, [one()], categories=roots)
    assert source.class_names == ["cat"]
    assert any(finding.text.startswith("objects: only gathers") for finding in source.findings())


def test_crowds_that_are_most_of_a_class_are_said_to_be_doubtful(tmp_path):
    annotations = [one(), one(id=2, category_id=2, iscrowd=1, segmentation=counted(MASK))]
    with pytest.raises(DataError, match=r'1 of 1 annotations of "dog" have iscrowd 1.*`crowd: mask` or `crowd: ignore`'):
        source_of(tmp_path, annotations)
    assert np.array_equal(present(source_of(tmp_path, annotations, crowd="mask"))["dog"], MASK)
    ignored = source_of(tmp_path, annotations, crowd="ignore")
    assert np.array_equal(ignored.sample(0).ignore, MASK)
    assert "dog" in ignored.unseen


@pytest.mark.parametrize(
    "name",
    [
        "/data/local-files/?d=set/p.jpg",
        "./p.jpg",
        "sub\\..\\p.jpg",
        "/data/images/p.jpg",
        "P.JPG",
        "p%2Ejpg",
        "https://host/data/p.jpg?x=1",
        "images/p.jpg",
    ],
)
def test_photos_are_found_by_the_names_that_other_systems_write(tmp_path, name):
    source = source_of(tmp_path, [one()], images=[{"id": 1, "file_name": name, "height": 40, "width": 60}])
    assert source.photo(0).name == "p.jpg"
    assert np.array_equal(present(source)["cat"], MASK)


def test_a_photo_listed_twice_is_one_photo(tmp_path):
    entries = [{"id": 1, "file_name": "p.jpg"}, {"id": 2, "file_name": "./p.jpg"}]
    source = source_of(tmp_path, [one(), one(id=2, image_id=2, category_id=2)], images=entries)
    assert len(source) == 1
    assert set(present(source)) == {"cat", "dog"}
    assert any("listed more than once" in finding.text for finding in source.findings())


OUTLINES = {
    "polygon": [BOX],
    "polygon without its list": BOX,
    "points": [[[x, y] for x, y in zip(BOX[::2], BOX[1::2], strict=True)]],
    "points without their list": [[x, y] for x, y in zip(BOX[::2], BOX[1::2], strict=True)],
    "a point first": [[10, 10], BOX],
    "a line first": [[1, 2, 3, 4], BOX],
    "run lengths": counted(MASK),
    "packed": packed(MASK),
    "packed, in a list": [packed(MASK)],
    "whole floats": {"size": [40, 60], "counts": [float(count) for count in counted(MASK)["counts"]]},
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_in_every_spelling(name):
    assert np.array_equal(outline_mask(OUTLINES[name], *SIZE), MASK)


def test_run_lengths_are_those_of_pycocotools():
    for seed in range(20):
        mask = np.random.default_rng(seed).random(SIZE) < 0.02 * seed
        assert np.array_equal(outline_mask(packed(mask), *SIZE), mask)


def test_a_polygon_may_leave_the_picture():
    assert outline_mask([[-20, -20, 80, -20, 80, 60, -20, 60]], *SIZE).all()


SHORT = counted(MASK)["counts"][:-1]
BROKEN = {
    "nothing": ([], "boxes alone hold no mask"),
    "null": (None, "boxes alone hold no mask"),
    "empty polygon": ([[]], "no part has three points"),
    "two points": ([[1, 2, 3, 4]], "no part has three points"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers"),
    "NaN": ([[math.nan, *BOX[1:]]], "a corner is nan"),
    "infinity": ([[math.inf, *BOX[1:]]], "a corner is inf"),
    "far away": ([[1e9, *BOX[1:]]], "far outside"),
    "text": ([["1", *BOX[1:]]], "expected numbers"),
    "nested too deep": ([[[BOX]]], "expected numbers"),
    "short": ({"size": [40, 60], "counts": SHORT}, "fill .* of 2400 pixels"),
    "long": ({"size": [40, 60], "counts": [*SHORT, 10**9]}, "fill .* of 2400 pixels"),
    "negative": ({"size": [40, 60], "counts": [-5, 2405]}, "length -5"),
    "fractions": ({"size": [40, 60], "counts": [0.5, 2399.5]}, "expected whole numbers"),
    "infinite": ({"size": [40, 60], "counts": [math.inf]}, "expected whole numbers"),
    "turned": ({"size": [60, 40], "counts": [2400]}, "turned over"),
    "huge": ({"size": [10**9, 10**9], "counts": [10**18]}, "the picture is"),
    "no size": ({"counts": [2400]}, "of size None"),
    "no counts": ({"size": [40, 60]}, "expected whole numbers"),
    "odd letters": ({"size": [40, 60], "counts": "\u00e9\u00e9"}, "no such letter"),
    "cut": ({"size": [40, 60], "counts": packed(MASK)["counts"][:-1] + "o"}, "middle of a number|fill"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_outlines_that_are_none_say_why(tmp_path, name):
    segmentation, said = BROKEN[name]
    with pytest.raises(OutlineError, match=said):
        outline_mask(segmentation, *SIZE)
    with pytest.raises(DataError, match=r"c\.json: annotation 1 of image 1"):
        source_of(tmp_path, [one(segmentation=segmentation)]).sample(0)


def test_shares_of_the_width_and_height_are_no_pixels(tmp_path):
    with pytest.raises(DataError, match="between 0 and 1, as shares"):
        source_of(tmp_path, [one(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.6]])]).sample(0)


def test_the_size_comes_from_the_photo_where_the_json_has_none(tmp_path):
    source = source_of(tmp_path, [one()], images=[{"id": 1, "file_name": "p.jpg"}])
    assert np.array_equal(present(source)["cat"], MASK)


def test_photos_without_an_entry_are_files_of_their_own(tmp_path):
    there, used = source_of(tmp_path, [one()], names=("p.jpg", "q.jpg")).photo_files()
    assert {path.name for path in there - used} == {"q.jpg"}


def test_outlines_without_a_pixel_are_counted(tmp_path, capsys):
    source_of(tmp_path, [one(), one(id=2, segmentation=[[70, 5, 80, 5, 80, 15]])])
    check_data([str(tmp_path / "data.yaml")])
    assert "WARNING 1 outlines enclose no pixel of their photo" in capsys.readouterr().out


def test_panoptic_segments_of_no_category_are_counted(tmp_path):
    Image.new("RGB", (60, 40), (1, 0, 0)).save(tmp_path / "p.png")
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 7}]
    source = source_of(tmp_path, [{"image_id": 1, "file_name": "p.png", "segments_info": segments}], panoptic=".")
    assert any("1 segments have a category_id that the JSON does not list: 7 (1)" in one.text for one in source.findings())
    assert present(source)["cat"].all()
