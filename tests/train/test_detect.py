"""Which layout a folder has, and the data YAML that is written for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.exports import EXPORTS, cvat_masks, labelme, mask_folders, save_photo, save_png, save_text, scenes, write_export
from train.check_data import main as check_data
from train.data.base import DataError
from train.data.build import open_split
from train.data.config import load_data
from train.data.detect import choose, detect, write_yaml

KINDS = {
    "labelme": "labelme",
    "yolo_ultralytics": "yolo",
    "yolo_roboflow": "yolo",
    "cvat_masks": "cvat",
    "cvat_coco": "coco",
    "datumaro_coco": "coco",
    "roboflow_coco": "coco",
    "label_studio": "label_studio",
    "label_studio_coco": "coco",
    "supervisely": "supervisely",
    "instances": "instances",
    "ade20k_full": "ade20k_full",
    "voc": "voc",
    "sbd": "sbd",
    "mask_folders": "folder",
}


def photos(path: Path, split: str) -> set[Path]:
    return {source.photo(i) for source, _ in open_split(load_data(path), split) for i in range(len(source))}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_known_and_its_yaml_reads_it(tmp_path, name, capsys):
    root = write_export(name, tmp_path / "export")
    assert [guess.kind for guess in detect(root)] == [KINDS[name]]
    check_data([str(root)])  # ends with another status where anything is wrong
    printed = capsys.readouterr().out
    assert f"looks like {KINDS[name]}: " in printed
    assert "PROBLEM" not in printed
    path = root / ("digseg.yaml" if KINDS[name] == "yolo" else "data.yaml")
    parts = {split: photos(path, split) for split in ("train", "validation", "test")}
    assert all(parts.values())
    assert not parts["train"] & (parts["validation"] | parts["test"])
    labelled = len(scenes()) if name not in ("cvat_masks", "instances") else 7  # the others have no labels there
    assert len(set.union(*parts.values())) == labelled


def test_a_yaml_is_never_overwritten_without_force(tmp_path):
    root = write_export("labelme", tmp_path / "export")
    save_text(root / "data.yaml", "mine")
    with pytest.raises(SystemExit, match="is there already"):
        check_data([str(root)])
    assert (root / "data.yaml").read_text() == "mine"
    check_data([str(root), "--force"])
    assert "labelme" in (root / "data.yaml").read_text()
    yolo = write_export("yolo_roboflow", tmp_path / "yolo")
    theirs = (yolo / "data.yaml").read_text()
    check_data([str(yolo), "--force"])
    assert (yolo / "data.yaml").read_text() == theirs


def test_two_layouts_are_both_named(tmp_path):
    root = write_export("labelme", tmp_path / "export")
    cvat_masks(root)
    with pytest.raises(DataError, match=r'can be 2 layouts: "labelme" \(.*\); "cvat" \(.*\). Say which with --as'):
        choose(root)
    assert choose(root, "cvat").values["common"]["type"] == "cvat"
    with pytest.raises(DataError, match="can be 2 layouts"):
        choose(root, "yolo")


def test_folders_without_a_known_layout(tmp_path):
    (tmp_path / "notes").mkdir()
    save_text(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match=r"no layout that is known; it holds a.txt, notes/\. See the table in docs/exports.md"):
        choose(tmp_path)
    with pytest.raises(DataError, match="There is no folder"):
        choose(tmp_path / "nowhere")


def test_masks_in_splits(tmp_path):
    for split in ("train", "val"):
        mask_folders(tmp_path / split)
    guess = choose(tmp_path)
    assert guess.kind == "folder"
    assert guess.values["train"] == {"images": "train/images", "masks": "train/masks"}
    assert guess.values["validation"] == {"images": "val/images", "masks": "val/masks"}


def paired(root: Path, pixels, suffix: str = ".png", affix: str = "", palette: list[int] | None = None) -> dict:
    """The source settings found for photos with one label file each; `pixels` makes a label file of a scene."""
    shutil.rmtree(root, ignore_errors=True)
    for scene in scenes(4):
        save_photo(root / f"images/{scene.name}.jpg", scene)
        save_png(root / f"masks/{scene.name}{affix}{suffix}", pixels(scene), palette)
    guess = choose(root)
    source = open_split(load_data(write_yaml(guess, root, force=False)), "train")[0][0]
    assert len(source) == 2  # of four, one each is for validation and test
    return {**guess.values["common"], "read": source.class_names}


def test_label_files_are_read_by_what_they_hold(tmp_path):
    def black_and_white(scene):
        return scene.mask("cat").astype(np.uint8) * 255

    def numbers(scene):
        return scene.mask("cat").astype(np.uint8) * 2 + scene.mask("dog").astype(np.uint8)

    def colours(scene):
        return scene.mask("cat")[..., None] * np.array([255, 0, 128], np.uint8)

    found = paired(tmp_path, black_and_white)
    assert (found["type"], found["images"], found["masks"]) == ("binary", "images/*.jpg", "masks/{1}.png")
    assert paired(tmp_path, black_and_white, ".jpg")["type"] == "binary"
    assert paired(tmp_path, black_and_white, affix="_mask")["masks"] == "masks/{1}_mask.png"
    assert paired(tmp_path, numbers)["classes"] == {"class 1": 1, "class 2": 2}
    assert paired(tmp_path, numbers, palette=[0, 0, 0, 255, 0, 0, 0, 0, 255])["classes"] == {"class 1": 1, "class 2": 2}
    assert paired(tmp_path, colours)["classes"] == {"colour 255 0 128": [255, 0, 128]}


def test_pascal_voc_of_other_classes(tmp_path):
    root = write_export("voc", tmp_path / "export") / "VOCdevkit/VOC2012"
    save_text(root / "class_names.txt", "_background_\n" + "\n".join(f"thing {i}" for i in range(1, 13)) + "\n")
    common = choose(root).values["common"]
    assert (common["root"], common["classes"]["thing 8"], "_background_" in common["classes"]) == (".", 8, False)
    (root / "class_names.txt").unlink()
    for path in (root / "SegmentationClass").glob("*.png"):
        numbers = np.array(Image.open(path))
        numbers[numbers == 8] = 33
        save_png(path, numbers)
    guess = choose(root)
    assert guess.values["common"]["classes"] == {"class 12": 12, "class 33": 33}
    assert guess.hints == ("Give the class numbers their names.",)


def test_label_studio_without_its_photos_says_so(tmp_path):
    root = write_export("label_studio", tmp_path / "export")
    shutil.rmtree(root / "images")
    assert "The photos are not in this folder" in choose(root).hints[0]
    with pytest.raises(SystemExit, match="problems"):
        check_data([str(root)])


def test_labelme_in_folders_of_splits(tmp_path):
    for split in ("train", "val"):
        labelme(tmp_path / split)
    values = choose(tmp_path).values
    assert (values["train"], values["validation"]) == ({"annotations": "train"}, {"annotations": "val"})


def test_ade20k_of_2016_is_named(tmp_path):
    folder = tmp_path / "images/training/a/abbey"
    folder.mkdir(parents=True)
    for name in ("ADE_train_00000001.jpg", "ADE_train_00000001_seg.png"):
        Image.new("RGB", (20, 10)).save(folder / name)
    (folder / "ADE_train_00000001_atr.txt").write_text('001 # 0 # 0 # sky # sky # ""\n')
    with pytest.raises(DataError, match="2016_07_26"):
        choose(tmp_path, None)
    (tmp_path / "d.yaml").write_text("train: {type: ade20k_full, root: images, classes: [sky]}\n")
    with pytest.raises(DataError, match="2016_07_26"):
        open_split(load_data(tmp_path / "d.yaml"), "train")


@pytest.mark.parametrize("name", ["roboflow_coco", "cvat_coco", "labelme", "label_studio"])
def test_label_files_that_cannot_be_read_are_named(tmp_path, name):
    root = write_export(name, tmp_path / "export")
    found = sorted(root.rglob("*.json"))
    broken = found[0].with_name("0_half.json")
    broken.write_bytes(found[0].read_bytes()[:-20])
    assert "0_half.json" in choose(root).hints[0]
    for path in found:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"Left out, for it could not be read: .*json"):
        choose(root)


def test_a_yolo_yaml_that_cannot_be_read_is_named(tmp_path):
    root = write_export("yolo_roboflow", tmp_path / "export")
    (root / "data.yaml").write_text("names: [cat, dog\ntrain: images\n")
    with pytest.raises(DataError, match=r"Left out, for it could not be read: .*data\.yaml"):
        choose(root)
