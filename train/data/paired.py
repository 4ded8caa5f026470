"""Photos with one label file each: class numbers, class colours, or black and white."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from train.data.base import DataError, Finding
from train.data.by_others import read_text
from train.data.label_values import colour_codes, strange_colours, strange_numbers
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest
from train.data.marks import read_mask, read_weights
from train.data.matlab import read_matlab
from train.data.names import is_foreign, is_image, same_but_for_spelling
from train.data.pixels import IMAGE_SUFFIXES, read_colours, read_numbers
from train.data.source_config import BinaryConfig, ColourConfig, IndexConfig, PairedConfig


def match_photos(config: PairedConfig) -> dict[Path, tuple[str, ...]]:
    """Photos that match the pattern, with what its stars matched; raises DataError when there is none."""
    wanted = PurePosixPath(config.images)
    if not config.images.strip() or not config.masks.strip():
        raise DataError(
            "`images` and `masks` are patterns below `root`, e.g. images/*.jpg and masks/{1}.png; one of them is empty."
        )
    if wanted.is_absolute() or ".." in wanted.parts or re.search(r"\*\*|[?\[\]]", config.images):
        raise DataError(f"`images: {config.images}` must be a path below `root` with single stars (*) for what varies.")
    pattern = re.compile(re.escape(wanted.as_posix()).replace(r"\*", "([^/]*)"))
    found = {image: pattern.fullmatch(_below(image, config.root)) for image in config.root.glob(str(wanted))}
    parts = {image: match for image, match in found.items() if match}  # a disk may not tell upper from lower case
    parts = {image: match for image, match in parts.items() if image.is_file() and not _foreign(image, config.root)}
    if not parts:
        raise DataError(f"No photo matches {config.root / config.images}. Check `root` and `images` of the data YAML.")
    return {image: match.groups() or (image.stem,) for image, match in parts.items()}


def pair_files(config: PairedConfig, values: dict[Path, tuple[str, ...]]) -> list[tuple[Path, Path]]:
    """(photo, label file) of every photo of the split, sorted; raises DataError when a label is missing."""
    kept = _listed(config.root / config.list, values) if config.list else sorted(values)
    pairs = [(image, _existing(config.root / _fill(config.masks, values[image]), values)) for image in kept]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(pairs)} label files are missing, e.g. {missing[0]}. Check `masks`.")
    return pairs


def _existing(path: Path, photos: Container[Path]) -> Path:
    """A label file, under the name it has on disk where only case, Unicode form or image suffix differ."""
    other = None if path.is_file() else same_but_for_spelling(path)
    return path if other is None or other in photos else other


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _foreign(path: Path, root: Path) -> bool:
    return any(is_foreign(part) for part in path.relative_to(root).parts)


def other_suffixes(config: PairedConfig, taken: Iterable[Path]) -> list[Path]:
    """Image files that would match the pattern of photos if it ended otherwise (.JPG and .jpeg beside .jpg)."""
    wanted = PurePosixPath(config.images)
    if wanted.suffix.lower() not in IMAGE_SUFFIXES:
        return []
    pattern = wanted.with_suffix(".*").as_posix()
    exact = re.compile(re.escape(wanted.with_suffix("").as_posix()).replace(r"\*", "([^/]*)"))
    taken = set(taken)
    found = [
        path for path in config.root.glob(pattern) if path not in taken and is_image(path) and not _foreign(path, config.root)
    ]
    return sorted(path for path in found if exact.fullmatch(_below(path.with_suffix(""), config.root)))


def _listed(path: Path, values: dict[Path, tuple[str, ...]]) -> list[Path]:
    """The photos whose last value a list names, sorted; a line is a value, or starts with one before white space, or is a
    comment after #."""
    if not path.is_file():
        raise DataError(f"There is no list of images {path}.")
    by_name: dict[str, list[Path]] = {}
    for image, parts in values.items():
        by_name.setdefault(parts[-1], []).append(image)
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and (line in by_name or not line.startswith("#"))]
    if not lines:
        raise DataError(f"{path} names no photo: it is empty.")
    names = [line if line in by_name else line.split()[0] for line in lines]
    if unknown := [name for name in names if name not in by_name]:
        raise DataError(
            f"{len(unknown)} of {len(names)} lines of {path} name no photo, e.g. {unknown[0]!r}; expected what the last star of "
            f"`images` stands for, like {next(iter(by_name))!r}."
        )
    return sorted({image for name in names for image in by_name[name]})


def _fill(template: str, parts: tuple[str, ...]) -> str:
    numbers = [int(number) for number in re.findall(r"\{(\d+)\}", template)]
    if any(not 1 <= number <= len(parts) for number in numbers):
        raise DataError(f"`masks: {template}` uses other places than {{1}} to {{{len(parts)}}}, one per star of `images`.")
    return re.sub(r"\{(\d+)\}", lambda match: parts[int(match[1]) - 1], template)


