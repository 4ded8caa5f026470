"""Exports of annotation tools, written as the tools write them, read back to the masks that were drawn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.train.exports import (
    CLASSES,
    HEIGHT,
    SPLITS,
    WIDTH,
    Scene,
    box_of,
    brush_runs,
    labelme_file,
    labelme_mask,
    labelme_shape,
    save_json,
    save_photo,
    save_png,
    save_text,
    scenes,
    studio_brush,
    studio_polygon,
    studio_region,
    studio_task,
    supervisely_bitmap,
    write_export,
)
from train.data.annotated import embedded_mask
from train.data.base import DataError, Source
from train.data.build import open_split
from train.data.config import load_data

YAMLS = {
    "labelme": "{type: labelme, annotations: .}",
    "yolo_ultralytics": "{type: yolo, file: data.yaml, split: train}",
    "yolo_roboflow": "{type: yolo, file: data.yaml, split: train}",
    "cvat_masks": "{type: cvat, root: ., unlabelled: empty}",
    "cvat_coco": "{type: coco, images: images, annotations: annotations/instances_default.json, crowd: mask}",
    "datumaro_coco": "{type: coco, images: images/train, annotations: annotations/instances_train.json, crowd: mask}",
    "roboflow_coco": "{type: coco, images: train, annotations: train/_annotations.coco.json}",
    "label_studio": "{type: label_studio, images: images, annotations: project-3-at-2024-05-01-10-00-0a1b2c3d.json}",
    "label_studio_coco": "{type: coco, images: images, annotations: result.json}",
    "supervisely": "{type: supervisely, root: .}",
    "ade20k_full": "{type: ade20k_full, root: ADE20K_2021_17_01/images/ADE/training, classes: [cat, dog]}",
    "voc": '{type: index, root: VOCdevkit/VOC2012, images: "JPEGImages/*.jpg", masks: "SegmentationClass/{1}.png", '
    "list: ImageSets/Segmentation/train.txt, classes: {cat: 8, dog: 12}, ignore: [255]}",
    "sbd": '{type: index, root: benchmark_RELEASE/dataset, images: "img/*.jpg", masks: "cls/{1}.mat", list: train.txt, '
    "variable: GTcls.Segmentation, classes: {cat: 8, dog: 12}}",
    "mask_folders": "{type: folder, images: images, masks: masks}",
}
"""How each export is read; of those that come in splits, the training split."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that gives an export's folder, written once and never changed."""
    there: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in there:
            there[name] = write_export(name, tmp_path_factory.mktemp(name) / "export")
        return there[name]

    return write


def source_of(root: Path, yaml: str) -> Source:
    """The source that a YAML in `root` describes."""
    (root / "ours.yaml").write_text(f"train: {yaml}", encoding="utf-8")
    return open_split(load_data(root / "ours.yaml"), "train")[0][0]


def open_export(root: Path, name: str, **changes) -> Source:
    """The source of an export; `changes` are settings of its YAML."""
    more = "".join(f", {key}: {value}" for key, value in changes.items())
    return source_of(root, f"{YAMLS[name][:-1]}{more}}}")


def masks_of(source: Source, index: int) -> dict[str, np.ndarray]:
    return {query.name: query.mask for query in source.sample(index).queries if query.mask is not None}


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def scene_of(source: Source, index: int) -> Scene:
    name = source.photo(index).name
    return next(scene for scene in scenes() if f"{scene.name}." in name or f"{scene.name}_jpg" in name)


@pytest.mark.parametrize("name", YAMLS)
def test_masks_are_those_that_were_drawn(written, name):
    source, seen = open_export(written(name), name), set()
    assert sorted(source.class_names) == list(CLASSES)
    for index in range(len(source)):
        scene, masks = scene_of(source, index), masks_of(source, index)
        sample = source.sample(index)
        assert np.abs(sample.image.astype(int) - scene.image).mean() < 25, "the photo of another scene (JPEG)"
        assert set(masks) == set(scene.polygons)
        for cls, mask in masks.items():
            truth = scene.mask(cls) & ~sample.ignore if sample.ignore is not None else scene.mask(cls)
            assert iou(mask, truth) > 0.97
        seen |= set(masks)
        absent = {query.name for query in sample.queries if query.mask is None}
        assert absent == set(CLASSES) - set(masks)
    assert seen == set(CLASSES)


