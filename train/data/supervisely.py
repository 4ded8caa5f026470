"""Supervisely: meta.json, and per data set img/ with the photos and ann/ with a JSON for each."""

import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from train.data.annotated import Annotated, AnnotatedConfig, AnnotatedSource, Region, decoded, embedded_mask, placed, some
from train.data.base import DataError, Finding
from train.data.by_others import read_json, reading, stated_size
from train.data.names import images_below
from train.data.outlines import OutlineError, polygon_mask
from train.settings.yaml_config import UserPath


class SuperviselyConfig(AnnotatedConfig):
    """A project in `root`; datasets: which of its data sets, default all. Polygons (with holes) and bitmaps are read; a rectangle
    is a box, unless `rectangles: mask` takes it as filled."""

    type: Literal["supervisely"]
    root: UserPath
    datasets: tuple[str, ...] | None = None
    rectangles: Literal["refuse", "mask"] = "refuse"


class SuperviselySource(AnnotatedSource):
    """See SuperviselyConfig."""

    config: SuperviselyConfig

    def read(self) -> list[Annotated]:
        self.root = self.config.root
        there = data_sets(self.root)
        if unknown := sorted(set(self.config.datasets or ()) - set(there)):
            raise DataError(f"{self.root} has no data sets {unknown}; it has {sorted(there)}.")
        folders = [there[name] for name in self.config.datasets or there]
        if not folders:
            raise DataError(f"{self.root} has no data sets; expected <data set>/img/ and <data set>/ann/ in it.")
        out, bare = [], []
        for folder in folders:
            for photo in images_below(folder / "img"):
                file = folder / "ann" / photo.relative_to(folder / "img").with_name(photo.name + ".json")
                file = file if file.is_file() else file.with_name(photo.stem + ".json")
                (out if file.is_file() else bare).append(_annotated(photo, file) if file.is_file() else photo)
        if not out:
            raise DataError(f"None of {len(bare)} photos in {self.root} has an annotation; expected e.g. ann/<photo>.jpg.json.")
        if bare:
            self.notes.append(Finding(f"{len(bare)} photos have no annotation and are left out: {some(p.name for p in bare)}"))
        return out

    def names(self) -> list[str]:
        """The classes of meta.json that can be masks, else the labels that there are."""
        meta = self.root / "meta.json"
        with reading(meta):
            classes = read_json(meta).get("classes", []) if meta.is_file() else []
            areas = [one for one in classes if one.get("shape") not in ("point", "line", "rectangle", "graph")]
            named = [str(one["title"]).strip() for one in areas]
        return [name for name in named if name not in self.config.ignore] or super().names()

    def drawing(self) -> tuple:
        return (self.config.rectangles,)

    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        if region.kind == "bitmap":
            return _bitmap(region.outline, height, width)
        exterior, interior = _rings(region.outline)
        if region.kind == "rectangle" and self.config.rectangles == "mask":
            (left, top), (right, bottom) = exterior
            exterior = [[left, top], [right, top], [right, bottom], [left, bottom]]
        elif region.kind != "polygon":
            hint = "; `rectangles: mask` takes it as filled" if region.kind == "rectangle" else ""
            raise OutlineError(f"a {region.kind} encloses nothing{hint}")
        mask = _ring(exterior, height, width)
        for hole in interior:
            mask &= ~_ring(hole, height, width)
        return mask


def data_sets(root: Path) -> dict[str, Path]:
    """Folders below `root`, itself included, that hold img/ and ann/, by their path below it; DataError where there is none."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    found = sorted(folder.parent for folder in root.rglob("ann") if (folder.parent / "img").is_dir())
    return {folder.relative_to(root).as_posix(): folder for folder in found}


def _annotated(photo: Path, file: Path) -> Annotated:
    values = read_json(file)
    try:
        size = stated_size(values["size"]["height"], values["size"]["width"], file)
        regions = []
        for number, one in enumerate(values["objects"], start=1):
            kind = one.get("geometryType") or ("bitmap" if one.get("bitmap") else "polygon")
            outline = one["bitmap"] if kind == "bitmap" else one.get("points")
            regions.append(Region(str(one["classTitle"]), kind, outline, f"object {one.get('id', number)}"))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not Supervisely's ({error!r}); expected size, and objects with classTitle.") from error
    return Annotated(photo, file, size, tuple(regions))


def _bitmap(outline: dict, height: int, width: int) -> np.ndarray:
    """A mask as base64 text of a PNG compressed by zlib, its upper left pixel at `origin`."""
    try:
        packed, (x, y) = decoded(outline["data"]), outline["origin"]
        png = zlib.decompress(packed)
    except zlib.error:
        png = packed  # an old export: the PNG itself
    except (KeyError, TypeError, ValueError) as error:
        raise OutlineError(f"its bitmap has no data or origin ({error!r})") from error
    return placed(embedded_mask(png), int(x), int(y), height, width)


def _rings(points) -> tuple[list, list]:
    if not isinstance(points, dict) or not isinstance(points.get("exterior"), list):
        raise OutlineError("it has no points")
    return points["exterior"], points.get("interior") or []


def _ring(points: list, height: int, width: int) -> np.ndarray:
    if len(points) < 3:
        raise OutlineError(f"a ring has {len(points)} points; expected three or more")
    return polygon_mask([[float(value) for x, y in points for value in (x, y)]], height, width)
