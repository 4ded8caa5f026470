"""YOLO segmentation: a data.yaml, photos in images/, and one text file of polygons per photo in labels/."""

from pathlib import Path
from typing import Literal

import numpy as np

from train.data.annotated import Annotated, AnnotatedConfig, AnnotatedSource, Region, some
from train.data.base import DataError, Finding
from train.data.by_others import is_file, read_text
from train.data.names import images_below
from train.data.outlines import polygon_mask
from train.settings.yaml_config import UserPath, load_yaml

BEYOND = 0.02
"""How far outside of the photo, as a share of its side, a corner may lie."""


class YoloConfig(AnnotatedConfig):
    """YOLO segmentation as Ultralytics, Roboflow and CVAT write it. file: its data.yaml; split: which of its folders. A photo
    without a label file, or with an empty one, shows none of the classes."""

    type: Literal["yolo"]
    file: UserPath
    split: Literal["train", "val", "test"] = "train"


class YoloSource(AnnotatedSource):
    """See YoloConfig."""

    config: YoloConfig

    def read(self) -> list[Annotated]:
        file = self.config.file
        values = yolo_yaml(file)
        self.numbered = class_numbers(values["names"], file)
        photos = split_photos(values, file, self.config.split)
        self.root = _common(photos)
        texts = {photo: label_file(photo) for photo in photos}
        if without := [photo for photo, text in texts.items() if not text.is_file()]:
            if len(without) == len(photos):
                raise DataError(f"None of {len(photos)} photos has labels; expected {texts[without[0]]} for {without[0]}.")
            listed = some(photo.name for photo in without)
            text = f"{len(without)} photos have no label file, which means to YOLO that they show none of the classes: {listed}"
            self.notes.append(Finding(text))
        return [Annotated(photo, text, None, tuple(self._regions(text))) for photo, text in texts.items()]

    def _regions(self, text: Path) -> list[Region]:
        if not text.is_file():
            return []
        out = []
        for number, line in enumerate(text.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
            if line.strip():
                name, corners = self._parsed(line.split(), f"{text}, line {number}")
                out.append(Region(name, "polygon", corners, f"line {number}"))
        return out

    def _parsed(self, words: list[str], where: str) -> tuple[str, list[float]]:
        """Class name and corners [x, y, ...] from 0 to 1 of a line."""
        try:
            number, corners = float(words[0]), [float(word) for word in words[1:]]
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected a class number, then x y x y ... from 0 to 1.") from error
        if number not in self.numbered:
            raise DataError(f"{where}: class {words[0]} is not among the {len(self.numbered)} names of {self.config.file}.")
        if len(corners) == 4:
            raise DataError(
                f"{where}: a class and four numbers, which is a box (YOLO detection); boxes hold no mask. Export the set for "
                "instance segmentation, with polygons."
            )
        if len(corners) < 6 or len(corners) % 2:
            raise DataError(f"{where}: {len(corners)} numbers after the class; expected pairs x y, three at least.")
        if not all(-BEYOND <= corner <= 1 + BEYOND for corner in corners):
            far = max(corners, key=lambda corner: abs(corner - 0.5))
            raise DataError(f"{where}: a corner at {far:g}; expected shares of the width and height, from 0 to 1 (pixels?).")
        return self.numbered[int(number)], corners

    def names(self) -> list[str]:
        return list(dict.fromkeys(self.numbered.values()))

    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        sides = np.tile([width, height], len(region.outline) // 2)
        return polygon_mask([(np.array(region.outline) * sides).tolist()], height, width)


def yolo_yaml(file: Path) -> dict:
    """The content of a data.yaml; DataError or ConfigError where it is none."""
    if not file.is_file():
        raise DataError(f"There is no file {file}; expected the data.yaml of a YOLO data set.")
    values, _ = load_yaml(file)
    if "names" not in values or not any(values.get(split) for split in ("train", "val", "test")):
        raise DataError(f"{file} has {sorted(values)}; a data.yaml of YOLO has `names` and `train`, `val` or `test`.")
    return values


def class_numbers(names, file: Path) -> dict[int, str]:
    """Class names by number, from the list or the mapping under `names:`."""
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    try:
        out = {int(number): str(name).strip() for number, name in pairs}
    except ValueError as error:
        raise DataError(f"{file}: {error} under `names:`; expected a list of names, or numbers with names.") from error
    if not out:
        raise DataError(f"{file}: `names:` is {names!r}; expected a list of names, or numbers with names.")
    return out


def split_photos(values: dict, file: Path, split: str) -> list[Path]:
    """The photos of a split: folders, or text files that list photos."""
    places = values.get(split)
    if not places:
        there = [name for name in ("train", "val", "test") if values.get(name)]
        raise DataError(f"{file} has no `{split}:`, only {there}.")
    photos: list[Path] = []
    for place in places if isinstance(places, list) else [places]:
        found = _place(str(place), values, file)
        photos += _listed(found) if found.is_file() else images_below(found)
    if not photos:
        raise DataError(f"{file}: `{split}: {places}` holds no images.")
    return sorted(set(photos))


def _place(place: str, values: dict, file: Path) -> Path:
    """A folder or list of photos: below `path:`, else beside the file. Roboflow writes ../train/images for train/images."""
    place = place.replace("\\", "/")
    bare = Path(*[part for part in Path(place).parts if part != ".."])
    folders = [file.parent / str(values["path"]), file.parent] if values.get("path") else [file.parent]
    tried = [folder / one for one in dict.fromkeys((Path(place), bare)) for folder in folders]
    for path in tried:
        if path.exists():
            return path
    raise DataError(f"{file}: there is no {tried[0]}" + (f", nor {tried[-1]}" if len(tried) > 1 else "") + ".")


def _listed(file: Path) -> list[Path]:
    """The photos that a text file names, one a line, as paths beside it, with or without data/ before them."""
    lines = [line.strip().replace("\\", "/") for line in read_text(file).splitlines()]
    named = [(file.parent / line, file.parent / line.removeprefix("data/")) for line in lines if line]
    photos = [photo if is_file(photo) else bare for photo, bare in named]
    if missing := [photo for photo in photos if not is_file(photo)]:
        raise DataError(f"{len(missing)} of {len(photos)} photos that {file} names are not there, e.g. {missing[0]}.")
    return photos


def label_file(photo: Path) -> Path:
    """Where YOLO looks for the labels of a photo: its path with the last `images` replaced by `labels`."""
    parts = list(photo.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _common(photos: list[Path]) -> Path:
    """The deepest folder that holds all photos."""
    shared = set(photos[0].parents).intersection(*(photo.parents for photo in photos))
    return max(shared, key=lambda folder: len(folder.parts))
