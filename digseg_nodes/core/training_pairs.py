"""Photos and masks from a graph as a data set that train/ reads as it is: images/, masks/<class>/ and data.yaml."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from .file_names import safe_names
from .files import write_text, written_atomically
from .pixels import to_bytes

DATA_FILE = "data.yaml"
_CLASSES = re.compile(r"^( *)(classes|absent): .*$", re.MULTILINE)


@dataclass(frozen=True)
class Pair:
    """One photo, uint8 [H,W,3], and its hard masks by class name, bool [H,W]; an all-False mask says: it is not here."""

    photo: np.ndarray
    masks: dict[str, np.ndarray]


class PairError(ValueError):
    """A pair that cannot be saved as it is; says what is there and what to do."""


def make_pairs(image: Tensor, hard: dict[str, Tensor]) -> list[Pair]:
    """Frames [B,H,W,C] in [0,1] with their hard masks per class [B,H,W], frame by frame."""
    photos = to_bytes(image[..., :3].expand(-1, -1, -1, 3))
    masks = {name: mask.cpu().numpy() > 0.5 for name, mask in hard.items()}
    return [Pair(photo, {name: mask[frame] for name, mask in masks.items()}) for frame, photo in enumerate(photos)]


def save_pairs(folder: Path, pairs: list[Pair], pair_id: str = "") -> list[str]:
    """Add pairs to the data set in `folder`; returns their ids, the names of their files.

    pair_id: replaces the masks of the pair of that name, or makes it; several pairs are numbered from 1 on. Without it the id
    comes from the photo's pixels, so that the classes of one photo come together whenever they are saved, and a mask that is
    there and differs raises PairError. Everything is checked before anything is written.
    """
    ids = _ids(pairs, pair_id)
    phrases = _known_classes(folder / DATA_FILE)
    folders = _class_folders([*phrases.values(), *(name for pair in pairs for name in pair.masks)])
    for name, pair in zip(ids, pairs, strict=True):
        _check(folder, name, pair, folders, replacing=bool(pair_id.strip()))
    for name, pair in zip(ids, pairs, strict=True):
        _write(folder / "images" / f"{name}.png", pair.photo)
        for label, mask in pair.masks.items():
            _write(folder / "masks" / folders[label] / f"{name}.png", to_bytes(mask))
    _describe(folder, {own: label for label, own in folders.items()})
    return ids


def _ids(pairs: list[Pair], pair_id: str) -> list[str]:
    wanted = pair_id.strip()
    if not wanted:
        return [f"photo-{_digest(pair.photo)}" for pair in pairs]
    if len(pairs) == 1:
        return safe_names([wanted])
    return safe_names([f"{wanted}-{number:04}" for number in range(1, len(pairs) + 1)])


def _digest(photo: np.ndarray) -> str:
    return hashlib.sha256(repr(photo.shape).encode() + photo.tobytes()).hexdigest()[:12]


def _class_folders(labels: list[str]) -> dict[str, str]:
    """Class name → name of its folder, in the order of first use."""
    unique = list(dict.fromkeys(labels))
    return dict(zip(unique, safe_names(unique), strict=True))


def _check(folder: Path, name: str, pair: Pair, folders: dict[str, str], replacing: bool) -> None:
    photo = folder / "images" / f"{name}.png"
    if photo.is_file() and not np.array_equal(_read(photo), pair.photo):
        raise PairError(f"The pair {name!r} in {folder} holds another photo. Give another pair_id, or none.")
    for label, mask in pair.masks.items():
        path = folder / "masks" / folders[label] / f"{name}.png"
        if not replacing and path.is_file() and not np.array_equal(_read(path) >= 128, mask):
            raise PairError(
                f"This photo is already saved with another mask of {label!r}, as {path}. Write {name} into pair_id to replace it."
            )


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _write(path: Path, pixels: np.ndarray) -> None:
    with written_atomically(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def _known_classes(path: Path) -> dict[str, str]:
    """{folder: class name} of the classes that the data file lists."""
    if not path.is_file():
        return {}
    for found in _CLASSES.finditer(path.read_text("utf-8")):
        if found[2] == "classes":
            try:
                listed = json.loads(found[0].partition(": ")[2])
                return {own: words[0] for own, words in listed.items()}
            except (ValueError, AttributeError, LookupError, TypeError):
                break
    raise PairError(
        f"{path} was edited: its line `classes: {{…}}` cannot be read, so it is not known which classes there are. "
        "Put the line back as it was, or save under another data set's name."
    )


def _describe(folder: Path, phrases: dict[str, str]) -> None:
    """Write data.yaml, or bring its lists of classes up to date; everything else in it stays as its owner left it."""
    path = folder / DATA_FILE
    lists = {
        "classes": json.dumps({own: [label] for own, label in phrases.items()}, ensure_ascii=False),
        "absent": json.dumps(list(phrases), ensure_ascii=False),
    }
    old = path.read_text("utf-8") if path.is_file() else _template(folder.name)
    new = _CLASSES.sub(lambda found: f"{found[1]}{found[2]}: {lists[found[2]]}", old)
    if not path.is_file() or new != old:
        write_text(path, new)


def _template(name: str) -> str:
    return f"""\
# Pairs of photo and mask, saved by DiGSeg Save Training Pair. Look at them, then train:
#   python train/check_data.py THIS_FILE --sheet sheet.png
#   python train/finetune.py --config YOUR_RUN.yaml data=THIS_FILE
# A class without a mask for a photo counts as not in it. The two lists of classes are kept up to date by the node.
name: {json.dumps(name, ensure_ascii=False)}
train:
  type: folder
  images: images
  masks: masks
  classes: {{}}
  absent: []
"""
