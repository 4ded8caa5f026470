"""Which layout a folder has, and the data YAML for it: from an export to training without writing YAML by hand."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import yaml

from digseg_nodes.core.files import write_text
from train.data.ade20k import class_names as ade_names
from train.data.ade20k import release_of_2016
from train.data.base import DataError
from train.data.by_others import read_json, read_text
from train.data.coco_json import PhotoFiles, is_crowd
from train.data.cvat import read_labelmap
from train.data.label_studio import is_label_studio, photo_names
from train.data.labelme import is_labelme
from train.data.names import images_below, is_foreign, is_image
from train.data.pixels import is_lossy, opened
from train.data.supervisely import data_sets
from train.data.yolo import class_numbers, split_photos, yolo_yaml
from train.settings.yaml_config import ConfigError, load_yaml

SAMPLED = 24
"""How many files of a kind are looked into."""
SPLIT_NAMES = {
    "train": ("train", "training", "train2017", "train2014"),
    "validation": ("valid", "val", "validation", "val2017", "val2014", "dev"),
    "test": ("test", "testing", "test2017"),
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "labelled", "segmentation", "gt", "GT", "SegmentationClassPNG")
UNREAD = "Left out, for it could not be read: {}"
MANY_LEVELS = 40
"""More different values than classes have: a photo, or a mask with soft edges."""


@dataclass(frozen=True)
class Guess:
    """One layout that a folder may have. kind: what it is called. why: what in the folder says so. values: the data YAML. hints:
    what a person should look at in it."""

    kind: str
    why: str
    values: dict
    hints: tuple[str, ...] = ()


def detect(folder: Path) -> list[Guess]:
    """Every layout that a folder fits, most telling first; DataError where there is no folder."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    found = [guess for layout in LAYOUTS if (guess := layout(folder)) is not None]
    certain = [guess for guess in found if guess.kind not in VAGUE]
    return certain or found


