"""Other inputs of the kinds of fault K1 to K7 and K21 to K23: read right, or named before anything is trained."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.train.helpers import folder_dataset
from tests.train.test_account import checked, paired, source_of
from tests.train.test_coco import BOX, one
from tests.train.test_coco import source_of as coco_source
from train.check_data import main as check_data
from train.data.base import DataError
from train.data.coco_json import PhotoFiles
from train.data.config import load_data
from train.data.marks import read_mask
from train.data.names import is_foreign
from train.data.outlines import OutlineError, outline_mask
from train.data.pixels import read_photo
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError

SMALL = np.zeros((64, 96), bool)
SMALL[10:18, 10:18] = True
"""One percent of the picture."""


def small(colour, alpha) -> Image.Image:
    colours = np.zeros((*SMALL.shape, 3), np.uint8)
    colours[SMALL] = colour
    return Image.fromarray(np.dstack([colours, alpha]))


def alphas() -> dict[str, np.ndarray]:
    full = np.full(SMALL.shape, 255, np.uint8)
    noise, corner, line = full.copy(), full.copy(), full.copy()
    noise[::7, ::5], corner[:6, :6], line[:, :1] = 254, 0, 0
    return {"noise": noise, "corner": corner, "line": line}


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255)])
@pytest.mark.parametrize("alpha", ["noise", "corner", "line"])
def test_a_small_thing_on_black_is_found_whatever_the_alpha_channel_does_elsewhere(tmp_path, colour, alpha):
    small(colour, alphas()[alpha]).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png")[0], SMALL)


def test_transparent_pixels_around_black_are_still_a_layer(tmp_path):
    """Black, opaque where the thing is: nothing lit in it."""
    alpha = np.where(SMALL, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([np.zeros((*SMALL.shape, 3), np.uint8), alpha])).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png")[0], SMALL)


def test_masks_that_cover_most_of_their_photos_are_asked_about_with_every_cure(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    for mask in (tmp_path / "masks").rglob("*.png"):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
    _, printed = checked(data, capsys)
    assert "`marks: dark`" in printed
    assert "`marks: transparent`" in printed


@pytest.mark.parametrize("suffix", ["gif", "jfif", "tga", "ppm", "jp2"])
def test_masks_and_photos_of_rarer_formats_are_taken(tmp_path, suffix):
    data = folder_dataset(tmp_path)
    mask = sorted((tmp_path / "masks").rglob("*.png"))[0]
    name, before = mask.parent.name, source_of(data).sample(0)
    Image.open(mask).save(mask.with_suffix(f".{suffix}"), format="JPEG" if suffix == "jfif" else None)
    mask.unlink()
    after = source_of(data).sample(0)
    wanted = next(query.mask for query in before.queries if query.name == name)
    assert (next(query.mask for query in after.queries if query.name == name) != wanted).mean() < 0.03


@pytest.mark.parametrize("name", ["0.npy", "0.heic", "0", "0.svg"])
def test_files_among_the_masks_that_are_not_read_are_named(tmp_path, capsys, name):
    data = folder_dataset(tmp_path)
    folder = sorted(path for path in (tmp_path / "masks").iterdir())[0]
    (folder / name).write_bytes(b"x")
    _, printed = checked(data, capsys)
    assert f"class {folder.name}: 1 files in" in printed
    assert name in printed


@pytest.mark.parametrize("name", ["~$0.jpg", "#recycle", "@Recycle", "lost+found", "__MacOSX", "THUMBS.DB", "Icon\r", ".venv"])
def test_what_systems_leave_behind_is_foreign(name):
    assert is_foreign(name)


def test_class_folders_that_differ_in_case_are_named(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    folder = sorted(path for path in (tmp_path / "masks").iterdir())[0]
    other = folder.with_name(folder.name.upper())
    other.mkdir()
    mask = sorted(folder.glob("*.png"))[0]
    mask.rename(other / mask.name)
    _, printed = checked(data, capsys)
    assert "phrases ask for several classes" in printed
    assert other.name in printed


def labelme(root, labels, **settings):
    for number, label in enumerate(labels):
        Image.new("RGB", (60, 40), (90, 80, 70 + number)).save(root / f"{number}.jpg")
        shape = {"label": label, "points": [BOX[:2], BOX[2:4], BOX[4:6], BOX[6:]], "shape_type": "polygon"}
        values = {"shapes": [shape], "imagePath": f"{number}.jpg", "imageHeight": 40, "imageWidth": 60}
        (root / f"{number}.json").write_text(json.dumps(values), encoding="utf-8")
    part = {"type": "labelme", "annotations": ".", **settings}
    (root / "data.yaml").write_text(json.dumps({"train": part}), encoding="utf-8")
    return root / "data.yaml"


def test_labels_with_spaces_around_them_are_one(tmp_path):
    assert source_of(labelme(tmp_path, ["cat", "cat ", " cat"])).class_names == ["cat"]


@pytest.mark.parametrize("other", ["Cat", "CAT", "cat"])
def test_labels_nearly_a_class_are_left_over(tmp_path, capsys, other):
    status, printed = checked(labelme(tmp_path, ["cat", other], classes=["cat"]), capsys, "--strict")
    assert ("nearly the name of one" in printed) == (other != "cat")
    assert status == (other != "cat")


def test_labels_that_differ_in_case_are_named_where_both_become_classes(tmp_path, capsys):
    _, printed = checked(labelme(tmp_path, ["red cat", "Red_Cat"]), capsys)
    assert "phrases ask for several classes" in printed


def test_coco_names_are_trimmed_and_roots_found_in_any_case(tmp_path):
    categories = [{"id": 0, "name": "Things", "supercategory": "none"}, {"id": 1, "name": " cat ", "supercategory": "things"}]
    assert coco_source(tmp_path, [one()], categories=categories).class_names == ["cat"]


@pytest.mark.parametrize("name", [None, ["cat"], {}, "", "  "])
def test_coco_categories_without_a_name_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="expected text"):
        coco_source(tmp_path, [one()], categories=[{"id": 1, "name": name}])


@pytest.mark.parametrize("change", [{"image_id": [1]}, {"category_id": {"id": 1}}])
def test_ids_that_can_be_none_are_counted(tmp_path, change):
    texts = [found.text for found in coco_source(tmp_path, [one(), {**one(), "id": 2, **change}]).findings()]
    assert any("1 annotations" in text and str(next(iter(change.values()))) in text for text in texts)


@pytest.mark.parametrize("side", [10**7, 10**30])
def test_a_size_that_no_photo_has_is_refused(tmp_path, side):
    images = [{"id": 1, "file_name": "p.jpg", "height": side, "width": side}]
    with pytest.raises(DataError, match="million pixels"):
        coco_source(tmp_path, [one()], images=images)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10**400, *BOX[1:]]],
        [[float("nan"), *BOX[1:]]],
        {"size": 5, "counts": [1]},
        {"size": [40, 60], "counts": [10**400]},
        {"size": [40, 60], "counts": [float("inf")]},
    ],
)
def test_numbers_that_are_no_places_are_no_crash(segmentation):
    with pytest.raises(OutlineError):
        outline_mask(segmentation, 40, 60)


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "a\0b.jpg"])
def test_file_names_that_no_file_can_have_are_not_found(tmp_path, name):
    assert PhotoFiles(tmp_path).find(name) is None


def test_a_photo_under_two_names_is_named(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    first = sorted((tmp_path / "images").iterdir())[0]
    shutil.copy(first, first.with_stem("copy"))
    _, printed = checked(data, capsys)
    assert "1 photos are there under several names" in printed
    assert "copy" in printed


def test_photos_that_begin_alike_are_no_copies(tmp_path, capsys):
    """Uncompressed photos of one size with a black border."""
    data = folder_dataset(tmp_path, size=(256, 256))
    for number, photo in enumerate(sorted((tmp_path / "images").iterdir())):
        pixels = np.zeros((256, 256, 3), np.uint8)
        pixels[:100] = 40 * number + 20  # BMP files begin with the last row
        photo.unlink()
        Image.fromarray(pixels).save(photo.with_suffix(".bmp"))
    _, printed = checked(data, capsys)
    assert "several names" not in printed


def test_16_bit_where_zero_is_white_is_turned_over(tmp_path):
    from tifffile import imwrite

    grey = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    imwrite(tmp_path / "a.tif", 65535 - grey, photometric="miniswhite")
    assert abs(read_photo(tmp_path / "a.tif")[..., 0].astype(int) - grey // 257).max() <= 1


@pytest.mark.parametrize("level", [1, 254])
def test_photos_that_are_black_or_white_all_over_are_named(tmp_path, capsys, level):
    data = folder_dataset(tmp_path)
    for photo in sorted((tmp_path / "images").iterdir())[:2]:
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(photo)
    _, printed = checked(data, capsys)
    assert "2 photos are nearly black or white all over" in printed


@pytest.mark.parametrize(
    ("classes", "ignore"),
    [("type: index, classes: {a: 1, b: 1}", "a and b"), ("type: index, classes: {a: [1, 7], b: [7, 1]}", "a")],
)
def test_two_classes_of_the_same_pixels_are_named(tmp_path, capsys, classes, ignore):
    _, printed = checked(paired(tmp_path, classes, np.eye(20, dtype=np.uint8)), capsys)
    assert "are the same number or colour" in printed
    assert ignore in printed


def test_nested_classes_are_no_mistake(tmp_path, capsys):
    label = np.zeros((20, 40), np.uint8)
    label[:10], label[10:15] = 1, 2
    _, printed = checked(paired(tmp_path, "type: index, classes: {vehicle: [1, 2], car: 1}", label), capsys)
    assert "same number" not in printed


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "index", "classes": {"a": 255}, "ignore": [255]}, "a class and under `ignore:`"),
        ({"type": "colour", "classes": {"a": [1, 2, 3]}, "ignore": [[1, 2, 3]]}, "a class and under `ignore:`"),
        ({"type": "index", "classes": ["a", "b", "a"]}, "twice"),
        ({"type": "index", "classes": ["a"], "absent_per_image": 1001}, "0 to 1000"),
    ],
)
def test_settings_that_lose_a_class_are_refused(tmp_path, part, said):
    paths = {"root": ".", "images": "*.jpg", "masks": "{1}.png"}
    (tmp_path / "d.yaml").write_text(json.dumps({"train": {**part, **paths}}))
    with pytest.raises(ConfigError, match=said):
        load_data(tmp_path / "d.yaml")


@pytest.mark.parametrize("text", ["010", "1:30"])
def test_class_names_that_older_yaml_takes_for_numbers_are_text(tmp_path, text):
    folder_dataset(tmp_path)
    folder = sorted(path for path in (tmp_path / "masks").iterdir())[0]
    folder.rename(folder.with_name(text))
    (tmp_path / "d.yaml").write_text(f"train: {{type: folder, images: images, masks: masks, classes: [{text}]}}\n")
    assert source_of(tmp_path / "d.yaml").class_names == [text]


@pytest.mark.parametrize(("written", "meant"), [("seed: 010", 10), ("seed: 0x10", 16), ("seed: 1_0", 10)])
def test_whole_numbers_have_base_10_unless_they_say_so(config_file, written, meant):
    config_file.write_text(config_file.read_text() + written + "\n")
    assert load_config(config_file).seed == meant


def test_base_60_is_no_number(config_file):
    with pytest.raises(ConfigError, match="1:30"):
        load_config(config_file, ["seed=1:30"])


@pytest.mark.parametrize("word", ["No", "off", "false", "NO", "fp32", "none"])
def test_no_precision_in_other_words(config_file, word):
    assert load_config(config_file, [f"mixed_precision={word}"]).mixed_precision == "no"


@pytest.mark.parametrize("word", ["", "~", "yes", "16"])
def test_what_is_no_precision_is_refused(config_file, word):
    with pytest.raises(ConfigError, match="mixed_precision"):
        load_config(config_file, [f"mixed_precision={word}"])


def test_names_of_the_environment_in_paths(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_OF_MINE", str(tmp_path))
    assert load_config(config_file, ["output=$RUNS_OF_MINE/a"]).output == tmp_path / "a"


def test_a_source_that_cannot_be_opened_counts_no_images(tmp_path, capsys):
    (tmp_path / "d.yaml").write_text("train: {type: folder, images: nowhere, masks: nowhere}\n")
    with pytest.raises(SystemExit):
        check_data([str(tmp_path / "d.yaml")])
    printed = capsys.readouterr().out
    assert "PROBLEM" in printed
    assert "drawn" not in printed
    assert "0 images" not in printed
