"""Labelme: one JSON beside each photo."""

from pathlib import Path
from typing import Literal

import numpy as np

from train.data.annotated import (
    Annotated,
    AnnotatedConfig,
    AnnotatedSource,
    Region,
    decoded,
    ellipse,
    embedded_mask,
    placed,
    some,
)
from train.data.base import DataError, Finding
from train.data.by_others import is_file, read_json, reading, short, stated_size
from train.data.coco_json import PhotoFiles
from train.data.names import is_foreign
from train.data.outlines import OutlineError, polygon_mask
from train.settings.yaml_config import UserPath


class LabelmeConfig(AnnotatedConfig):
    """Labelme's JSON files in `annotations` (sub-folders too): polygons, rectangles, circles and AI masks. images: folder of the
    photos where they do not lie beside their JSON. Labels named `__ignore__` are unlabelled regions."""

    type: Literal["labelme"]
    annotations: UserPath
    images: UserPath | None = None
    ignore: tuple[str, ...] = ("__ignore__",)


class LabelmeSource(AnnotatedSource):
    """See LabelmeConfig."""

    config: LabelmeConfig

    def read(self) -> list[Annotated]:
        self.root = self.config.images or self.config.annotations
        files = json_files(self.config.annotations)
        contents = {file: values for file in files if is_labelme(values := read_json(file))}
        if not contents:
            raise DataError(
                f"{self.config.annotations} holds {len(files)} JSON files, none of them by Labelme; expected `shapes` and "
                "`imagePath` in them."
            )
        finder = PhotoFiles(self.root)
        found = {file: _photo(file, values, finder) for file, values in contents.items()}
        if missing := [file.name for file, photo in found.items() if photo is None]:
            name = contents[next(file for file, photo in found.items() if photo is None)]["imagePath"]
            raise DataError(
                f"The photos of {len(missing)} of {len(found)} files in {self.config.annotations} are not there: {missing[0]} "
                f"names {short(name)!r}, and no photo in {self.root} has that name. Copy them there, or say `images:`."
            )
        if others := sorted(set(files) - set(contents)):
            text = f"{len(others)} JSON files are not by Labelme and not read: {some(file.name for file in others)}"
            self.notes.append(Finding(text))
        out = []
        for file, values in contents.items():
            with reading(file):
                out.append(_annotated(file, values, found[file]))
        return out

    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        points = region.outline["points"]
        if region.kind == "mask":
            (x, y), *_ = points
            return placed(embedded_mask(decoded(region.outline["mask"])), int(x), int(y), height, width)
        return polygon_mask([_polygon(region.kind, points)], height, width)


def json_files(folder: Path) -> list[Path]:
    """JSON files in a folder and its sub-folders, sorted, without hidden ones; DataError where there is no folder or none."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    every = (path for path in folder.rglob("*.json") if path.is_file())
    found = [path for path in every if not any(map(is_foreign, path.relative_to(folder).parts))]
    if not found:
        raise DataError(f"{folder} holds no JSON files.")
    return sorted(found)


def is_labelme(values) -> bool:
    """Whether the content of a JSON file is Labelme's."""
    return isinstance(values, dict) and isinstance(values.get("shapes"), list) and isinstance(values.get("imagePath"), str)


def _photo(file: Path, values: dict, finder: PhotoFiles) -> Path | None:
    """The photo of a JSON: where it says, seen from its own folder, or with that name among the photos."""
    name = values["imagePath"].replace("\\", "/")
    beside = file.parent / name
    return beside if is_file(beside) and finder.folder in beside.parents else finder.find(name.rsplit("/", 1)[-1])


def _annotated(file: Path, values: dict, photo: Path) -> Annotated:
    size = stated_size(values.get("imageHeight"), values.get("imageWidth"), file)
    regions = []
    for number, shape in enumerate(values["shapes"], start=1):
        if not isinstance(shape, dict) or not isinstance(shape.get("points"), list) or shape.get("label") is None:
            raise DataError(f"{file}: shape {number} has no label or no points; expected what Labelme writes. Save it again.")
        kind = str(shape.get("shape_type") or "polygon")
        outline = {"points": shape["points"], "mask": shape.get("mask") if kind == "mask" else None}
        regions.append(Region(str(shape["label"]), kind, outline, f"shape {number}"))
    return Annotated(photo, file, size, tuple(regions))


def _polygon(kind: str, points: list) -> list[float]:
    """The outline of a shape, [x, y, x, y, ...]."""
    try:
        if kind == "circle":
            (x, y), (edge_x, edge_y) = points
            radius = ((edge_x - x) ** 2 + (edge_y - y) ** 2) ** 0.5
            return ellipse(x, y, radius, radius)
        if kind == "rectangle" and len(points) == 2:
            (left, top), (right, bottom) = points
            return [left, top, right, top, right, bottom, left, bottom]
        flat = [float(value) for x, y in points for value in (x, y)]
    except (TypeError, ValueError) as error:
        raise OutlineError(f"its points are {points}") from error
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        raise OutlineError(f"a {kind} encloses nothing; expected polygon, rectangle, circle or mask")
    if len(points) < 3:
        raise OutlineError(f"it has {len(points)} points; expected three or more")
    return flat
