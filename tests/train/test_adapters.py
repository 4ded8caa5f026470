"""The layouts of public data sets: class numbers, colours, single masks, COCO; unlabelled pixels; the ready-made YAMLs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask
from scipy.io import savemat

from digseg_nodes.core.prompts import parse_prompts, preset_text
from train.check_data import main as check_data
from train.data.base import DataError
from train.data.build import open_split
from train.data.config import DataConfig, load_data
from train.data.registry import open_source

CONFIGS = Path(__file__).resolve().parents[2] / "train" / "configs" / "data"
LABELS = np.zeros((40, 60), np.uint8)
LABELS[5:15, 5:25], LABELS[20:35, 30:55], LABELS[:, :2] = 1, 2, 255


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def source_of(root: Path, yaml: str):
    (root / "data.yaml").write_text(f"train: {yaml}\n", encoding="utf-8")
    return open_split(load_data(root / "data.yaml"), "train")[0][0]


@pytest.mark.parametrize("palette", [False, True])
def test_class_numbers_grey_or_palette(tmp_path, palette):
    photo(tmp_path / "left/a/one_img.png")
    image = Image.fromarray(LABELS)
    if palette:
        image = image.convert("P")
        image.putdata(LABELS.flatten().tolist())
    (tmp_path / "right/a").mkdir(parents=True)
    image.save(tmp_path / "right/a/one_lab.png")
    source = source_of(
        tmp_path,
        '{type: index, root: ., images: left/*/*_img.png, masks: "right/{1}/{2}_lab.png", '
        "classes: {sky: 1, tree: [2, 3], sea: 4}, phrases: {tree: [oak]}, templates: ['the {}'], ignore: [255], absent: [sea]}",
    )
    sample = source.sample(0)
    sky, tree, sea = sample.queries
    assert np.array_equal(sky.mask, LABELS == 1)
    assert tree.prompts == ("tree", "oak", "the tree", "the oak")
    assert (sea.name, sea.mask, sea.group) == ("sea", None, "absent_random")
    assert np.array_equal(sample.ignore, LABELS == 255)


def test_lists_and_presets_number_the_classes(tmp_path):
    photo(tmp_path / "JPEGImages/a.jpg")
    photo(tmp_path / "JPEGImages/b.jpg")
    picture(tmp_path / "Seg/a.png", LABELS)
    (tmp_path / "train.txt").write_text("a\n", encoding="utf-8")
    source = source_of(
        tmp_path,
        '{type: index, root: ., images: JPEGImages/*.jpg, masks: "Seg/{1}.png", list: train.txt, '
        "preset: pascal-voc-20, first: 1, ignore: [255]}",
    )
    assert len(source) == 1
    assert [query.name for query in source.sample(0).queries[:2]] == ["aeroplane", "bicycle"]
    assert "airplane" in source.sample(0).queries[0].prompts


def test_lists_name_photos_with_spaces_or_say_more_about_them(tmp_path):
    for name in ("my cat 1", "b", "c"):
        photo(tmp_path / f"{name}.jpg")
        picture(tmp_path / f"{name}.png", LABELS)
    yaml = '{type: index, root: ., images: "*.jpg", masks: "{1}.png", list: train.txt, classes: [a]}'
    (tmp_path / "train.txt").write_text("# mine\nmy cat 1\n\nb  -1\n", encoding="utf-8-sig")
    assert [image.stem for image, _ in source_of(tmp_path, yaml).pairs] == ["b", "my cat 1"]
    (tmp_path / "train.txt").write_text("c\nd\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 2 lines of .*train.txt name no photo, e.g. 'd'; .* like '"):
        source_of(tmp_path, yaml)
    for content, complaint in ((b" \n", "names no photo: it is empty"), ("ä".encode("latin-1"), "is not UTF-8 text")):
        (tmp_path / "train.txt").write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            source_of(tmp_path, yaml)
    (tmp_path / "train.txt").write_text("c", encoding="utf-8")
    assert len(source_of(tmp_path, yaml.replace("*.jpg", ".//*.jpg")).pairs) == 1


def test_a_list_is_below_the_root_wherever_the_data_is_described(tmp_path):
    photo(tmp_path / "set/a.jpg")
    picture(tmp_path / "set/a.png", LABELS)
    (tmp_path / "set/train.txt").write_text("a 1\n", encoding="utf-8")
    described = {"type": "index", "root": str(tmp_path / "set"), "images": "*.jpg", "masks": "{1}.png", "list": "train.txt"}
    inline = DataConfig(train=[{**described, "classes": ["a"]}])
    assert len(open_split(inline, "train")[0][0]) == 1


def test_class_colours(tmp_path):
    photo(tmp_path / "1_sat.jpg")
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[LABELS == 1], colours[LABELS == 2] = (0, 0, 255), (0, 255, 0)
    picture(tmp_path / "1_mask.png", colours)
    source = source_of(
        tmp_path,
        '{type: colour, root: ., images: "*_sat.jpg", masks: "{1}_mask.png", '
        "classes: {water: [0, 0, 255], forest: [0, 255, 0]}, ignore: [[0, 0, 0]]}",
    )
    sample = source.sample(0)
    assert [q.name for q in sample.queries] == ["water", "forest"]
    assert np.array_equal(sample.queries[0].mask, LABELS == 1)
    assert np.array_equal(sample.ignore, (LABELS != 1) & (LABELS != 2))


def test_single_masks(tmp_path):
    photo(tmp_path / "images/x.jpg")
    picture(tmp_path / "masks/x.jpg", (LABELS == 2).astype(np.uint8) * 255)
    source = source_of(tmp_path, '{type: binary, root: ., images: images/*.jpg, masks: "masks/{1}.jpg", name: polyp}')
    (query,) = source.sample(0).queries
    assert query.name == "polyp"
    assert (query.mask != (LABELS == 2)).mean() < 0.02  # the masks are JPEG files


def coco_file(path: Path) -> None:
    box = [30, 20, 55, 20, 55, 35, 30, 35]
    run = {"counts": [0, 40, 2360], "size": [40, 60]}
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [box], "iscrowd": 0, "area": 375, "bbox": [30, 20, 25, 15]},
        {"id": 2, "image_id": 7, "category_id": 3, "segmentation": run, "iscrowd": 1, "area": 40, "bbox": [0, 0, 1, 40]},
    ]
    values = {
        "images": [{"id": 7, "file_name": "p.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(values), encoding="utf-8")


def test_coco_polygons_and_crowds(tmp_path):
    photo(tmp_path / "p.jpg")
    coco_file(tmp_path / "c.json")
    sample = source_of(tmp_path, "{type: coco, images: ., annotations: c.json, absent: [dog]}").sample(0)
    assert [(q.name, q.group) for q in sample.queries] == [("cat", "seen"), ("dog", "absent_random")]
    assert sample.queries[0].mask[21:34, 31:54].all()
    assert sample.ignore[:, 0].all()
    assert not sample.ignore[:, 1:].any()


def test_coco_boxes_without_outline_are_named(tmp_path):
    photo(tmp_path / "p.jpg")
    coco_file(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text())
    values["annotations"][0]["segmentation"] = []
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="annotation 1 of image 7 has no outline"):
        source_of(tmp_path, "{type: coco, images: ., annotations: c.json}").sample(0)


def test_coco_categories_that_share_a_name_are_one_class(tmp_path):
    photo(tmp_path / "p.jpg")
    coco_file(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text())
    values["categories"].append({"id": 9, "name": "cat"})
    (tmp_path / "c.json").write_text(json.dumps(values))
    sample = source_of(tmp_path, "{type: coco, images: ., annotations: c.json}").sample(0)
    assert sample.queries[0].mask[21:34, 31:54].all()


def test_coco_photos_are_taken_as_their_labels_see_them(tmp_path):
    coco_file(tmp_path / "c.json")
    lying = Image.new("RGB", (60, 40))
    lying.paste("red", (0, 0, 60, 5))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying.save(tmp_path / "p.jpg", exif=exif)
    yaml = "{type: coco, images: ., annotations: c.json}"
    assert source_of(tmp_path, yaml).sample(0).image.shape == (40, 60, 3)  # outlines of the pixels as they are stored
    values = json.loads((tmp_path / "c.json").read_text())
    values["images"][0] |= {"height": 60, "width": 40}
    values["annotations"] = values["annotations"][:1]
    (tmp_path / "c.json").write_text(json.dumps(values))
    upright = source_of(tmp_path, yaml).sample(0).image
    assert upright.shape == (60, 40, 3)
    assert (upright[:, -3:, 0] > 200).all()  # the upper edge is on the right now


def test_coco_compressed_run_lengths(tmp_path):
    photo(tmp_path / "p.jpg")
    coco_file(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    encoded = mask.encode(np.asfortranarray(LABELS == 2, np.uint8))
    run = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    values["annotations"] = [{"id": 1, "image_id": 7, "category_id": 5, "segmentation": run, "iscrowd": 0}]
    (tmp_path / "c.json").write_text(json.dumps(values), encoding="utf-8")
    sample = source_of(tmp_path, "{type: coco, images: ., annotations: c.json, classes: [dog]}").sample(0)
    assert np.array_equal(sample.queries[0].mask, LABELS == 2)
    assert sample.ignore is None


def test_coco_panoptic(tmp_path):
    photo(tmp_path / "p.jpg")
    ids = np.zeros((40, 60, 3), np.uint8)
    ids[LABELS == 1], ids[LABELS == 2] = (44, 1, 0), (1, 0, 0)  # 300 and 1
    picture(tmp_path / "pan/p.png", ids)
    segments = [{"id": 300, "category_id": 3, "iscrowd": 0}, {"id": 1, "category_id": 5, "iscrowd": 1}]
    values = {
        "images": [{"id": 7, "file_name": "p.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"image_id": 7, "file_name": "p.png", "segments_info": segments}],
    }
    (tmp_path / "c.json").write_text(json.dumps(values), encoding="utf-8")
    sample = source_of(tmp_path, "{type: coco, images: ., annotations: c.json, panoptic: pan}").sample(0)
    assert np.array_equal(sample.queries[0].mask, LABELS == 1)
    assert np.array_equal(sample.ignore, LABELS != 1)


def test_coco_panoptic_annotations_that_are_none(tmp_path):
    photo(tmp_path / "p.jpg")
    coco_file(tmp_path / "c.json")
    source = source_of(tmp_path, "{type: coco, images: ., annotations: c.json, panoptic: .}")
    with pytest.raises(DataError, match=r"no panoptic annotation .* for image 7"):
        source.identity(0)


def test_coco_entries_without_what_is_needed(tmp_path):
    coco_file(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text())
    del values["categories"][1]["name"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"not COCO JSON .*name in categories"):
        source_of(tmp_path, "{type: coco, images: ., annotations: c.json}")


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ('{type: index, root: ., images: "*.jpg", masks: "{1}.png", classes: [a]}', "1 of 1 label files are missing"),
        ('{type: index, root: ., images: "*.gif", masks: "{1}.png", classes: [a]}', "No photo matches"),
        ('{type: index, root: ., images: "*.jpg", masks: "{2}.png", classes: [a]}', "other places"),
        ('{type: index, root: ., images: "*.jpg", masks: "{0}.png", classes: [a]}', "other places"),
        ('{type: index, root: ., images: "[a-z]*.jpg", masks: "{1}.png", classes: [a]}', "single stars"),
        ('{type: index, root: ., images: "**/*.jpg", masks: "{1}.png", classes: [a]}', "single stars"),
        ('{type: index, root: ., images: "*.jpg", masks: "{1}.png", classes: [a], list: no.txt}', "no list of images"),
        ('{type: binary, root: ., images: "*.jpg", masks: "{1}.jpg", name: a, held_out: [b]}', "held_out names"),
        ("{type: coco, images: ., annotations: no.json}", "no annotation file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, yaml, complaint):
    photo(tmp_path / "p.jpg")
    with pytest.raises(DataError, match=complaint):
        source_of(tmp_path, yaml)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_made_files_are_valid_and_name_what_is_missing(path):
    config = load_data(path)
    assert config.train
    assert config.test
    if config.train[0].type != "demo" and path.stem not in ("cells", "fields"):  # drawn here, these may be there
        with pytest.raises(DataError, match=r"no (folder|image folder|list|file)|No photo|no annotation"):
            open_source(config.train[0])


def test_pascal_context_as_published(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2010"
    photo(root / "JPEGImages/2008_000002.jpg")
    photo(root / "JPEGImages/2008_000003.jpg")
    (root / "trainval").mkdir()
    numbers = np.zeros((40, 60), np.uint16)
    numbers[LABELS == 1], numbers[LABELS == 2], numbers[0] = 427, 440, 1  # tv monitor, wall, accordion
    savemat(root / "trainval/2008_000002.mat", {"LabelMap": numbers}, do_compression=True)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("2008_000002\n", encoding="utf-8")
    shutil.copy(CONFIGS / "pascal_context.yaml", tmp_path)
    source = open_split(load_data(tmp_path / "pascal_context.yaml"), "train")[0][0]
    sample = source.sample(0)
    present = [query for query in sample.queries if query.mask is not None]
    assert (len(source), len(source.class_names), len(sample.queries)) == (1, 59, 2)
    assert len(source.unseen) == 57  # nothing says whether they are there
    assert [query.prompts for query in present] == [("tv monitor", "television"), ("wall",)]
    assert np.array_equal(present[1].mask, LABELS == 2)
    assert np.array_equal(sample.ignore, numbers == 0)
    other = type(source)(source.config.model_copy(update={"variable": "other"}))
    assert other.identity(0) != source.identity(0)  # another variable, other masks: nothing cached may be taken for them
    savemat(root / "trainval/2008_000002.mat", {"labels": numbers})
    with pytest.raises(DataError, match="no variable 'LabelMap'"):
        source.sample(0)
    (root / "trainval/2008_000002.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        source.sample(0)


def test_pascal_context_numbers_the_names_in_alphabetical_order():
    """The publisher's list of 459 names is sorted, so the 59 of them must be too."""
    classes = load_data(CONFIGS / "pascal_context.yaml").train[0].classes
    names = sorted(classes, key=lambda name: name.replace(" ", ""))
    assert sorted(classes, key=lambda name: classes[name]) == names
    assert list(classes) == [prompt.name for prompt in parse_prompts(preset_text("pascal-context-59"))]


