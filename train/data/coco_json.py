"""COCO JSON as people's tools write it: ids and file names compared by what they mean, and a count of what fits nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlparse

from train.data.base import DataError, Finding
from train.data.by_others import is_file, read_json, short, stated_size
from train.data.names import images_below, plain

Id = int | str


@dataclass
class Photo:
    """One photo of the JSON: its first id, file name as written, (height, width) or None, and its annotations."""

    number: Id
    file_name: str
    size: tuple[int, int] | None
    annotations: list[dict] = field(default_factory=list)


@dataclass
class CocoFile:
    """A COCO JSON: photos by id, category names by id, and what fits nothing."""

    photos: list[Photo]
    categories: dict[Id, str]
    roots: set[str]
    findings: list[Finding]


def read_coco(path: Path) -> CocoFile:
    """Photos with their annotations (`category_id` as an id of `categories`), or DataError for what is not COCO JSON or means
    two things."""
    values = _load(path)
    categories, roots = _categories(values["categories"], path)
    photos, by_id, twice = _photos(values["images"], path)
    findings = []
    if twice:
        text = f"{len(twice)} photos are listed more than once in {path.name}, e.g. {twice[0]}; their annotations are joined"
        findings.append(Finding(text))
    strangers = _attach(values["annotations"], by_id, categories)
    for what, found in strangers.items():
        if found:
            listed = ", ".join(f"{name} ({count})" for name, count in found.most_common(5))
            findings.append(Finding(f"{found.total()} annotations of {path.name} have {what} that it does not list: {listed}"))
    order = sorted(photos, key=lambda photo: (isinstance(photo.number, str), photo.number))
    return CocoFile(order, categories, roots, findings)


def _load(path: Path) -> dict:
    if not path.is_file():
        raise DataError(f"There is no annotation file {path}.")
    values = read_json(path)
    try:
        _check(values)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not COCO JSON ({short(repr(error))}); expected images, annotations and categories."
        ) from error
    if not values["images"]:
        raise DataError(f"{path} lists no images.")
    if not values["categories"]:
        raise DataError(f"{path} lists no categories, so its annotations have no names. Export it again with its categories.")
    return values


def _check(values) -> None:
    """Raises KeyError or TypeError unless these are COCO's lists of entries, with what they need."""
    if not isinstance(values, dict):
        raise TypeError(f"a {type(values).__name__}")
    for key in ("images", "annotations", "categories"):
        if not _are_entries(values[key]):
            raise TypeError(f"{key} is no list of entries")
    for key, needed in (("images", {"id", "file_name"}), ("categories", {"id", "name"})):
        if lacking := [entry for entry in values[key] if not needed <= set(entry)]:
            raise KeyError(f"{', '.join(sorted(needed - set(lacking[0])))} in {key}: {lacking[0]}")
    for annotation in values["annotations"]:
        if not _are_entries(annotation.get("segments_info", [])):
            raise TypeError(f"segments_info is {annotation['segments_info']!r}")


def _are_entries(found) -> bool:
    return isinstance(found, list) and all(isinstance(one, dict) for one in found)