class PairedSource(LabelledSource):
    """See PairedConfig; sub-classes turn a label file into class masks."""

    config: PairedConfig

    def __init__(self, config: PairedConfig):
        self.config = config
        self.matched = match_photos(config)
        self.listed = pair_files(config, self.matched)
        self.pairs = chosen(self.listed, lambda pair: _below(pair[0], config.root), config)
        self.wording = Wording(config, {name: [name] for name in self.names()})

    def names(self) -> list[str]:
        """Class names of the configuration."""
        return list(self.config.classes)

    def twins(self) -> tuple[str, str] | None:
        """Two classes that are the same pixels, if there are such."""
        seen: dict[str, str] = {}
        for name, values in getattr(self.config, "classes", {}).items():
            other = seen.setdefault(str(sorted(values)) if isinstance(values, list) else str(values), name)
            if other != name:
                return other, name
        return None

    @abstractmethod
    def decode(self, path: Path) -> Labels:
        """The labels of a label file."""

    @abstractmethod
    def reading(self) -> tuple:
        """The settings that decide how a label file is read."""

    def __len__(self) -> int:
        return len(self.pairs)

    def photo(self, index: int) -> Path:
        return self.pairs[index][0]

    def labels(self, index: int) -> Labels:
        return self.decode(self.pairs[index][1])

    def content(self, index: int) -> str:
        return f"{self.config.type}/{file_digest(*self.pairs[index])}/{settings_digest(*self.reading())}"

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        root, pattern = self.config.root, re.sub(r"\{\d+\}", "*", self.config.masks)
        there = {path for path in root.glob(pattern) if path.is_file() and not _foreign(path, root)}
        used = {mask for _, mask in self.listed}
        return (there | used) - set(self.matched), used

    def findings(self) -> list[Finding]:
        out = super().findings()
        if left := other_suffixes(self.config, [*self.matched, *(mask for _, mask in self.listed)]):
            names = ", ".join(path.name for path in left[:5])
            text = f"{len(left)} images match `images: {self.config.images}` but for their suffix and are not read: {names}"
            out.append(Finding(f"{text}; write the pattern with *.* to take them"))
        if twins := self.twins():
            text = f"{twins[0]} and {twins[1]} are the same number or colour, so that each is taught wherever the other is"
            out.append(Finding(text))
        masks = Counter(mask for _, mask in self.listed)
        if shared := [mask for mask, count in masks.items() if count > 1]:
            out.append(Finding(f"{len(shared)} label files belong to several photos, e.g. {shared[0]} to {masks[shared[0]]}"))
        return out


class IndexSource(PairedSource):
    """See IndexConfig."""

    config: IndexConfig

    def reading(self) -> tuple:
        return self.config.classes, self.config.ignore, self.config.background, self.config.variable

    def decode(self, path: Path) -> Labels:
        numbers = read_matlab(path, self.config.variable) if path.suffix == ".mat" else read_numbers(path, self.config.page)
        masks = {name: np.isin(numbers, wanted) for name, wanted in self.config.classes.items()}
        ignore = np.isin(numbers, self.config.ignore) if self.config.ignore else None
        return Labels(masks, ignore, path, numbers.shape, lambda: self._unknown(numbers))

    def _unknown(self, numbers: np.ndarray) -> dict[str, int]:
        if self.config.background == "rest":
            return {}
        known = {*self.config.ignore, *self.config.background, *(one for many in self.config.classes.values() for one in many)}
        return {str(number): count for number, count in strange_numbers(numbers, known).items()}


class ColourSource(PairedSource):
    """See ColourConfig."""

    config: ColourConfig

    def reading(self) -> tuple:
        return self.config.classes, self.config.ignore, self.config.background

    def decode(self, path: Path) -> Labels:
        colours, opaque = read_colours(path, self.config.page)
        codes = colour_codes(colours)
        if opaque is not None:
            codes = np.where(opaque, codes, TRANSPARENT)
        masks = {name: codes == colour_codes(np.array(colour)) for name, colour in self.config.classes.items()}
        ignored = [colour_codes(np.array(colour)) for colour in self.config.ignore]
        ignore = np.isin(codes, ignored) if ignored else None
        return Labels(masks, ignore, path, codes.shape, lambda: self._unknown(codes))

    def _unknown(self, codes: np.ndarray) -> dict[str, int]:
        if self.config.background == "rest":
            return {}
        colours = [*self.config.classes.values(), *self.config.ignore, *self.config.background]
        known = {TRANSPARENT, *(int(colour_codes(np.array(colour))) for colour in colours)}
        return strange_colours(codes, known)


TRANSPARENT = -1
"""The code of pixels without colour."""


class BinarySource(PairedSource):
    """See BinaryConfig."""

    config: BinaryConfig

    def names(self) -> list[str]:
        return [self.config.name]

    def reading(self) -> tuple:
        return self.config.name, self.config.ignore, self.config.marks

    def decode(self, path: Path) -> Labels:
        name, soft = self.config.name, {}
        if self.config.marks == "soft":
            soft[name], unknown = read_weights(path, self.config.ignore, self.config.page)
            marked = soft[name] >= 0.5
        else:
            marked, unknown = read_mask(path, self.config.ignore, self.config.marks, self.config.page)
        ignore = unknown if self.config.ignore is not None else None
        return Labels({name: marked}, ignore, path, marked.shape, soft=soft)
