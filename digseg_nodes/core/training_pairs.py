"""Photos and masks from a graph as a data set that train/ reads as it is: images/, masks/<class>/ and data.yaml."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image
from torch import Tensor

from .file_names import safe_names
from .files import check_replaceable, write_text, written_atomically
from .pixels import to_bytes
from .untrusted import MOST_JSON, parse_json

DATA_FILE = "data.yaml"
_LISTS = re.compile(r"^(?P<depth> *)(?P<key>classes|absent): (?P<value>.*)$", re.MULTILINE)
_BEGINNING = re.compile(r"^ *(?=[^\s#])", re.MULTILINE)
"""The indentation of a line that is neither empty nor a comment."""


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


def check_class_name(name: str) -> None:
    """PairError for a text of several lines as the name of the one class that a MASK shows."""
    lines = [line.strip() for line in name.splitlines() if line.strip()]
    if len(lines) > 1:
        raise PairError(
            f"class_name has {len(lines)} lines, {lines[0][:40]!r} and more, and a MASK shows one class. Write its name on one "
            "line, or connect DiGSeg masks instead, which have a name each."
        )


def save_pairs(folder: Path, pairs: list[Pair], pair_id: str = "") -> list[str]:
    """Add pairs to the data set in `folder`; returns their ids, the names of their files.

    pair_id: replaces the masks of the pair of that name, or makes it; several pairs are numbered from 1 on. Without it the id
    comes from the photo's pixels, so that the classes of one photo come together whenever they are saved, and a mask that is
    there, or comes earlier in the batch, and differs raises PairError. Everything is checked before anything is written.
    """
    ids = _ids(pairs, pair_id)
    path = folder / DATA_FILE
    text = _read_text(path) if _is_there(path) else _template(folder.name)
    listed = _listed(path, text)
    folders = _class_folders(path, listed, [name for pair in pairs for name in pair.masks])
    new_text = _with_classes(path, text, {own: label for label, own in folders.items() if own not in listed})
    _check_batch(ids, pairs, folders)
    for name, pair in zip(ids, pairs, strict=True):
        _check(folder, name, pair, folders, replacing=bool(pair_id.strip()))
    for name, pair in zip(ids, pairs, strict=True):
        _write(folder / "images" / f"{name}.png", pair.photo)
        for label, mask in pair.masks.items():
            _write(folder / "masks" / folders[label] / f"{name}.png", to_bytes(mask))
    if new_text != text or not _is_there(path):
        write_text(path, new_text)
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


def _class_folders(path: Path, listed: dict[str, list[str]], labels: list[str]) -> dict[str, str]:
    """Class name → name of its folder: the one that is listed for it, by its first phrase or another; else a new one."""
    known = {phrase: own for own, phrases in reversed(listed.items()) for phrase in phrases}
    known |= {phrases[0]: own for own, phrases in reversed(listed.items())}
    new = [label for label in dict.fromkeys(labels) if label not in known]
    made = dict(zip(new, safe_names([*listed, *new])[len(listed) :], strict=True))
    if taken := [label for label in new if made[label] in listed]:
        raise PairError(
            f"The class {taken[0]!r} would have the folder {made[taken[0]]}, which {path} lists for "
            f"{listed[made[taken[0]]][0]!r}. Give the class another name, or add {taken[0]!r} to the phrases of that folder."
        )
    folders = {label: known.get(label) or made[label] for label in dict.fromkeys(labels)}
    for own in folders.values():
        _check_folder_name(path, own)
    return folders


def _check_folder_name(path: Path, own: str) -> None:
    """PairError for a name in the list of classes that is not that of a folder right in masks/."""
    if own in ("", "..") or PureWindowsPath(own).name != own or re.search("[\0\ud800-\udfff]", own):
        raise PairError(
            f"{path} lists the class {own!r}, which cannot be the name of a folder in masks. Give it the folder's own name."
        )


def _check_batch(ids: list[str], pairs: list[Pair], folders: dict[str, str]) -> None:
    """PairError where two masks would become one file and differ."""
    first: dict[tuple[str, str], tuple[int, str, np.ndarray]] = {}
    for number, (name, pair) in enumerate(zip(ids, pairs, strict=True), 1):
        for label, mask in pair.masks.items():
            frame, other, there = first.setdefault((name, folders[label]), (number, label, mask))
            if np.array_equal(there, mask):
                continue
            if frame == number:
                raise PairError(
                    f"{other!r} and {label!r} are phrases of one class, {folders[label]!r}, and their masks of one photo differ. "
                    "Save one of the two, or both joined."
                )
            raise PairError(
                f"Frames {frame} and {number} of the batch are the same photo with different masks of {label!r}, and a photo has "
                "one mask of a class. Save one of the two, or both joined; with a pair_id every frame is a pair of its own."
            )


def _check(folder: Path, name: str, pair: Pair, folders: dict[str, str], replacing: bool) -> None:
    photo = folder / "images" / f"{name}.png"
    if _is_there(photo) and not np.array_equal(_read(photo), pair.photo):
        raise PairError(f"The pair {name!r} in {folder} holds another photo. Give another pair_id, or none.")
    for label, mask in pair.masks.items():
        path = folder / "masks" / folders[label] / f"{name}.png"
        if _is_there(path) and not replacing and not np.array_equal(_read(path, "L") >= 128, mask):
            raise PairError(
                f"This photo is already saved with another mask of {label!r}, as {path}. Write {name} into pair_id to replace it."
            )


def _is_there(path: Path) -> bool:
    """Whether a regular file is at `path`; PairError where something else is, or where no file can be."""
    try:
        check_replaceable(path)
        return path.exists()
    except OSError as error:
        raise PairError(
            f"{path} cannot be a file of the data set: {error.strerror}. Move away what is in its place, or save under another "
            "data set's name."
        ) from error


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    """Pixels of a picture as they are, or in a mode of Pillow; PairError for one that is damaged."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode) if mode else picture)
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them to
        raise PairError(
            f"{path} is there and cannot be read as a picture: it is damaged. Put the right one in its place, or delete it and "
            "save this pair again."
        ) from error


