"""Whatever the label files of an export hold, they are read or refused in words, soon, and in bounded memory."""

import json
import os
import random
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from tests.bad_files import put
from tests.bad_labels import KINDS, mutate_export
from tests.train.exports import write_export
from train.check_data import check, describe
from train.data.base import DataError
from train.data.outlines import LONGEST, OutlineError, outline_mask
from train.settings.yaml_config import ConfigError

CASES, SOON = int(os.environ.get("DIGSEG_FUZZ_CASES", "100")), 10.0
COCO, LABELME, STUDIO = "roboflow_coco", "labelme", "label_studio"
ANNOTATION = ("annotations", 0)
REGION = (0, "annotations", 0, "result", 0)
HALF = "holds half a letter"
ROWS = [
    (COCO, ("images", 0, "height"), 10**9, "64 x 1000000000 pixels; expected whole numbers above 0, and up to 178 million"),
    (COCO, ("images", 0, "file_name"), "http://[", "photos that"),
    (COCO, ("images", 0, "file_name"), "y" * 5000, r"\(5000 letters\)"),
    (COCO, ("images", 0, "file_name"), "a\0b", "photos that"),
    (COCO, ("images", 0, "file_name"), "\ud800", HALF),
    (COCO, ("images",), 0, "is not COCO JSON .*images is no list of entries"),
    (COCO, ("images", 0), 7, "is not COCO JSON .*images is no list of entries"),
    (COCO, ("categories", 1, "name"), "\ud800", HALF),
    (COCO, (*ANNOTATION, "segments_info"), 3, "segments_info is 3"),
    (COCO, (*ANNOTATION, "segments_info"), [1], r"segments_info is \[1\]"),
    (COCO, (*ANNOTATION, "segmentation"), {"size": 1, "counts": []}, "its run lengths are of size 1"),
    (COCO, (*ANNOTATION, "segmentation"), {"size": [10**9, 10**9], "counts": [0, 10**18]}, "run lengths are of size"),
    (COCO, (*ANNOTATION, "segmentation"), {"size": [48, 64], "counts": [-5, 5]}, "a run has the length -5"),
    (COCO, (*ANNOTATION, "segmentation"), {"size": [48, 64], "counts": [0, 10**18]}, "fill 1e.18 of 3072 pixels"),
    (COCO, (*ANNOTATION, "segmentation"), [[float("inf")] * 6], "a corner is inf"),
    (COCO, (*ANNOTATION, "segmentation"), [[1e18, 2, 3, 4, 5, 6]], "far outside of the picture"),
    (COCO, (*ANNOTATION, "segmentation"), [[-100000, 0, 100000, 1] * 50], r"is 20,000,[0-9]* pixels long; up to 4,000,000"),
    (COCO, (*ANNOTATION, "segmentation"), [[[]]], "a polygon is"),
    (COCO, (*ANNOTATION, "segmentation"), [], "boxes alone hold no mask"),
    (LABELME, ("imageHeight",), -0.5, "expected whole numbers above 0"),
    (LABELME, ("imageWidth",), True, "expected whole numbers above 0"),
    (LABELME, ("imageWidth",), 10**30, "expected whole numbers above 0"),
    (LABELME, ("shapes", 0, "points", 0), "x", "is no mask: its points are"),
    (LABELME, ("shapes", 0, "points", 0), [float("nan"), 1], "a corner is nan"),
    (LABELME, ("shapes", 0, "label"), "\ud800", HALF),
    (LABELME, ("imagePath",), "y" * 5000, r"\(5000 letters\)"),
    (STUDIO, (0, "annotations"), 7, "holds something that no such file has"),
    (STUDIO, (0, "annotations", 0), None, "holds something that no such file has"),
    (STUDIO, (*REGION, "value"), [None], "holds something that no such file has"),
    (STUDIO, (*REGION, "value", "points", 0), "x", "is no mask"),
    (STUDIO, (*REGION, "original_width"), [[1]], "expected whole numbers above 0"),
    (STUDIO, (0, "data", "image"), "http://[", None),
    (STUDIO, (0, "file_upload"), 0.5, None),
    ("supervisely", ("size", "height"), -1, "expected whole numbers above 0"),
    ("supervisely", ("size", "height"), float("nan"), "expected whole numbers above 0"),
    ("supervisely", ("size", "width"), float("inf"), "expected whole numbers above 0"),
    ("supervisely", ("objects", 0, "points", "interior"), [None], "is no mask"),
    ("supervisely", ("objects", 0, "points", "exterior", 0, 1), "y" * 5000, "is no mask"),
    ("supervisely", ("objects",), 3, "is not Supervisely's"),
    ("ade20k_full", ("annotation", "object", 0, "parts", "part_level"), float("inf"), "is not ADE20K's"),
]


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """The good exports, written once."""
    root = tmp_path_factory.mktemp("exports")
    return {name: write_export(name, root / name) for name in KINDS}


