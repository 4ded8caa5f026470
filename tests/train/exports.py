"""Exports as annotation tools write them: the same few photos with two classes, in the layout of each tool."""

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as pycoco
from scipy.io import savemat

HEIGHT, WIDTH = 48, 64
CLASSES = ("cat", "dog")
COLOURS = {"cat": (128, 0, 0), "dog": (0, 128, 0)}
SPLITS = {"train": slice(0, 6), "valid": slice(6, 8), "test": slice(8, 10)}


@dataclass(frozen=True)
class Scene:
    """A photo [H,W,3] uint8 and the polygons [[x, y], ...] of the classes in it."""

    name: str
    image: np.ndarray
    polygons: dict[str, list[list[float]]]

    def mask(self, name: str) -> np.ndarray:
        """Bool [H,W] of a class."""
        return polygon(self.polygons[name]) if name in self.polygons else np.zeros((HEIGHT, WIDTH), bool)


def polygon(points: list[list[float]]) -> np.ndarray:
    """Bool [H,W] of a polygon [[x, y], ...]."""
    flat = [float(value) for point in points for value in point]
    return pycoco.decode(pycoco.frPyObjects([flat], HEIGHT, WIDTH))[..., 0].astype(bool)


def scenes(count: int = 10) -> list[Scene]:
    """A cat (diamond) in every second photo, a dog (box) in every third; the second one shows neither."""
    rng, out = np.random.default_rng(0), []
    for number in range(count):
        polygons = {}
        if number % 2 == 0:
            x, y = int(rng.integers(14, 24)), int(rng.integers(14, 34))
            polygons["cat"] = [[x, y - 10], [x + 10, y], [x, y + 10], [x - 10, y]]
        if number % 3 == 0:
            x, y = int(rng.integers(36, 46)), int(rng.integers(6, 26))
            polygons["dog"] = [[x, y], [x + 14, y], [x + 14, y + 16], [x, y + 16]]
        image = rng.integers(40, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for name, points in polygons.items():
            image[polygon(points)] = (230, 200, 40) if name == "cat" else (40, 80, 230)
        out.append(Scene(f"{number:03d}", image, polygons))
    return out


def save_photo(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path, quality=95)


def save_json(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def save_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def save_png(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(path)


def png_bytes(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the marked pixels, the last two included."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def labelme_shape(label: str, points: list, kind: str = "polygon", mask: str | None = None) -> dict:
    return {
        "label": label, "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": mask,
    }  # fmt: skip


def labelme_mask(label: str, mask: np.ndarray) -> dict:
    """What Labelme's AI mask tool writes: the mask within its box, 0 and 1, as a PNG."""
    left, top, right, bottom = box_of(mask)
    part = mask[top : bottom + 1, left : right + 1].astype(np.uint8)
    text = base64.b64encode(png_bytes(part)).decode()
    return labelme_shape(label, [[float(left), float(top)], [float(right), float(bottom)]], "mask", text)


def labelme_file(photo: Path, shapes: list[dict]) -> None:
    save_json(
        photo.with_suffix(".json"),
        {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": photo.name,
            "imageData": base64.b64encode(photo.read_bytes()).decode(), "imageHeight": HEIGHT, "imageWidth": WIDTH,
        },
    )  # fmt: skip


def labelme(root: Path) -> None:
    for scene in scenes():
        save_photo(root / f"{scene.name}.jpg", scene)
        shapes = [labelme_shape(name, points) for name, points in scene.polygons.items()]
        labelme_file(root / f"{scene.name}.jpg", shapes)


def yolo_lines(scene: Scene) -> str:
    lines = []
    for name, points in scene.polygons.items():
        corners = " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)
        lines.append(f"{CLASSES.index(name)} {corners}")
    return "\n".join(lines) + ("\n" if lines else "")


def yolo_ultralytics(root: Path) -> None:
    for split, part in SPLITS.items():
        folder = "val" if split == "valid" else split
        for scene in scenes()[part]:
            save_photo(root / f"images/{folder}/{scene.name}.jpg", scene)
            if scene.polygons:  # a photo without objects has no file
                save_text(root / f"labels/{folder}/{scene.name}.txt", yolo_lines(scene))
    save_text(
        root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\ntest: images/test\n\nnames:\n  0: cat\n  1: dog\n"
    )


def yolo_roboflow(root: Path) -> None:
    for split, part in SPLITS.items():
        for scene in scenes()[part]:
            name = f"{scene.name}_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9"
            save_photo(root / f"{split}/images/{name}.jpg", scene)
            save_text(root / f"{split}/labels/{name}.txt", yolo_lines(scene).rstrip("\n"))
    save_text(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\n"
        "roboflow:\n  workspace: mine\n  project: animals\n  version: 1\n  license: CC BY 4.0\n",
    )


def painted(scene: Scene) -> np.ndarray:
    """[H,W,3] uint8 in the classes' colours."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for name in scene.polygons:
        out[scene.mask(name)] = COLOURS[name]
    return out


def cvat_masks(root: Path) -> None:
    for scene in scenes():
        save_photo(root / f"JPEGImages/{scene.name}.jpg", scene)
        if scene.polygons:
            save_png(root / f"SegmentationClass/{scene.name}.png", painted(scene))
            save_png(root / f"SegmentationObject/{scene.name}.png", painted(scene))
    save_text(root / "ImageSets/Segmentation/default.txt", "".join(f"{scene.name}\n" for scene in scenes()))
    colours = "".join(f"{name}:{','.join(map(str, colour))}::\n" for name, colour in COLOURS.items())
    save_text(root / "labelmap.txt", f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{colours}")


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths, columns first, beginning with zeros."""
    flat = mask.T.reshape(-1)
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def packed(mask: np.ndarray) -> dict:
    """Compressed COCO run lengths."""
    found = pycoco.encode(np.asfortranarray(mask, np.uint8))
    return {"counts": found["counts"].decode(), "size": list(map(int, found["size"]))}


def flat_polygon(scene: Scene, name: str) -> list[list[float]]:
    return [[float(value) for point in scene.polygons[name] for value in point]]


def coco(
    chosen: list[Scene],
    categories: list[dict],
    outline: Callable[[Scene, str], object],
    file_name: Callable[[Scene], str],
    extra: dict,
) -> dict:
    """COCO JSON of scenes; `extra` are keys of every annotation."""
    ids = {category["name"]: category["id"] for category in categories}
    images, annotations = [], []
    for number, scene in enumerate(chosen, start=1):
        images.append({"id": number, "width": WIDTH, "height": HEIGHT, "file_name": file_name(scene)})
        for name in scene.polygons:
            left, top, right, bottom = box_of(scene.mask(name))
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": ids[name],
                    "segmentation": outline(scene, name), "area": float(scene.mask(name).sum()),
                    "bbox": [left, top, right - left + 1, bottom - top + 1], **extra,
                }
            )  # fmt: skip
    return {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {}, "categories": categories, "images": images,
            "annotations": annotations}  # fmt: skip


def cvat_coco(root: Path) -> None:
    for scene in scenes():
        save_photo(root / f"images/default/{scene.name}.jpg", scene)
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(CLASSES, start=1)]
    extra = {"iscrowd": 1, "attributes": {"occluded": False}}
    brush = lambda scene, name: {"counts": runs(scene.mask(name)), "size": [HEIGHT, WIDTH]}  # noqa: E731
    values = coco(scenes(), categories, brush, lambda scene: f"{scene.name}.jpg", extra)
    save_json(root / "annotations/instances_default.json", values)


def datumaro_coco(root: Path) -> None:
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(CLASSES, start=1)]
    for split, part in {"train": slice(0, 7), "val": slice(7, 10)}.items():
        for scene in scenes()[part]:
            save_photo(root / f"images/{split}/{scene.name}.jpg", scene)
        mask = lambda scene, name: packed(scene.mask(name))  # noqa: E731
        values = coco(scenes()[part], categories, mask, lambda scene: f"{scene.name}.jpg", {"iscrowd": 1})
        save_json(root / f"annotations/instances_{split}.json", values)