@pytest.mark.parametrize("name", ["cvat_masks", "cvat_coco", "datumaro_coco", "label_studio", "supervisely", "ade20k_full"])
def test_bitmaps_are_exact(written, name):
    source = open_export(written(name), name)
    index = next(index for index in range(len(source)) if "dog" in scene_of(source, index).polygons)
    assert np.array_equal(masks_of(source, index)["dog"], scene_of(source, index).mask("dog"))


@pytest.mark.parametrize("name", YAMLS)
def test_identities_follow_the_photo_and_its_labels(written, name, tmp_path):
    root = shutil.copytree(written(name), tmp_path / "export")
    before = open_export(root, name)
    identities = [before.identity(index) for index in range(len(before))]
    assert len(set(identities)) == len(identities)
    again = open_export(root, name)
    assert [again.identity(index) for index in range(len(again))] == identities
    save_photo(before.photo(0), scenes()[9])
    changed = open_export(root, name)
    assert changed.identity(0) != identities[0]
    assert [changed.identity(index) for index in range(1, len(changed))] == identities[1:]


def test_parts_of_one_folder(written):
    parts = {part: open_export(written("labelme"), "labelme", part=part) for part in ("train", "validation", "test")}
    photos = {part: [source.photo(index) for index in range(len(source))] for part, source in parts.items()}
    assert {part: len(found) for part, found in photos.items()} == {"train": 8, "validation": 1, "test": 1}
    assert len({photo for found in photos.values() for photo in found}) == 10
    limited = open_export(written("labelme"), "labelme", part="train", limit=3)
    assert [limited.photo(index) for index in range(3)] == photos["train"][:3]


def test_parts_need_three_photos(tmp_path):
    save_photo(tmp_path / "export/a.jpg", scenes()[0])
    labelme_file(tmp_path / "export/a.jpg", [labelme_shape("cat", scenes()[0].polygons["cat"])])
    with pytest.raises(DataError, match="There are 1 photos; `part:` needs three"):
        open_export(tmp_path / "export", "labelme", part="train")


# Labelme


def labelme_source(tmp_path: Path, shapes: list[dict], **changes) -> Source:
    save_photo(tmp_path / "export/a.jpg", scenes()[0])
    labelme_file(tmp_path / "export/a.jpg", shapes)
    return open_export(tmp_path / "export", "labelme", **changes)


def test_labelme_shapes(tmp_path):
    truth = scenes()[0].mask("cat")
    shapes = [
        labelme_mask("cat", truth),
        labelme_shape("window", [[40.0, 30.0], [50.0, 10.0]], "rectangle"),
        labelme_shape("ball", [[30.0, 24.0], [36.0, 32.0]], "circle"),
        labelme_shape("__ignore__", [[0.0, 0.0], [4.0, 0.0], [4.0, 48.0], [0.0, 48.0]]),
        {"label": "old", "points": [[50.0, 5.0], [60.0, 5.0], [60.0, 15.0]], "shape_type": "polygon"},
    ]
    source = labelme_source(tmp_path, shapes)
    sample, masks = source.sample(0), masks_of(source, 0)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    assert np.array_equal(masks["cat"], truth)
    assert box_of(masks["window"]) == (40, 10, 49, 29)
    assert iou(masks["ball"], (rows - 24) ** 2 + (columns - 30) ** 2 < 100) > 0.95
    assert masks["old"].any()
    assert sample.ignore[:, :4].all()
    assert not sample.ignore[:, 5:].any()


def test_labelme_mask_beyond_the_edge_is_cut_off(tmp_path):
    shape = labelme_mask("cat", scenes()[0].mask("cat"))
    shape["points"] = [[-3.0, -4.0], [17.0, 16.0]]
    left, top, right, bottom = box_of(scenes()[0].mask("cat"))
    part = scenes()[0].mask("cat")[top : bottom + 1, left : right + 1]
    found = masks_of(labelme_source(tmp_path, [shape]), 0)["cat"]
    assert np.array_equal(found[: part.shape[0] - 4, : part.shape[1] - 3], part[4:, 3:])


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        (
            labelme_shape("pole", [[1.0, 2.0], [3.0, 4.0]], "line"),
            r'shape 2 \("pole", line\) is no mask: a line encloses nothing',
        ),
        (labelme_shape("pole", [[1.0, 2.0]], "point"), "a point encloses nothing"),
        (labelme_shape("pole", [[1.0, 2.0], [5.0, 5.0]]), "it has 2 points; expected three or more"),
        (labelme_shape("pole", [[1.0, 2.0], [5.0, 5.0]], "mask", "???"), "no base64 text"),
        (labelme_shape("pole", [[1.0, 2.0], [5.0, 5.0]], "mask", "aGVsbG8="), "its mask is no image"),
    ],
)
def test_labelme_shapes_that_are_no_masks(tmp_path, shape, complaint):
    shapes = [labelme_shape("cat", scenes()[0].polygons["cat"]), shape]
    with pytest.raises(DataError, match=complaint):
        labelme_source(tmp_path, shapes).sample(0)
    chosen = labelme_source(tmp_path, shapes, classes="[cat]")
    assert set(masks_of(chosen, 0)) == {"cat"}
    assert any('1 labels are not among `classes` and not used: "pole" (1)' in finding.text for finding in chosen.findings())