def write_yaml(guess: Guess, folder: Path, force: bool) -> Path:
    """Write the data YAML of a guess into the folder: data.yaml, or digseg.yaml where YOLO's own data.yaml lies. Without `force`
    a file that is there is a DataError."""
    path = folder / ("digseg.yaml" if guess.values.get("common", {}).get("file") == "data.yaml" else "data.yaml")
    if path.exists() and not force:
        raise DataError(
            f"{path} is there already. Check the data with it (check_data.py {path}), or say --force to write it anew."
        )
    comments = "".join(f"# {line}\n" for line in (f"{guess.kind}: {guess.why}.", *guess.hints))
    text = yaml.dump(guess.values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_text(path, comments + text)
    return path


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: what two splits share is written twice."""

    def ignore_aliases(self, data) -> bool:
        return True


def choose(folder: Path, kind: str | None = None) -> Guess:
    """The only layout that a folder fits, or that of `kind`; DataError that names all where it is none or several."""
    found = detect(folder)
    named = [guess for guess in found if kind in (None, guess.kind)]
    if not found:
        known = f"{folder} has no layout that is known; it holds {_inside(folder)}. See the table in docs/exports.md."
        raise DataError(" ".join((known, *_unread(folder)[:3])))
    if len(named) != 1:
        listed = "; ".join(f'"{guess.kind}" ({guess.why})' for guess in found)
        raise DataError(f"{folder} can be {len(found)} layouts: {listed}. Say which with --as.")
    return named[0]


def _inside(folder: Path) -> str:
    """The first entries of a folder, for messages."""
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if not is_foreign(path.name))
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "nothing"


def _parted(name: str, common: dict) -> dict:
    """A data YAML whose photos nobody has parted."""
    parts = {part: {"part": part} for part in ("train", "validation", "test")}
    return {"name": name, "common": common, **parts}


def _split(name: str, common: dict, splits: dict[str, dict]) -> dict:
    """A data YAML of the splits that are there; one that lacks is stood in for by the other of validation and test, or by parts
    of the only one."""
    if len(splits) == 1:
        return _parted(name, {**common, **next(iter(splits.values()))})
    train = splits.get("train") or next(iter(splits.values()))
    validation = splits.get("validation") or splits.get("test") or train
    parts = {"train": train, "validation": validation, "test": splits.get("test") or validation}
    return {"name": name, **({"common": common} if common else {}), **parts}


def _split_of(name: str) -> str | None:
    """The split that a file or folder name means."""
    words = name.lower().replace("-", "_").split("_")
    return next((split for split, known in SPLIT_NAMES.items() if any(word in known for word in words)), None)


def _unread(folder: Path) -> tuple[str, ...]:
    """A hint for every JSON file, and every YAML in the folder itself, that cannot be read."""
    hints = list(_json_that(folder, lambda values: False)[1])
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            load_yaml(path)
        except ConfigError as error:
            hints.append(UNREAD.format(error))
    return tuple(hints)


def _json_that(folder: Path, fits: Callable[[object], bool]) -> tuple[list[tuple[Path, object]], tuple[str, ...]]:
    """JSON files whose content fits, with it, and a hint for every one that cannot be read, for it may have fitted as well."""
    found, unread = [], []
    for path, values in _json_below(folder):
        if isinstance(values, DataError):
            unread.append(UNREAD.format(values))
        elif fits(values):
            found.append((path, values))
    return found, tuple(unread)


def _json_below(folder: Path) -> Iterator[tuple[Path, object]]:
    """JSON files in a folder and two levels below it, with their content or why it cannot be read; a sample of each folder."""
    for place in (folder, *_folders(folder), *(inner for one in _folders(folder) for inner in _folders(one))):
        for path in islice(sorted(place.glob("*.json")), SAMPLED):
            try:
                yield path, read_json(path)
            except DataError as error:
                yield path, error


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_foreign(path.name))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _yolo(folder: Path) -> Guess | None:
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            values = yolo_yaml(file)
            names = list(class_numbers(values["names"], file).values())
        except (DataError, ConfigError):
            continue
        splits = {}
        for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
            try:
                splits[ours] = {"split": split} if split_photos(values, file, split) else {}
            except DataError:
                continue
        if splits:
            why = f"{file.name} names {len(names)} classes and the splits {', '.join(splits)}"
            return Guess("yolo", why, _split(folder.resolve().name, {"type": "yolo", "file": file.name}, splits))
    return None


def _labelme(folder: Path) -> Guess | None:
    found, hints = _json_that(folder, is_labelme)
    if not found:
        return None
    inside = {path.parent for path, _ in found}
    place = inside.pop() if len(inside) == 1 else folder
    common = {"type": "labelme", "annotations": _relative(place, folder)}
    if not any(is_image(path) for path in place.rglob("*")):
        common["images"] = "."
    splits = {split: place / one.name for one in _folders(place) if (split := _split_of(one.name))}
    why = f"{_relative(found[0][0], folder)} has Labelme's `shapes` and `imagePath`"
    if place == folder and "train" in splits and len(splits) > 1:
        parts = {split: {"annotations": _relative(path, folder)} for split, path in splits.items()}
        return Guess("labelme", why, _split(folder.resolve().name, {"type": "labelme"}, parts), hints)
    return Guess("labelme", why, _parted(folder.resolve().name, common), hints)


def _label_studio(folder: Path) -> Guess | None:
    found, hints = _json_that(folder, is_label_studio)
    if not found:
        return None
    path, tasks = found[0]
    finder, photo = PhotoFiles(folder), None
    for name in (name for task in tasks[:SAMPLED] for name in photo_names(task)):
        photo = photo or finder.find(name)
    images = _relative(photo.parent, folder) if photo else "."
    if not photo:
        hints += ("The photos are not in this folder: the JSON export holds none. Copy them, then set `images:`.",)
    common = {"type": "label_studio", "annotations": _relative(path, folder), "images": images}
    why = f"{path.name} is a list of tasks with `data` and `annotations`"
    return Guess("label_studio", why, _parted(folder.resolve().name, common), hints)


def _coco(folder: Path) -> Guess | None:
    found, hints = _json_that(folder, _is_coco)
    if not found:
        return None
    splits: dict[str, dict] = {}
    for path, values in found:
        split = _split_of(path.stem) or _split_of(path.parent.name) or "train"
        images = _coco_images(path, values, folder)
        splits.setdefault(split, {"images": images, "annotations": _relative(path, folder)})
    common = {"type": "coco"}
    if any(_all_crowds(values) for _, values in found):
        common["crowd"] = "mask"
        hints += ("Most annotations have iscrowd 1, as brushed masks have in exports of CVAT and Datumaro: taken as masks.",)
    names = ", ".join(_relative(path, folder) for path, _ in found[:3])
    why = f"{names} {'has' if len(found) == 1 else 'have'} COCO's images, annotations and categories"
    return Guess("coco", why, _split(folder.resolve().name, common, splits), hints)


def _is_coco(values: object) -> bool:
    if not isinstance(values, dict) or not {"images", "annotations", "categories"} <= set(values):
        return False
    annotations = values["annotations"]
    lists = isinstance(annotations, list) and isinstance(values["images"], list)
    return lists and any(isinstance(one, dict) and one.get("segmentation") for one in annotations)


def _all_crowds(values: dict) -> bool:
    crowd = Counter(bool(is_crowd(one)) for one in values["annotations"] if isinstance(one, dict))
    return crowd[True] > crowd[False]


def _coco_images(file: Path, values: dict, folder: Path) -> str:
    """The folder of the photos that a COCO JSON lists: the deepest of the likely ones in which the first is found."""
    names = [str(one.get("file_name")) for one in values["images"][:1] if isinstance(one, dict)]
    split = file.stem.removeprefix("instances_")
    likely = [file.parent, folder / "images" / split, folder / split, folder / "images", folder]
    for place in likely:
        if names and place.is_dir() and PhotoFiles(place).find(names[0]) is not None:
            return _relative(place, folder)
    return "."


def _cvat(folder: Path) -> Guess | None:
    try:
        labels = read_labelmap(folder / "labelmap.txt")
    except DataError:
        return None
    lists = sorted(path.stem for path in (folder / "ImageSets" / "Segmentation").glob("*.txt"))
    if not (folder / "SegmentationClass").is_dir() or not lists:
        return None
    common, hints = {"type": "cvat", "root": "."}, ()
    if not (folder / "JPEGImages").is_dir():
        hints = ('The export was made without photos: export again with "Save images", or add `images: <their folder>`.',)
    splits = {_split_of(name) or "train": {"list": name} for name in lists}
    why = f"labelmap.txt names {len(labels)} labels with colours, SegmentationClass/ has the masks"
    return Guess("cvat", why, _split(folder.resolve().name, common, splits), hints)


def _supervisely(folder: Path) -> Guess | None:
    there = data_sets(folder)
    if not there:
        return None
    named = {}
    for name in there:
        if split := _split_of(Path(name).name):
            named.setdefault(split, {"datasets": []})["datasets"].append(name)
    common = {"type": "supervisely", "root": "."}
    why = f"img/ and ann/ lie in {', '.join(list(there)[:4])}"
    whole = sum(len(part["datasets"]) for part in named.values()) == len(there) and len(named) > 1
    values = _split(folder.resolve().name, common, named) if whole else _parted(folder.resolve().name, common)
    return Guess("supervisely", why, values)


def _instances(folder: Path) -> Guess | None:
    for root in (folder, folder / "stage1_train"):
        things = (
            [one for one in _folders(root) if (one / "images").is_dir() and (one / "masks").is_dir()] if root.is_dir() else []
        )
        several = [one for one in things if len(images_below(one / "images")) == 1]
        if len(several) > 1:
            bowl = root.resolve().name.startswith("stage1")
            common = {"type": "instances", "root": _relative(root, folder), "name": "nucleus" if bowl else "object"}
            hints = () if bowl else ("Say what the things are, under `name:`.",)
            why = f"{len(several)} folders hold images/ with one photo and masks/ with a file per thing"
            return Guess("instances", why, _parted(folder.resolve().name, common), hints)
    return None


def _ade20k_full(folder: Path) -> Guess | None:
    segs = list(islice((path for path in folder.rglob("*_seg.png") if _json_of(path).is_file()), 200))
    if not segs and (old := release_of_2016(folder)):
        raise DataError(old)
    if not segs:
        return None
    names = Counter(name for path in segs for name in _names_or_none(_json_of(path)))
    common = {"type": "ade20k_full", "classes": [name for name, _ in names.most_common(20)]}
    roots = {split: root for root in segs[0].parents for split in ("train",) if _split_of(root.name) == split}
    splits = {"train": {"root": "."}}
    if roots:
        beside = {split: one for one in _folders(roots["train"].parent) if (split := _split_of(one.name))}
        splits = {split: {"root": _relative(one, folder)} for split, one in beside.items() if one.is_relative_to(folder)}
    hints = (f"The {len(common['classes'])} commonest classes of {len(segs)} photos; name those that you want.",)
    why = f"{segs[0].name} and {_json_of(segs[0]).name} lie beside their photo"
    return Guess("ade20k_full", why, _split(folder.resolve().name, common, splits or {"train": {"root": "."}}), hints)


def _json_of(seg: Path) -> Path:
    return seg.with_name(seg.name.removesuffix("_seg.png") + ".json")


def _names_or_none(path: Path) -> Iterable[str]:
    try:
        return ade_names(path)
    except DataError:
        return ()


def _scene_parsing(folder: Path) -> Guess | None:
    for root in (folder, folder / "ADEChallengeData2016"):
        if (root / "annotations/training").is_dir() and (root / "images/training").is_dir():
            common = {"type": "index", "root": _relative(root, folder), "preset": "ade20k-150", "first": 1, "ignore": [0]}
            splits = {
                split: {"images": f"images/{name}/*.jpg", "masks": f"annotations/{name}/{{1}}.png"}
                for split, name in (("train", "training"), ("validation", "validation"))
                if (root / "annotations" / name).is_dir()
            }
            why = "images/training and annotations/training of ADE20K's scene parsing are there"
            return Guess("ade20k", why, _split("ADE20K", common, splits))
    return None


def _sbd(folder: Path) -> Guess | None:
    for root in (folder, folder / "dataset", folder / "benchmark_RELEASE/dataset"):
        if (root / "img").is_dir() and next((root / "cls").glob("*.mat"), None):
            common = {
                "type": "index", "root": _relative(root, folder), "images": "img/*.jpg", "masks": "cls/{1}.mat",
                "variable": "GTcls.Segmentation", "preset": "pascal-voc-20", "first": 1,
            }  # fmt: skip
            lists = {_split_of(path.stem): {"list": path.name} for path in root.glob("*.txt") if _split_of(path.stem)}
            why = "img/ and cls/*.mat are there, as in the Semantic Boundaries data set"
            return Guess("sbd", why, _split("SBD", common, lists) if lists else _parted("SBD", common))
    return None


def _voc(folder: Path) -> Guess | None:
    places = (folder, *sorted(folder.glob("VOC20*")), *sorted(folder.glob("VOCdevkit/VOC20*")))
    root = next((one for one in places if (one / "JPEGImages").is_dir() and _voc_masks(one)), None)
    if root is None or (root / "labelmap.txt").is_file():
        return None
    masks, numbers = _voc_masks(root), Counter()
    for path in islice(images_below(root / masks), SAMPLED):
        numbers.update(_levels(path)[1])
    photo = next(iter(images_below(root / "JPEGImages")), Path("a.jpg"))
    common: dict = {
        "type": "index", "root": _relative(root, folder), "images": f"JPEGImages/*{photo.suffix}", "masks": f"{masks}/{{1}}.png",
    }  # fmt: skip
    names, hints = root / "class_names.txt", ()
    if names.is_file():  # labelme2voc
        lines = [line.strip() for line in read_text(names).splitlines() if line.strip()]
        common |= {"classes": {name: number for number, name in enumerate(lines) if name != "_background_"}, "ignore": [255]}
    elif set(numbers) <= {*range(21), 255}:
        common |= {"preset": "pascal-voc-20", "first": 1, "ignore": [255]}
    else:
        common |= {"classes": {f"class {number}": number for number in sorted(set(numbers) - {0, 255})}, "ignore": [255]}
        hints = ("Give the class numbers their names.",)
    lists = {
        split: {"list": f"ImageSets/Segmentation/{path.name}"}
        for path in sorted((root / "ImageSets/Segmentation").glob("*.txt"))
        if (split := _split_of(path.stem)) and path.stem != "trainval"
    }
    why = f"JPEGImages/ and {masks}/ with class numbers are there, as Pascal VOC has them"
    values = _split(folder.resolve().name, common, lists) if lists else _parted(folder.resolve().name, common)
    return Guess("voc", why, values, hints)


def _voc_masks(root: Path) -> str | None:
    names = ("SegmentationClassPNG", "SegmentationClass")
    return next((name for name in names if next((root / name).glob("*.png"), None)), None)


def _class_folders(folder: Path) -> Guess | None:
    """images/ and masks/<class>/, in one piece or per split."""
    found = {}
    for split, place in _places(folder).items():
        images, masks = _first(place, IMAGE_FOLDERS), _first(place, MASK_FOLDERS)
        classes = [one.name for one in _folders(masks) if _holds_images(one)] if masks else []
        if images and _holds_images(images) and classes and not any(map(_split_of, classes)):
            found[split] = {"images": _relative(images, folder), "masks": _relative(masks, folder)}, classes
    if not found:
        return None
    part, classes = next(iter(found.values()))
    why = f"{part['images']} holds photos and {part['masks']} a folder for each of {', '.join(classes[:4])}"
    splits = {split: one for split, (one, _) in found.items()}
    return Guess("folder", why, _split(folder.resolve().name, {"type": "folder"}, splits))


def _pairs(folder: Path) -> Guess | None:
    """One label file for each photo, in two folders, in one piece or per split."""
    found = {}
    for split, place in _places(folder).items():
        images, masks = _first(place, IMAGE_FOLDERS), _first(place, MASK_FOLDERS)
        if not images or not masks:
            continue
        below = {inner: one for one in _folders(images) if (inner := _split_of(one.name)) and (masks / one.name).is_dir()}
        pairs = {inner: (one, masks / one.name) for inner, one in below.items()} or {split: (images, masks)}
        found |= {inner: pattern for inner, pair in pairs.items() if (pattern := _pattern(*pair, folder))}
    if not found:
        return None
    reading, hints = _reading([path for part in found.values() for path in part["files"]])
    splits = {split: {"images": part["images"], "masks": part["masks"]} for split, part in found.items()}
    why = f"{next(iter(found.values()))['masks']} has a label file for each photo: {hints[0]}"
    return Guess("pairs", why, _split(folder.resolve().name, {"root": ".", **reading}, splits), hints[1:])


def _places(folder: Path) -> dict[str, Path]:
    """Folders of splits by split; the folder itself as "train" where there is none."""
    splits = {split: one for one in _folders(folder) if (split := _split_of(one.name)) and _first(one, IMAGE_FOLDERS)}
    return splits or {"train": folder}


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _holds_images(folder: Path) -> bool:
    return any(is_image(path) for path in folder.iterdir())


def _pattern(images: Path, masks: Path, folder: Path) -> dict | None:
    """Patterns of photos and label files that share their names, and the first label files."""
    photos = {path.stem: path for path in images.iterdir() if is_image(path) and not is_foreign(path.name)}
    files = sorted(path for path in masks.iterdir() if is_image(path) and not is_foreign(path.name))
    for affix in ("", "_mask", "_seg", "_label", "_labels", "_gt", "_segmentation"):
        fitting = [path for path in files if path.stem.endswith(affix) and path.stem[: len(path.stem) - len(affix)] in photos]
        if fitting and len(fitting) >= len(photos) / 2:
            suffixes = Counter(path.suffix for path in photos.values())
            star = f"*{next(iter(suffixes))}" if len(suffixes) == 1 else "*.*"
            return {
                "images": f"{_relative(images, folder)}/{star}",
                "masks": f"{_relative(masks, folder)}/{{1}}{affix}{fitting[0].suffix}",
                "files": fitting[:SAMPLED],
            }
    return None


def _levels(path: Path) -> tuple[str, dict]:
    """Pillow's mode of a label file, and its values: numbers, or colours as (r, g, b), counted."""
    with opened(path) as image:
        mode = "lossy" if is_lossy(image, path) else image.mode
        values = np.asarray(image if image.mode in ("P", "L", "I;16", "I", "1") else image.convert("RGB"))
    if values.ndim == 3 and (values == values[..., :1]).all():
        values, mode = values[..., 0], "L" if mode != "lossy" else mode
    flat = values.reshape(-1, 3) if values.ndim == 3 else values.reshape(-1)
    found, counts = np.unique(flat, axis=0, return_counts=True)
    keys = [tuple(map(int, one)) if values.ndim == 3 else int(one) for one in found]
    return mode, dict(zip(keys, map(int, counts), strict=True))


def _reading(files: list[Path]) -> tuple[dict, tuple[str, ...]]:
    """How label files are read: settings of the YAML, and what was seen in them with hints."""
    values, modes = Counter(), set()
    for path in files[:SAMPLED]:
        mode, found = _levels(path)
        modes.add(mode)
        values.update(found)
    colours = [value for value in values if isinstance(value, tuple)]
    numbers = sorted(value for value in values if not isinstance(value, tuple))
    name_it = "Say what is masked, under `name:`."
    if colours and len(colours) <= MANY_LEVELS and "lossy" not in modes:
        classes = {f"colour {r} {g} {b}": [r, g, b] for r, g, b in sorted(colours) if (r, g, b) != (0, 0, 0)}
        return {"type": "colour", "classes": classes}, (f"{len(colours)} colours", "Give the colours their names.")
    if len(numbers) > MANY_LEVELS or "lossy" in modes or colours:
        soft = "Levels between black and white: `marks: soft` teaches them as weights."
        return {"type": "binary", "name": "object"}, ("grey levels", name_it, soft)
    if set(numbers) <= {0, 255, True} and "P" not in modes and max(numbers) != 1:
        return {"type": "binary", "name": "object"}, ("black and white", name_it)
    found = [number for number in numbers if number not in (0, 255)]
    ignore = {"ignore": [255]} if 255 in numbers else {}
    classes = {f"class {number}": number for number in found}
    return {"type": "index", "classes": classes, **ignore}, (f"class numbers {found}", "Give the class numbers their names.")


LAYOUTS: tuple[Callable[[Path], Guess | None], ...] = (
    _yolo,
    _labelme,
    _label_studio,
    _coco,
    _cvat,
    _supervisely,
    _instances,
    _ade20k_full,
    _scene_parsing,
    _sbd,
    _voc,
    _class_folders,
    _pairs,
)
VAGUE = ("folder", "pairs")
"""Layouts that a folder of another kind may have as well by its names."""