def _read_text(path: Path) -> str:
    """The text of the data file with its own line ends; PairError for what is none."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"it has more than {MOST_JSON:,} bytes")
        return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        reason = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        raise PairError(
            f"{path} cannot be read: {reason}. Put the file back as it was, or save under another data set's name."
        ) from error


def _write(path: Path, pixels: np.ndarray) -> None:
    with written_atomically(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG")


def _listed(path: Path, text: str) -> dict[str, list[str]]:
    """{folder: phrases} of the classes that the text of a data file lists, read as the trainer does."""
    try:
        return {own: _phrases(own, value) for own, value in _parsed(_list_lines(text)["classes"], dict).items()}
    except (ValueError, LookupError) as error:
        raise PairError(
            f"{path} was edited: its line `classes: {{…}}` cannot be read, so it is not known which classes there are. "
            "Put the line back as it was, with names and phrases in double quotes, or save under another data set's name."
        ) from error


def _phrases(own: str, value: object) -> list[str]:
    """The phrases of a class: a text is one, nothing means the class's own name; ValueError for what is none."""
    phrases = [value] if isinstance(value, str) else value or [own]
    if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
        raise ValueError(f"the phrases of {own!r} are no texts")
    return phrases


def _list_lines(text: str) -> dict[str, re.Match]:
    """The lines `classes` and `absent` of the source that pairs are added to; no others' (validation, test)."""
    lines = [line for line in _LISTS.finditer(text) if _part(text, line) not in ("validation", "test")]
    classes = [line for line in lines if line["key"] == "classes"]
    if not classes:
        return {}
    first = min(classes, key=lambda line: _part(text, line) != "train")
    return {line["key"]: line for line in reversed(lines) if _parent(text, line) == _parent(text, first)} | {"classes": first}


def _part(text: str, line: re.Match) -> str:
    """The key at the margin that a line of the data file belongs to."""
    return (re.findall(r"^(\w+):", text[: line.start()], re.MULTILINE) or [""])[-1]


def _parent(text: str, line: re.Match) -> tuple[int, int]:
    """Indentation of a line, and where the last line before it begins that has less."""
    depth = len(line["depth"])
    starts = [before.start() for before in _BEGINNING.finditer(text, 0, line.start()) if len(before[0]) < depth]
    return depth, starts[-1] if starts else -1


def _parsed(line: re.Match, kind: type) -> dict | list:
    """The value on a line of the data file; ValueError where it is not JSON of this kind."""
    value = parse_json(line["value"])
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected, found {type(value).__name__}")
    return value


def _with_classes(path: Path, text: str, new: dict[str, str]) -> str:
    """The text of a data file with new classes, {folder: class name}, behind those listed; all else stays as it is."""
    lines = _list_lines(text)
    added = {"classes": [f"{_json(own)}: [{_json(label)}]" for own, label in new.items()], "absent": map(_json, new)}
    for key, line in sorted(lines.items(), key=lambda item: -item[1].start()) if new else []:  # from the last on: places stay
        try:
            there = _parsed(line, dict if key == "classes" else list)
        except ValueError as error:
            raise PairError(
                f"{path} was edited: its line `{key}: …` cannot be read, so the new class {next(iter(new.values()))!r} cannot be "
                "added. Write it as JSON in one line, with names in double quotes."
            ) from error
        items = [item for item, own in zip(added[key], new, strict=True) if own not in there]
        text = f"{text[: line.start('value')]}{_longer(line['value'], items, bool(there))}{text[line.end('value') :]}"
    return text


def _longer(value: str, items: list[str], comma: bool) -> str:
    """The JSON text of a list or an object with more items before its last bracket."""
    body = value.rstrip()
    more = ", ".join(items)
    return f"{body[:-1].rstrip()}{', ' if comma and more else ''}{more}{body[-1]}{value[len(body) :]}" if more else value


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _template(name: str) -> str:
    return f"""\
# Pairs of photo and mask, saved by DiGSeg Save Training Pair. Look at them, then train:
#   python train/check_data.py THIS_FILE --sheet sheet.png
#   python train/finetune.py --config YOUR_RUN.yaml data=THIS_FILE
# A class without a mask for a photo counts as not in it. New classes are added to the two lists by the node.
name: {_json(name)}
train:
  type: folder
  images: images
  masks: masks
  classes: {{}}
  absent: []
"""