def outcome(folder, data=None) -> str:
    """What check_data says about a folder, with a data YAML or as it looks: "" where it reads everything, else its errors. Other
    exceptions pass through."""
    try:
        return "; ".join(check(data or describe(folder, None, True), None).problems)
    except (DataError, ConfigError) as error:
        return str(error)


@pytest.mark.parametrize(("kind", "place", "value", "words"), ROWS, ids=[f"{r[0]}-{r[1]}-{r[2]!r:.20}"[:80] for r in ROWS])
def test_an_odd_value_in_a_label_file_is_refused_in_words(tmp_path, exports, kind, place, value, words):
    folder = shutil.copytree(exports[kind], tmp_path / "export")
    data = describe(folder, None, True)
    for file in sorted(folder.rglob("*.json")):
        values = json.loads(file.read_bytes())
        if "meta" not in file.name and isinstance(values, dict | list):
            put(values, place, value)
            file.write_text(json.dumps(values), encoding="utf-8")
            break
    said = outcome(folder, data)
    assert "\n" not in said and len(said) < 2000
    if words is None:
        assert said == ""
    else:
        with pytest.raises(DataError, match=words):
            raise DataError(said)


@pytest.mark.parametrize("field", ["image_id", "category_id"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, 10**30, None])
def test_an_id_that_can_be_none_is_counted(tmp_path, exports, field, value, capsys):
    folder = shutil.copytree(exports[COCO], tmp_path / "export")
    file = folder / "train/_annotations.coco.json"
    values = json.loads(file.read_bytes())
    put(values, (*ANNOTATION, field), value)
    file.write_text(json.dumps(values), encoding="utf-8")
    assert outcome(folder) == ""
    assert f"1 annotations of {file.name} have a" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [name for name in KINDS if "cvat_masks" in name])
@pytest.mark.parametrize("name", ["labelmap.txt", "ImageSets/Segmentation/default.txt"])
def test_a_list_that_is_no_text_is_named(tmp_path, exports, kind, name):
    folder = shutil.copytree(exports[kind], tmp_path / "export")
    (folder / "data.yaml").write_text("train: {type: cvat, root: .}\n", encoding="utf-8")
    (folder / name).write_bytes(b"cat\xb1")
    assert "is not UTF-8 text" in "; ".join(check(folder / "data.yaml", None).problems)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize("kind", ["labelme", "label_studio", "roboflow_coco"])
def test_pipes_among_label_files_are_passed_over(tmp_path, exports, kind):
    folder = shutil.copytree(exports[kind], tmp_path / "export")
    for name in ("0.json", "0.jpg", "0.png", "0.txt", "labelmap.txt", "data.yml"):
        os.mkfifo(folder / name)
    assert outcome(folder) == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_list_of_photos_that_is_a_pipe_is_named(tmp_path, exports):
    folder = shutil.copytree(exports[COCO], tmp_path / "export")
    file = folder / "train/_annotations.coco.json"
    file.unlink()
    os.mkfifo(file)
    (folder / "data.yaml").write_text("train: {type: coco, images: train, annotations: train/_annotations.coco.json}\n")
    assert "There is no annotation file" in "; ".join(check(folder / "data.yaml", None).problems)


def test_a_long_outline_inside_of_the_picture_is_drawn():
    side = 4000
    comb = [value for x in range(0, side, 8) for value in (x, 0, x + 4, side)]
    assert outline_mask([comb], side, side).any()
    with pytest.raises(OutlineError, match="pixels long"):
        outline_mask([comb * 4], side, side)
    assert side * side / 4 <= LONGEST


def test_mutated_exports_are_read_or_refused(tmp_path, exports, capsys):
    rng, read, folder = random.Random(0), 0, tmp_path / "export"
    for _ in range(CASES):
        kind = rng.choice(KINDS)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exports[kind], folder)
        done, started = mutate_export(folder, rng), time.monotonic()
        try:
            read += outcome(folder) == ""
        except Exception as error:
            pytest.fail(f"{kind}, {done}: {error!r}")
        assert time.monotonic() - started < SOON, f"{kind}, {done}"
    assert CASES / 3 < read < CASES


def test_a_flood_of_pixels_is_read_in_bounded_memory(tmp_path):
    """12,000 x 12,000 grey pixels in 140 KB: no more than a few bytes for each while they are read."""
    resource = pytest.importorskip("resource")  # POSIX
    from train.data.pixels import read_photo

    path = tmp_path / "flood.png"
    Image.fromarray(np.zeros((12_000, 12_000), np.uint8)).save(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert path.stat().st_size < 200_000 and read_photo(path).shape == (12_000, 12_000, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2.5 * 2**20  # KiB