def test_regions_without_a_pixel_are_counted(tmp_path):
    outside = labelme_shape("cat", [[-30.0, -30.0], [-10.0, -30.0], [-10.0, -10.0]])
    source = labelme_source(tmp_path, [outside, labelme_shape("cat", scenes()[0].polygons["cat"])])
    assert source.contents(0).empty == 1
    assert np.array_equal(masks_of(source, 0)["cat"], scenes()[0].mask("cat"))


def test_labelme_photos_elsewhere_and_missing(tmp_path):
    save_photo(tmp_path / "export/photos/a.jpg", scenes()[0])
    labelme_file(tmp_path / "export/photos/a.jpg", [labelme_shape("cat", scenes()[0].polygons["cat"])])
    values = json.loads((tmp_path / "export/photos/a.json").read_text())
    (tmp_path / "export/photos/a.json").unlink()
    save_json(tmp_path / "export/json/a.json", {**values, "imagePath": "..\\photos\\a.jpg"})
    assert len(source_of(tmp_path / "export", "{type: labelme, annotations: json}")) == 1
    save_json(tmp_path / "export/json/a.json", {**values, "imagePath": "C:\\here\\a.jpg"})
    assert len(source_of(tmp_path / "export", "{type: labelme, annotations: json, images: photos}")) == 1
    with pytest.raises(DataError, match=r"The photos of 1 of 1 files .* a.json names "):
        source_of(tmp_path / "export", "{type: labelme, annotations: json}")
    save_json(tmp_path / "export/json/a.json", {"version": 1})
    with pytest.raises(DataError, match="holds 1 JSON files, none of them by Labelme"):
        source_of(tmp_path / "export", "{type: labelme, annotations: json}")


# YOLO


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("0 0.5 0.5 0.2 0.3", "line 2: a class and four numbers, which is a box .* boxes hold no mask"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", "class 7 is not among the 2 names"),
        ("0 0.1 0.1 0.2 0.1 0.2", "5 numbers after the class; expected pairs"),
        ("0 10 10 20 10 20 20", r"a corner at 20; expected shares .* \(pixels\?\)"),
        ("0 a b c d e f", "could not convert"),
    ],
)
def test_yolo_lines_that_are_no_polygons(written, tmp_path, line, complaint):
    root = shutil.copytree(written("yolo_ultralytics"), tmp_path / "export")
    save_text(root / "labels/train/000.txt", f"0 0.1 0.1 0.2 0.1 0.2 0.2\n{line}\n")
    with pytest.raises(DataError, match=complaint):
        open_export(root, "yolo_ultralytics")


@pytest.mark.parametrize(("kind", "file"), [("yolo_ultralytics", "data.yaml"), ("supervisely", "meta.json")])
def test_spaces_around_names_of_classes_do_not_count(written, tmp_path, kind, file):
    root = shutil.copytree(written(kind), tmp_path / "export")
    plain = open_export(root, kind)
    named = root / file
    text = named.read_text(encoding="utf-8")
    for name in plain.class_names:
        text = text.replace(f'"{name}"', f'" {name} "') if f'"{name}"' in text else text.replace(name, f'"{name} "')
    named.write_text(text, encoding="utf-8")
    spaced = open_export(root, kind)
    assert spaced.class_names == plain.class_names
    assert [[q.name for q in spaced.sample(at).queries] for at in range(len(spaced))] == [
        [q.name for q in plain.sample(at).queries] for at in range(len(plain))
    ]
    assert not [finding for finding in spaced.findings() if "no classes" in finding.text]


