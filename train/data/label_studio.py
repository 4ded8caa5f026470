"""Label Studio's own JSON: polygons, ellipses, rectangles and brush strokes of each task."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from re import sub
from typing import Literal
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from train.data.annotated import Annotated, AnnotatedConfig, AnnotatedSource, Region, ellipse, some
from train.data.base import DataError, Finding
from train.data.brush import brush_mask
from train.data.by_others import read_json, reading, short, stated_size
from train.data.coco_json import PhotoFiles
from train.data.outlines import OutlineError, polygon_mask
from train.settings.yaml_config import UserPath

UPLOAD = r"^[0-9a-f]{8}-"
"""What Label Studio puts before the names of uploaded photos."""
KINDS = {
    "polygonlabels": "polygon",
    "brushlabels": "brush",
    "ellipselabels": "ellipse",
    "rectanglelabels": "rectangle",
    "keypointlabels": "keypoint",
    "labels": "",
}


class LabelStudioConfig(AnnotatedConfig):
    """Label Studio's JSON export in `annotations`, the photos in `images`.

    several: which annotation counts where a task has several: that marked as ground truth or the "first" or "last" one, or the
    "union" of all; left out, such tasks are an error. rectangles: "mask" takes them as filled, "refuse" as boxes.
    """

    type: Literal["label_studio"]
    annotations: UserPath
    images: UserPath
    several: Literal["first", "last", "union"] | None = None
    rectangles: Literal["refuse", "mask"] = "refuse"


class LabelStudioSource(AnnotatedSource):
    """See LabelStudioConfig."""

    config: LabelStudioConfig

    def read(self) -> list[Annotated]:
        self.root, file = self.config.images, self.config.annotations
        tasks = read_json(file) if file.is_file() else None
        if not is_label_studio(tasks):
            what = f"There is no file {file}" if tasks is None else f"{file} is not Label Studio's JSON"
            raise DataError(f"{what}; expected a list of tasks with `data` and `annotations` (export as JSON).")
        with reading(file):
            return self._read(tasks)

    def _read(self, tasks: list[dict]) -> list[Annotated]:
        """The tasks that count, with their photos."""
        file, finder, missing, bare, out = self.config.annotations, PhotoFiles(self.root), [], [], []
        for task in tasks:
            chosen = self._annotations(task)
            if not chosen:
                bare.append(task.get("id"))
                continue
            names = list(photo_names(task))
            photo = next((path for name in names if (path := finder.find(name)) is not None), None)
            if photo is None:
                missing.append((task.get("id"), names))
                continue
            out.append(self._annotated(task, photo, [result for one in chosen for result in one.get("result") or []]))
        if missing:
            number, names = missing[0]
            raise DataError(
                f"The photos of {len(missing)} of {len(tasks)} tasks in {file} are not in {self.root}: task {number} names "
                f"{[short(name) for name in names[:1]]}. Label Studio's JSON export holds no photos: download them, or export as "
                "COCO or YOLO with images."
            )
        if bare:
            text = f"{len(bare)} tasks of {file.name} have no annotation, or only skipped ones, and are left out"
            self.notes.append(Finding(f"{text}: {some(map(str, bare))}"))
        if not out:
            raise DataError(f"None of {len(tasks)} tasks in {file} has an annotation.")
        return out

    def _annotations(self, task: dict) -> list[dict]:
        """The annotations of a task that count."""
        found = [one for one in task.get("annotations", task.get("completions", [])) if not one.get("was_cancelled")]
        truth = [one for one in found if one.get("ground_truth")]
        found = truth if len(truth) == 1 else found
        if len(found) < 2 or self.config.several == "union":
            return found
        if self.config.several is None:
            raise DataError(
                f"{self.config.annotations}: task {task.get('id')} has {len(found)} annotations. Say which count with `several: "
                "first`, `last` or `union`, or mark one as ground truth."
            )
        return [found[0] if self.config.several == "first" else found[-1]]

    def _annotated(self, task: dict, photo: Path, results: list[dict]) -> Annotated:
        regions, sizes = [], set()
        for number, result in enumerate(results, start=1):
            value, kind = result.get("value") or {}, str(result.get("type", "")).lower()
            labels = value.get(kind) or []
            if kind not in KINDS or not labels:
                continue  # choices, texts and relations, and the bare shape beside a labelled one
            if result.get("image_rotation"):
                raise DataError(
                    f"{self.config.annotations}: task {task.get('id')} was rotated by {result['image_rotation']} degrees in "
                    "Label Studio. Turn the photo itself and label it again."
                )
            sizes.add(stated_size(result.get("original_height"), result.get("original_width"), self.config.annotations))
            where = f"task {task.get('id')}, region {result.get('id', number)}"
            regions += [Region(str(label), _kind(kind, value), value, where) for label in labels]
        size = next(iter(sizes)) if len(sizes) == 1 else None
        return Annotated(photo, self.config.annotations, size, tuple(regions))

    def drawing(self) -> tuple:
        return (self.config.rectangles,)

    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        value = region.outline
        if region.kind == "brush":
            return brush_mask(value.get("rle"), height, width)
        if region.kind == "rectangle" and self.config.rectangles == "refuse":
            raise OutlineError("a rectangle may be a box around the thing; `rectangles: mask` takes it as filled")
        try:
            outline = np.array(_outline(region.kind, value), float)
        except (KeyError, TypeError, ValueError) as error:
            raise OutlineError(f"it has {sorted(value)} ({error!r})") from error
        return polygon_mask([(outline * [width / 100, height / 100]).reshape(-1).tolist()], height, width)


def is_label_studio(tasks) -> bool:
    """Whether the content of a JSON file is Label Studio's export."""
    return (
        isinstance(tasks, list)
        and bool(tasks)
        and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks)
        and any("annotations" in task or "completions" in task for task in tasks)
    )


def photo_names(task: dict) -> Iterator[str]:
    """What the photo of a task may be called, likeliest first: as in `data`, and without what an upload puts before it."""
    texts = [value for value in (*task["data"].values(), task.get("file_upload")) if isinstance(value, str)]
    for text in texts:
        try:
            url = urlparse(text)
        except ValueError:  # http://[
            continue
        path = parse_qs(url.query).get("d", [unquote(url.path)])[0].replace("\\", "/")
        if name := PurePosixPath(path).name:
            yield from dict.fromkeys((path.lstrip("/"), name, sub(UPLOAD, "", name)))


def _kind(kind: str, value: dict) -> str:
    """The form of a region; the control tag `Labels` leaves it to what the value holds."""
    if KINDS[kind]:
        return KINDS[kind]
    forms = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}
    return next((form for key, form in forms.items() if key in value), "keypoint")


def _outline(kind: str, value: dict) -> list:
    """Corners [x, y] of a region in percent of the photo's width and height."""
    if kind == "polygon":
        if len(value["points"]) < 3:
            raise OutlineError(f"it has {len(value['points'])} points; expected three or more")
        return value["points"]
    if kind == "ellipse" and not value.get("rotation"):
        points = ellipse(value["x"], value["y"], value["radiusX"], value["radiusY"])
        return np.reshape(points, (-1, 2)).tolist()
    if kind == "rectangle" and not value.get("rotation"):
        left, top = value["x"], value["y"]
        right, bottom = left + value["width"], top + value["height"]
        return [[left, top], [right, top], [right, bottom], [left, bottom]]
    raise OutlineError(f"a {'turned ' if value.get('rotation') else ''}{kind} is not read; expected polygons or brush strokes")