def same_id(value) -> Id | None:
    """An id by what it means: 1, 1.0 and "1" are one; None for what can be no id."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else text
    return value if isinstance(value, int) else None


def _categories(entries: list[dict], path: Path) -> tuple[dict[Id, str], set[str]]:
    """Names by id, and the names that are super-categories of others."""
    names: dict[Id, str] = {}
    for entry in entries:
        number, name = same_id(entry["id"]), _category_name(entry, path)
        if names.setdefault(number, name) != name:
            raise DataError(
                f'{path}: the category id {entry["id"]} is there for "{names[number]}" and for "{name}". Give one another.'
            )
    above = {plain(str(entry.get("supercategory"))) for entry in entries if entry.get("supercategory") != entry["name"]}
    return names, {name for name in names.values() if plain(name) in above}


def _category_name(entry: dict, path: Path) -> str:
    name = entry["name"]
    if not isinstance(name, str | int | float) or not str(name).strip():
        raise DataError(f"{path}: the category {entry['id']!r} has the name {name!r}; expected text.")
    return str(name).strip()


def _photos(entries: list[dict], path: Path) -> tuple[list[Photo], dict[Id, Photo], list[str]]:
    """Photos, one for each file; the photo of each id; and the files that are listed more than once."""
    by_id: dict[Id, Photo] = {}
    by_file: dict[str, Photo] = {}
    twice = []
    for entry in entries:
        number, name = same_id(entry["id"]), str(entry["file_name"])
        if number is None or not name.strip():
            raise DataError(f"{path}: an image has the id {entry['id']!r} and the file name {name!r}; both are needed.")
        photo = by_file.get(same_file(name))
        if photo is not None:
            twice.append(name)
        else:
            photo = by_file[same_file(name)] = Photo(number, name, _size(entry, path))
        if by_id.setdefault(number, photo) is not photo:
            raise DataError(
                f"{path}: the image id {entry['id']} is there for {by_id[number].file_name} and for {name}. Export it again."
            )
    return list(by_file.values()), by_id, twice


def same_file(name: str) -> str:
    """A file name by what it means: ./a.jpg, a.jpg and sub\\..\\a.jpg are one."""
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in (".", ""):
            parts.append(part)
    return "/".join(parts)


def _size(entry: dict, path: Path) -> tuple[int, int] | None:
    """(height, width); None where the entry does not say."""
    height, width = same_id(entry.get("height")), same_id(entry.get("width"))
    known = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    return stated_size(height, width, path) if known else None


def _attach(annotations: list[dict], by_id: dict[Id, Photo], categories: dict[Id, str]) -> dict[str, Counter]:
    """Give every annotation to its photo; returns the ids that fit nothing, counted."""
    by_name = {name: number for number, name in categories.items()}
    strangers = {"an image_id": Counter(), "a category_id": Counter()}
    for number, annotation in enumerate(annotations):
        photo = by_id.get(same_id(annotation.get("image_id")))
        if photo is None:
            strangers["an image_id"][short(annotation.get("image_id"))] += 1
            continue
        entry = {"id": number, **annotation}
        if "segments_info" not in annotation:
            category = same_id(annotation.get("category_id"))
            category = by_name.get(category, category) if category not in categories else category
            if category not in categories:
                strangers["a category_id"][short(annotation.get("category_id"))] += 1
                continue
            entry["category_id"] = category
        photo.annotations.append(entry)
    return strangers


class PhotoFiles:
    """Finds the files that a JSON names in a folder, also where it names them as another system or tool does."""

    def __init__(self, folder: Path):
        self.folder, self.by_name = folder, None

    def find(self, name: str) -> Path | None:
        """The file; None where there is none, or several that could be meant."""
        for text in dict.fromkeys((name, name.replace("\\", "/"), unquote(name.replace("\\", "/")))):
            if is_file(path := self.folder / text):
                return path
        try:
            address = urlparse(name.replace("\\", "/"))
        except ValueError:  # http://[
            return None
        local = parse_qs(address.query).get("d", [""])[0]  # Label Studio's /data/local-files/?d=folder/a.jpg
        wanted = same_file(local or unquote(address.path) or name)
        parts = [plain(part) for part in PurePosixPath(wanted).parts]
        found = self._named(parts[-1]) if parts else []
        for length in range(len(parts), 0, -1):  # the longest end of the path that fits exactly one file
            fitting = [path for path in found if self._ends(path, parts[-length:])]
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
        return None

    def _named(self, name: str) -> list[Path]:
        if self.by_name is None:
            self.by_name = {}
            for path in images_below(self.folder) if self.folder.is_dir() else []:
                self.by_name.setdefault(plain(path.name), []).append(path)
        return self.by_name.get(name, [])

    def _ends(self, path: Path, parts: list[str]) -> bool:
        return [plain(part) for part in path.relative_to(self.folder).parts][-len(parts) :] == parts


def crowds(photos: Iterable[Photo]) -> tuple[Counter, Counter]:
    """Annotations with and without iscrowd, counted by category id."""
    crowd, other = Counter(), Counter()
    for photo in photos:
        for annotation in photo.annotations:
            if "segments_info" not in annotation:
                (crowd if is_crowd(annotation) else other)[annotation["category_id"]] += 1
    return crowd, other


def is_crowd(annotation: dict) -> bool:
    """Whether iscrowd is set, as a number, a switch or text."""
    return annotation.get("iscrowd") in (1, True, "1", "true", "True")