def test_spaces_around_classes_and_ignore_of_the_yaml_do_not_count(written, tmp_path):
    root = shutil.copytree(written("labelme"), tmp_path / "export")
    first, *rest = open_export(root, "labelme").class_names
    assert rest
    settings = json.dumps(
        {"type": "labelme", "annotations": ".", "classes": {f" {rest[0]} ": [rest[0]]}, "ignore": [f"{first} "]}
    )
    source = source_of(root, settings)
    assert list(source.class_names) == rest[:1]
    plain = source_of(root, settings.replace(f"{first} ", first))
    ignored, expected = ([one.sample(at).ignore for at in range(len(one))] for one in (source, plain))
    assert any(mask is not None for mask in expected)
    assert all(np.array_equal(a, b) for a, b in zip(ignored, expected, strict=True))


def test_yolo_splits_lists_and_photos_without_labels(written, tmp_path):
    root = shutil.copytree(written("yolo_ultralytics"), tmp_path / "export")
    source = open_export(root, "yolo_ultralytics")
    assert [source.photo(index).name for index in range(len(source))] == [f"00{i}.jpg" for i in range(6)]
    assert any(finding.text.startswith("2 photos have no label file") for finding in source.findings())
    save_text(root / "train.txt", "data/images/train/000.jpg\n./images/train/002.jpg\n")
    save_text(root / "data.yaml", "path: ./\ntrain: train.txt\nnames: {0: cat, 1: dog}\n")
    assert len(open_export(root, "yolo_ultralytics")) == 2
    with pytest.raises(DataError, match=r"has no `val:`, only \['train'\]"):
        source_of(root, "{type: yolo, file: data.yaml, split: val}")
    save_text(root / "data.yaml", "train: pictures\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"there is no .*pictures"):
        open_export(root, "yolo_ultralytics")
    save_text(root / "data.yaml", "name: pets\n")
    with pytest.raises(DataError, match=r"a data.yaml of YOLO has `names`"):
        open_export(root, "yolo_ultralytics")


def test_yolo_without_any_labels(written, tmp_path):
    root = shutil.copytree(written("yolo_ultralytics"), tmp_path / "export")
    shutil.rmtree(root / "labels")
    with pytest.raises(DataError, match=r"None of 6 photos has labels; expected .*labels/train/000.txt"):
        open_export(root, "yolo_ultralytics")


# CVAT


def test_cvat_frames_nobody_labelled(written):
    skipped = open_export(written("cvat_masks"), "cvat_masks").config
    source = source_of(written("cvat_masks"), "{type: cvat, root: .}")
    assert skipped.unlabelled == "empty"
    assert len(source) == 7  # three of ten scenes show nothing
    assert any("3 photos have no mask" in finding.text and "left out" in finding.text for finding in source.findings())


def test_cvat_colours_and_labels_that_are_not_in_the_labelmap(written, tmp_path):
    root = shutil.copytree(written("cvat_masks"), tmp_path / "export")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:10] = (128, 0, 1)
    save_png(root / "SegmentationClass/000.png", pixels)
    source = open_export(root, "cvat_masks")
    assert source.contents(0).unknown == {"(128, 0, 1)": 640}
    with pytest.raises(DataError, match=r"no labels \['bird'\]; it has \['cat', 'dog'\]"):
        open_export(root, "cvat_masks", classes="[bird]")
    save_text(root / "labelmap.txt", "background:0,0,0::\nvoid:128,0,1::\ncat:128,0,0::\ndog:0,128,0::\n")
    sample = open_export(root, "cvat_masks").sample(0)
    assert sample.ignore[:10].all()
    assert not sample.ignore[10:].any()
    save_text(root / "labelmap.txt", "background:0,0,0::\ncat:128,0,0::\ndog:128,0,0::\n")
    with pytest.raises(DataError, match='"cat" and "dog" have one colour, 128,0,0'):
        open_export(root, "cvat_masks")
    save_text(root / "labelmap.txt", "cat 128 0 0\n")
    with pytest.raises(DataError, match=r"labelmap.txt, line 1: 'cat 128 0 0'; expected label:r,g,b"):
        open_export(root, "cvat_masks")


def test_cvat_without_photos_or_lists(written, tmp_path):
    root = shutil.copytree(written("cvat_masks"), tmp_path / "export")
    with pytest.raises(DataError, match=r"no .*train.txt; `list:` can be \['default'\]"):
        open_export(root, "cvat_masks", list="train")
    (root / "JPEGImages").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match='Export again with "Save images"'):
        open_export(root, "cvat_masks")
    assert len(open_export(root, "cvat_masks", images=tmp_path / "elsewhere")) == 10


