"""Photos with one label file each: class numbers, class colours, or black and white."""

import re
from abc import abstractmethod
from pathlib import Path, PurePosixPath

import numpy as np

from train.data.base import DataError
from train.data.config import BinaryConfig, ColourConfig, IndexConfig, PairedConfig
from train.data.labelled import (
    LabelledSource,
    Labels,
    Wording,
    file_digest,
    read_image,
    read_mask,
    read_matlab,
    settings_digest,
)


def pair_files(config: PairedConfig) -> list[tuple[Path, Path]]:
    """(photo, label file) of every photo that matches, sorted; raises DataError when there is none or a label is missing."""
    wanted = PurePosixPath(config.images)
    if wanted.is_absolute() or ".." in wanted.parts or re.search(r"\*\*|[?\[\]]", config.images):
        raise DataError(f"`images: {config.images}` must be a path below `root` with single stars (*) for what varies.")
    pattern = re.compile(re.escape(wanted.as_posix()).replace(r"\*", "([^/]*)"))
    found = {image: pattern.fullmatch(image.relative_to(config.root).as_posix()) for image in config.root.glob(str(wanted))}
    parts = {image: match for image, match in found.items() if match}  # a disk may not tell upper from lower case
    if not parts:
        raise DataError(f"No photo matches {config.root / config.images}. Check `root` and `images` of the data YAML.")
    values = {image: match.groups() or (image.stem,) for image, match in parts.items()}
    kept = _listed(config.root / config.list, values) if config.list else sorted(values)
    pairs = [(image, config.root / _fill(config.masks, values[image])) for image in kept]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(pairs)} label files are missing, e.g. {missing[0]}. Check `masks`.")
    return pairs[: config.limit]


def _listed(path: Path, values: dict[Path, tuple[str, ...]]) -> list[Path]:
    """The photos whose last value a list names, sorted; a line is a value, or starts with one before white space, or is a
    comment after #."""
    if not path.is_file():
        raise DataError(f"There is no list of images {path}.")
    by_name: dict[str, list[Path]] = {}
    for image, parts in values.items():
        by_name.setdefault(parts[-1], []).append(image)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}). Save it as such.") from error
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

    def __init__(self, config: PairedConfig):
        self.config = config
        self.pairs = pair_files(config)
        self.wording = Wording(config, {name: [name] for name in self.names()})

    def names(self) -> list[str]:
        """Class names of the configuration."""
        return list(self.config.classes)

    @abstractmethod
    def decode(self, path: Path) -> Labels:
        """The labels of a label file."""

    def __len__(self) -> int:
        return len(self.pairs)

    def photo(self, index: int) -> Path:
        return self.pairs[index][0]

    def labels(self, index: int) -> Labels:
        return self.decode(self.pairs[index][1])

    def content(self, index: int) -> str:
        c = self.config
        read = [getattr(c, "classes", None), getattr(c, "ignore", None)]
        read += [c.variable] if getattr(c, "variable", None) else []
        return f"{c.type}/{file_digest(*self.pairs[index])}/{settings_digest(*read)}"


class IndexSource(PairedSource):
    """See IndexConfig."""

    config: IndexConfig

    def decode(self, path: Path) -> Labels:
        numbers = read_matlab(path, self.config.variable) if path.suffix == ".mat" else read_image(path, None)
        if numbers.ndim != 2:
            raise DataError(f"{path} has {numbers.shape[-1]} channels; expected one channel of class numbers (type: colour?).")
        masks = {name: np.isin(numbers, wanted) for name, wanted in self.config.classes.items()}
        ignore = np.isin(numbers, self.config.ignore) if self.config.ignore else None
        return Labels(masks, ignore, path, numbers.shape)


class ColourSource(PairedSource):
    """See ColourConfig."""

    config: ColourConfig

    def decode(self, path: Path) -> Labels:
        codes = _codes(read_image(path, "RGB"))
        masks = {name: codes == _codes(np.array(colour)) for name, colour in self.config.classes.items()}
        ignored = [_codes(np.array(colour)) for colour in self.config.ignore]
        return Labels(masks, np.isin(codes, ignored) if ignored else None, path, codes.shape)


def _codes(colours: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 -> [...] int32, one number per colour."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


class BinarySource(PairedSource):
    """See BinaryConfig."""

    config: BinaryConfig

    def names(self) -> list[str]:
        return [self.config.name]

    def decode(self, path: Path) -> Labels:
        mask = read_mask(path)
        return Labels({self.config.name: mask >= 128}, None, path, mask.shape)