def roboflow_coco(root: Path) -> None:
    categories = [{"id": 0, "name": "animals-x1y2", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "animals-x1y2"} for i, name in enumerate(CLASSES, start=1)]
    for split, part in SPLITS.items():
        name = lambda scene: f"{scene.name}_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg"  # noqa: E731
        for scene in scenes()[part]:
            save_photo(root / split / name(scene), scene)
        save_json(root / split / "_annotations.coco.json", coco(scenes()[part], categories, flat_polygon, name, {"iscrowd": 0}))


def label_studio_coco(root: Path) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    for scene in scenes():
        save_photo(root / f"images/5f2e1c0a-{scene.name}.jpg", scene)
    name = lambda scene: f"images\\5f2e1c0a-{scene.name}.jpg"  # noqa: E731
    save_json(root / "result.json", coco(scenes(), categories, flat_polygon, name, {"ignore": 0, "iscrowd": 0}))


def brush_runs(mask: np.ndarray) -> list[int]:
    """Label Studio's packed run lengths of a mask, as its converter makes them: RGBA all of one value."""
    values = np.repeat((mask.reshape(-1) * 255).astype(int), 4)
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, values.size)
    bits, start = f"{values.size:032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16)), 0
    for end in ends:
        while start < end:
            length = min(end - start, 2**16)
            size = next(i for i, width in enumerate((3, 4, 8, 16)) if length <= 2**width)
            repeated = "1" if length > 1 else "0"
            bits += f"{repeated}{size:02b}{length - 1:0{(3, 4, 8, 16)[size]}b}{values[start]:08b}"
            start += length
    bits += "0" * (8 - len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def studio_region(name: str, kind: str, value: dict) -> dict:
    return {
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": {**value, kind: [name]},
        "id": "aB3dE", "from_name": "label", "to_name": "image", "type": kind, "origin": "manual",
    }  # fmt: skip


def studio_polygon(scene: Scene, name: str) -> dict:
    points = [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in scene.polygons[name]]
    return studio_region(name, "polygonlabels", {"points": points, "closed": True})


def studio_brush(scene: Scene, name: str) -> dict:
    return studio_region(name, "brushlabels", {"format": "rle", "rle": brush_runs(scene.mask(name))})


def studio_task(number: int, scene: Scene, results: list[dict]) -> dict:
    file = f"5f2e1c0a-{scene.name}.jpg"
    annotation = {
        "id": 100 + number, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False,
        "created_at": "2024-05-01T10:00:00.000000Z", "lead_time": 12.3, "prediction": {}, "result_count": len(results),
        "task": number, "project": 3, "parent_prediction": None, "parent_annotation": None,
    }  # fmt: skip
    return {
        "id": number, "annotations": [annotation], "file_upload": file, "drafts": [], "predictions": [],
        "data": {"image": f"/data/upload/3/{file}"}, "meta": {}, "inner_id": number, "total_annotations": 1, "project": 3,
    }  # fmt: skip


def label_studio(root: Path) -> None:
    tasks = []
    for number, scene in enumerate(scenes(), start=1):
        save_photo(root / f"images/{scene.name}.jpg", scene)
        results = [(studio_polygon if name == "cat" else studio_brush)(scene, name) for name in scene.polygons]
        tasks.append(studio_task(number, scene, results))
    save_json(root / "project-3-at-2024-05-01-10-00-0a1b2c3d.json", tasks)


def supervisely_bitmap(mask: np.ndarray) -> dict:
    left, top, right, bottom = box_of(mask)
    image = Image.fromarray(mask[top : bottom + 1, left : right + 1].astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = BytesIO()
    image.save(file, "PNG", transparency=0, optimize=0)
    return {"data": base64.b64encode(zlib.compress(file.getvalue())).decode(), "origin": [left, top]}


def supervisely_object(scene: Scene, name: str) -> dict:
    common = {"id": 7, "classId": 9, "labelerLogin": "me", "tags": [], "classTitle": name}
    if name == "cat":
        points = {"exterior": scene.polygons[name], "interior": []}
        return {**common, "geometryType": "polygon", "points": points}
    return {**common, "geometryType": "bitmap", "bitmap": supervisely_bitmap(scene.mask(name))}


def supervisely(root: Path) -> None:
    shapes = {"cat": "polygon", "dog": "bitmap"}
    classes = [{"title": name, "shape": shapes[name], "color": "#800000", "geometry_config": {}, "id": 9} for name in CLASSES]
    save_json(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    for scene in scenes():
        save_photo(root / f"ds0/img/{scene.name}.jpg", scene)
        objects = [supervisely_object(scene, name) for name in scene.polygons]
        values = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": objects}
        save_json(root / f"ds0/ann/{scene.name}.jpg.json", values)


def instances(root: Path) -> None:
    """The Bowl's first stage: photos with an alpha channel, one mask file per thing."""
    for scene in scenes():
        if not scene.polygons:
            continue
        name = f"{int(scene.name):064x}"
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        save_png(root / f"stage1_train/{name}/images/{name}.png", np.concatenate([scene.image, alpha], axis=2))
        for number, thing in enumerate(scene.polygons):
            path = root / f"stage1_train/{name}/masks/{number:063x}{name[-1]}.png"
            save_png(path, scene.mask(thing).astype(np.uint8) * 255)


ADE_NUMBERS = {"cat": 400, "dog": 704}
ADE_NAMES = {"cat": "cat, true cat", "dog": "dog, domestic dog, Canis familiaris"}


def ade20k_full(root: Path) -> None:
    for split, part in {"training": slice(0, 7), "validation": slice(7, 10)}.items():
        for scene in scenes()[part]:
            stem = root / f"ADE20K_2021_17_01/images/ADE/{split}/urban/street/ADE_{split[:3]}_{scene.name}"
            save_photo(stem.with_suffix(".jpg"), scene)
            seg, objects = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
            for number, name in enumerate(scene.polygons):
                code = ADE_NUMBERS[name]
                seg[scene.mask(name)] = (code // 256 * 10, code % 256, number + 1)
                parts = {"hasparts": [], "ispartof": [], "part_level": 0}
                objects.append({"id": number, "name": ADE_NAMES[name], "name_ndx": code, "raw_name": name, "parts": parts})
            save_png(stem.with_name(stem.name + "_seg.png"), seg)
            save_json(stem.with_suffix(".json"), {"annotation": {"imsize": [HEIGHT, WIDTH, 3], "object": objects}})


VOC_PALETTE = [value for i in range(256) for value in (
    sum(((i >> (3 * j)) & 1) << (7 - j) for j in range(8)),
    sum(((i >> (3 * j + 1)) & 1) << (7 - j) for j in range(8)),
    sum(((i >> (3 * j + 2)) & 1) << (7 - j) for j in range(8)),
)]  # fmt: skip
"""The palette of Pascal VOC: 1 is (128, 0, 0), 255 is (224, 224, 192)."""
VOC_NUMBERS = {"cat": 8, "dog": 12}


def numbered(scene: Scene, numbers: dict[str, int]) -> np.ndarray:
    out = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name in scene.polygons:
        out[scene.mask(name)] = numbers[name]
    return out


def voc(root: Path) -> None:
    year = root / "VOCdevkit/VOC2012"
    for scene in scenes():
        save_photo(year / f"JPEGImages/2007_{scene.name}.jpg", scene)
        numbers = numbered(scene, VOC_NUMBERS)
        numbers[0] = 255
        save_png(year / f"SegmentationClass/2007_{scene.name}.png", numbers, VOC_PALETTE)
    for split, part in {"train": slice(0, 7), "val": slice(7, 10)}.items():
        save_text(year / f"ImageSets/Segmentation/{split}.txt", "".join(f"2007_{scene.name}\n" for scene in scenes()[part]))


def sbd(root: Path) -> None:
    folder = root / "benchmark_RELEASE/dataset"
    for scene in scenes():
        save_photo(folder / f"img/2008_{scene.name}.jpg", scene)
        truth = {"Boundaries": np.zeros((20, 1), object), "Segmentation": numbered(scene, VOC_NUMBERS), "CategoriesPresent": [8]}
        (folder / "cls").mkdir(exist_ok=True)
        savemat(folder / f"cls/2008_{scene.name}.mat", {"GTcls": truth})
    for split, part in {"train": slice(0, 7), "val": slice(7, 10)}.items():
        save_text(folder / f"{split}.txt", "".join(f"2008_{scene.name}\n" for scene in scenes()[part]))


def mask_folders(root: Path) -> None:
    for scene in scenes():
        save_photo(root / f"images/{scene.name}.jpg", scene)
        for name in scene.polygons:
            save_png(root / f"masks/{name}/{scene.name}.png", scene.mask(name).astype(np.uint8) * 255)


EXPORTS: dict[str, Callable[[Path], None]] = {
    "labelme": labelme,
    "yolo_ultralytics": yolo_ultralytics,
    "yolo_roboflow": yolo_roboflow,
    "cvat_masks": cvat_masks,
    "cvat_coco": cvat_coco,
    "datumaro_coco": datumaro_coco,
    "roboflow_coco": roboflow_coco,
    "label_studio": label_studio,
    "label_studio_coco": label_studio_coco,
    "supervisely": supervisely,
    "instances": instances,
    "ade20k_full": ade20k_full,
    "voc": voc,
    "sbd": sbd,
    "mask_folders": mask_folders,
}


def write_export(name: str, root: Path) -> Path:
    """Write an export into a new folder; returns it."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    EXPORTS[name](root)
    return root