@pytest.mark.parametrize("name", ["cvat_coco", "datumaro_coco"])
def test_masks_marked_as_crowds_are_asked_about(written, name):
    yaml = YAMLS[name].replace(", crowd: mask", "")
    with pytest.raises(DataError, match="Say `crowd: mask` or `crowd: ignore`"):
        source_of(written(name), yaml)


# Label Studio


def studio_source(tmp_path: Path, tasks: list[dict], **changes) -> Source:
    save_photo(tmp_path / "export/images/000.jpg", scenes()[0])
    save_json(tmp_path / "export/project-3-at-2024-05-01-10-00-0a1b2c3d.json", tasks)
    return open_export(tmp_path / "export", "label_studio", **changes)


def test_brush_strokes_pack_every_kind_of_run(tmp_path):
    rng = np.random.default_rng(1)
    mask = rng.random((HEIGHT, WIDTH)) < 0.5  # single pixels
    mask[20:30] = True  # long runs
    results = [studio_region("cat", "brushlabels", {"format": "rle", "rle": brush_runs(mask)})]
    assert np.array_equal(masks_of(studio_source(tmp_path, [studio_task(1, scenes()[0], results)]), 0)["cat"], mask)


def test_brush_words_that_are_not_repeated():
    """The browser's encoder writes chunks of different words as they are; the bits below are one of them."""
    from train.data.brush import brush_mask

    bits = f"{4 * 4:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "0" + "01" + f"{12 - 1:04b}" + "".join(f"{value:08b}" for value in (0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 9))
    bits += "1" + "00" + f"{4 - 1:03b}" + f"{0:08b}"
    bits += "0" * (-len(bits) % 8)
    runs = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert np.array_equal(brush_mask(runs, 2, 2), [[True, False], [True, False]])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda runs: runs[: len(runs) // 2], "its run lengths end early"),
        (lambda runs: [0, 0, 1, *runs[3:]], "the picture has 12288"),
        (lambda runs: "text", "no list of bytes"),
    ],
)
def test_brush_strokes_that_are_damaged(tmp_path, change, complaint):
    region = studio_brush(scenes()[0], "cat")
    region["value"]["rle"] = change(region["value"]["rle"])
    with pytest.raises(DataError, match=complaint):
        studio_source(tmp_path, [studio_task(1, scenes()[0], [region])]).sample(0)


def test_label_studio_forms(tmp_path):
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}
    box = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0}
    results = [
        studio_region("ball", "ellipselabels", ellipse),
        studio_region("door", "rectanglelabels", box),
        {"type": "choices", "value": {"choices": ["indoor"]}, "id": "c", "from_name": "c", "to_name": "image"},
    ]
    task = studio_task(1, scenes()[0], results)
    with pytest.raises(DataError, match=r'region aB3dE \("door", rectangle\) is no mask: a rectangle may be a box'):
        studio_source(tmp_path, [task]).sample(0)
    masks = masks_of(studio_source(tmp_path, [task], rectangles="mask"), 0)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    assert box_of(masks["door"]) == (16, 24, 47, 35)
    assert iou(masks["ball"], ((rows - 24) / 12) ** 2 + ((columns - 32) / 16) ** 2 < 1) > 0.95
    results[0]["image_rotation"] = 90
    with pytest.raises(DataError, match="task 1 was rotated by 90 degrees"):
        studio_source(tmp_path, [task])


def test_label_studio_several_annotations(tmp_path):
    scene = scenes()[0]
    task = studio_task(1, scene, [studio_polygon(scene, "cat")])
    other = studio_task(1, scene, [studio_polygon(scene, "dog")])["annotations"][0]
    skipped = {**other, "was_cancelled": True}
    task["annotations"] += [other, skipped]
    with pytest.raises(DataError, match="task 1 has 2 annotations"):
        studio_source(tmp_path, [task])
    for several, found in {"first": {"cat"}, "last": {"dog"}, "union": {"cat", "dog"}}.items():
        assert set(masks_of(studio_source(tmp_path, [task], several=several), 0)) == found
    task["annotations"][1] = {**other, "ground_truth": True}
    assert set(masks_of(studio_source(tmp_path, [task]), 0)) == {"dog"}