def test_coco_stuff_numbers_skip_the_unused_ids():
    classes = load_data(CONFIGS / "coco_stuff.yaml").train[0].classes
    assert (classes["person"], classes["toothbrush"], classes["banner"], classes["wood"]) == ([0], [89], [91], [181])


def test_check_data_counts_and_names_what_is_broken(data, tmp_path, capsys):
    check_data([str(data), "--sheet", str(tmp_path / "sheet.png")])
    printed = capsys.readouterr().out
    assert "4 images, 0 without any mask" in printed
    assert Image.open(tmp_path / "sheet.png").width > 0


def test_check_data_lists_every_broken_file(tmp_path, capsys):
    from tests.train.helpers import folder_dataset

    data = folder_dataset(tmp_path)
    (tmp_path / "images/001.png").write_bytes(b"no image")
    Image.new("L", (3, 3)).save(tmp_path / "masks/box/002.png")
    Image.new("L", (48, 64)).save(tmp_path / "masks/box/renamed.png")
    (tmp_path / "masks/box/Thumbs.db").write_bytes(b"")
    with pytest.raises(SystemExit, match="6 problems"):
        check_data([str(data)])
    printed = capsys.readouterr().out
    assert "001.png cannot be read" in printed
    assert "002.png is 3x3 pixels" in printed
    assert "UNUSED 1 label files belong to no image that is read" in printed
    assert "renamed.png" in printed
    assert "Thumbs" not in printed