def test_label_studio_tasks_without_annotations_or_photos(tmp_path):
    scene = scenes()[0]
    done = studio_task(1, scene, [studio_polygon(scene, "cat")])
    open_task = {**studio_task(2, scenes()[1], []), "annotations": []}
    source = studio_source(tmp_path, [done, open_task])
    assert len(source) == 1
    assert any(finding.text.startswith("1 tasks of ") for finding in source.findings())
    for data in ("s3://bucket/photos/000.jpg", "/data/local-files/?d=photos%2F000.jpg", "https://here/000.jpg?X-Amz=1"):
        assert len(studio_source(tmp_path, [{**done, "data": {"image": data}, "file_upload": None}])) == 1
    with pytest.raises(DataError, match=r"The photos of 1 of 1 tasks .* holds no photos: download them"):
        studio_source(tmp_path, [studio_task(1, scenes()[4], [studio_polygon(scene, "cat")])])
    with pytest.raises(DataError, match="is not Label Studio's JSON"):
        studio_source(tmp_path, [{"image": "a.jpg"}])


# Supervisely


def test_supervisely_bitmap_of_its_own_documentation():
    """The string that Supervisely's documentation of Bitmap.base64_2_data decodes: a ring of 3 by 3 pixels."""
    import base64
    import zlib

    text = (
        "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44sKHhISMDuxpTYrr03F6gDIOnq5/LOqeE"
        "JgDM5ht6"
    )
    mask = embedded_mask(zlib.decompress(base64.b64decode(text)))
    assert np.array_equal(mask, [[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def supervisely_source(tmp_path: Path, objects: list[dict], **changes) -> Source:
    root = tmp_path / "export"
    save_photo(root / "ds0/img/000.jpg", scenes()[0])
    values = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": objects}
    save_json(root / "ds0/ann/000.jpg.json", values)
    return open_export(root, "supervisely", **changes)


def test_supervisely_holes_and_rectangles(tmp_path):
    ring = [[10, 10], [40, 10], [40, 40], [10, 40]]
    hole = [[20, 20], [30, 20], [30, 30], [20, 30]]
    polygon = {"classTitle": "frame", "geometryType": "polygon", "points": {"exterior": ring, "interior": [hole]}}
    masks = masks_of(supervisely_source(tmp_path, [polygon]), 0)
    assert masks["frame"][15, 15]
    assert not masks["frame"][25, 25]
    box = {"classTitle": "door", "geometryType": "rectangle", "points": {"exterior": [[2, 3], [12, 13]], "interior": []}}
    with pytest.raises(DataError, match="a rectangle encloses nothing; `rectangles: mask` takes it as filled"):
        supervisely_source(tmp_path, [box]).sample(0)
    assert box_of(masks_of(supervisely_source(tmp_path, [box], rectangles="mask"), 0)["door"]) == (2, 3, 11, 12)
    point = {"classTitle": "eye", "geometryType": "point", "points": {"exterior": [[2, 3]], "interior": []}}
    with pytest.raises(DataError, match=r'object 1 \("eye", point\) is no mask: a point encloses nothing'):
        supervisely_source(tmp_path, [point]).sample(0)


def test_supervisely_data_sets_and_damaged_bitmaps(tmp_path):
    bitmap = {"classTitle": "cat", "geometryType": "bitmap", "bitmap": supervisely_bitmap(scenes()[0].mask("cat"))}
    assert len(supervisely_source(tmp_path, [bitmap], datasets="[ds0]")) == 1
    with pytest.raises(DataError, match=r"no data sets \['ds1'\]; it has \['ds0'\]"):
        supervisely_source(tmp_path, [bitmap], datasets="[ds1]")
    far = {**bitmap, "bitmap": {**bitmap["bitmap"], "origin": [500, 0]}}
    with pytest.raises(DataError, match="lies outside of the picture"):
        supervisely_source(tmp_path, [far]).sample(0)
    (tmp_path / "export/ds0/ann/000.jpg.json").unlink()
    with pytest.raises(DataError, match=r"None of 1 photos in .* has an annotation"):
        open_export(tmp_path / "export", "supervisely")


def test_splits_of_exports_do_not_meet():
    """The exports that come in splits part the scenes the same way."""
    parts = [range(*part.indices(10)) for part in SPLITS.values()]
    assert sorted(number for part in parts for number in part) == list(range(10))
