"""What the adapters of labelled images share: reading files, digests, and queries from class masks."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from train.data.bands import bands_size, read_bands
from train.data.base import Contents, DataError, Finding, Query, Sample, Source
from train.data.names import plain
from train.data.pixels import RANGES, Levels, deep_values, eight_bit, is_deep, opened, own_levels, read_photo, upright_size
from train.data.source_config import LabelledConfig

Item = TypeVar("Item")


def file_digest(*paths: Path) -> str:
    """SHA-256 over the contents of files; a missing file counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing")
    return digest.hexdigest()


def settings_digest(*settings) -> str:
    """Short digest of whatever decides how files are read."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def chosen(items: Sequence[Item], name: Callable[[Item], str], config: LabelledConfig) -> list[Item]:
    """The items of the config's `part`, in their order, and of these no more than `limit`.

    The digests of the names shuffle the items; the first tenth is for validation, the second for the test, one item each at the
    least: the same at every call, and a photo that joins moves one other at most. DataError for fewer than three items.
    """
    if config.part is None:
        return list(items[: config.limit])
    if len(items) < 3:
        raise DataError(f"There are {len(items)} photos; `part:` needs three, one each for training, validation and test.")
    order = sorted(range(len(items)), key=lambda index: hashlib.sha256(name(items[index]).encode()).digest())
    tenth = max(1, len(items) // 10)
    parts = {"validation": order[:tenth], "test": order[tenth : 2 * tenth], "train": order[2 * tenth :]}
    return [items[index] for index in sorted(parts[config.part])][: config.limit]


def wrong_size(label_file: Path, labels: tuple[int, int], photo_file: Path, photo: tuple[int, int]) -> DataError:
    """The error for labels of another size than their photo; sizes as (height, width)."""
    return DataError(
        f"{label_file} is {labels[1]}x{labels[0]} pixels but {photo_file} is {photo[1]}x{photo[0]}; masks must have the size of "
        "their image."
    )


def alike(words: str) -> str:
    """Words in the form in which case, spaces, underscores and Unicode form make no difference."""
    return " ".join(plain(words).replace("_", " ").split())


class Wording:
    """The phrases of every class, and the queries that a set of class masks makes."""

    def __init__(self, config: LabelledConfig, classes: dict[str, list[str]]):
        self.config = config
        if not classes or any(not str(name).strip() for name in classes):
            raise DataError(f"The classes are {list(classes)}; expected one name at least, and none that is empty.")
        self.phrases = {name: self._phrases(name, given) for name, given in classes.items()}
        for setting in ("held_out", "phrases", "absent"):
            unknown = sorted(set(getattr(config, setting)) - set(classes))
            if unknown:
                raise DataError(f"{setting} names {unknown}, which are not among the classes {sorted(classes)}.")

    def _phrases(self, name: str, given: list[str]) -> tuple[str, ...]:
        """The plain phrases first, then each in each template."""
        plain = [*given, *self.config.phrases.get(name, [])]
        framed = [template.replace("{}", phrase) for template in self.config.templates for phrase in plain]
        return tuple(dict.fromkeys([*plain, *framed]))

    def settings(self) -> tuple:
        """What the queries depend on besides the masks."""
        return (self.phrases, self.config.held_out, self.config.absent_per_image)

    def queries(self, masks: dict[str, np.ndarray], seed: int, unseen: frozenset[str] = frozenset()) -> Iterator[Query]:
        """Present classes in the order of the classes, then `absent_per_image` absent ones drawn with `seed`.

        unseen: classes that are not asked for as absent, because nothing says whether they are there.
        """
        held_out = set(self.config.held_out)
        present = [name for name in self.phrases if name in masks and masks[name].any()]
        for name in present:
            yield Query(name, self.phrases[name], masks[name], "held_out" if name in held_out else "seen")
        for name in self.absent(present, seed, unseen):
            yield Query(name, self.phrases[name], None, "absent_random")

    def absent(self, present: Iterable[str], seed: int, unseen: frozenset[str]) -> list[str]:
        """The classes that are asked for as absent where `present` are there."""
        missing = [name for name in self.phrases if name not in {*present, *self.config.held_out, *unseen}]
        rng = np.random.default_rng([seed, len(missing)])
        return [missing[position] for position in rng.permutation(len(missing))[: self.config.absent_per_image]]

    def nearly(self, labels: Iterable[str]) -> list[Finding]:
        """Labels that are no classes, and the same as one but for case, spaces or Unicode form."""
        classes = {alike(name): name for name in self.phrases}
        pairs = [f"{label!r} ({classes[alike(label)]!r})" for label in sorted(labels) if alike(label) in classes]
        text = "are no classes and nearly the name of one, which the photos that have them are taught not to show"
        return [Finding(f"{len(pairs)} labels {text}: {', '.join(pairs[:5])}")] if pairs else []

    def shared_phrases(self) -> dict[str, list[str]]:
        """Phrases that stand for several classes, with these; case, spaces and Unicode form make no other phrase."""
        classes: dict[str, dict[str, None]] = {}
        for name, phrases in self.phrases.items():
            for phrase in phrases:
                classes.setdefault(alike(phrase), {})[name] = None
        return {phrase: list(names) for phrase, names in classes.items() if len(names) > 1}


@dataclass(frozen=True)
class Labels:
    """The labels of one image. masks: bool [H,W] by class, of the classes that are looked for. ignore: unlabelled pixels, bool
    [H,W], or None. file: where they come from, for messages. shape: (height, width), None without any label file. unknown:
    pixels by number or colour that nothing takes. empty: outlines that enclose no pixel. soft: weights float32 [H,W] in [0,1] of
    the masks that have them."""

    masks: dict[str, np.ndarray]
    ignore: np.ndarray | None
    file: Path
    shape: tuple[int, int] | None
    unknown: Callable[[], dict[str, int]] = dict
    empty: int = 0
    soft: dict[str, np.ndarray] = field(default_factory=dict)


class LabelledSource(Source):
    """A source whose classes and phrases are those of its `wording`; sub-classes name photos and read labels."""

    config: LabelledConfig
    wording: Wording

    @abstractmethod
    def photo(self, index: int) -> Path:
        """The file of image number `index`."""

    @abstractmethod
    def labels(self, index: int) -> Labels:
        """The labels of image number `index`, read without its photo."""

    @abstractmethod
    def content(self, index: int) -> str:
        """Content address of the photo and the labels of image number `index`, and of how they are read."""

    def identity(self, index: int) -> str:
        read = (self.config.range, self._measured if self.config.range == "measured" else None, self.config.page)
        read += (self.config.bands,) if self.config.bands else ()
        return f"{self.address(index)}/{settings_digest(self.wording.settings(), sorted(self.unseen), read, index)}"

    @cached_property
    def _addresses(self) -> dict[int, str]:
        return {}

    def address(self, index: int) -> str:
        """`content` of an image, worked out once."""
        if index not in self._addresses:
            self._addresses[index] = self.content(index)
        return self._addresses[index]

    def levels(self, values: np.ndarray, path: Path) -> Levels:
        """Black and white of a photo of more than 8 bits: declared, measured over all photos, or those of 16 bits where some
        photo shows that there are as many. DataError where nothing does."""
        if isinstance(self.config.range, tuple):
            return self.config.range
        if self.config.range == "measured":
            return self._measured
        own = own_levels(values, path)
        if max(own[1], self._deepest) < RANGES[-1]:
            raise DataError(
                f"{path} has 16 bits, but no value above {int(values.max())}, and no photo of the set goes beyond 14 bits: the "
                f"scale may end at {own[1]:g}, or the photos are very dark. Say `range: [0, {own[1]:g}]`, "
                f"`range: [0, {RANGES[-1]}]` or `range: measured` in the data YAML."
            )
        return 0, RANGES[-1]

    def _deep_photos(self) -> Iterator[np.ndarray]:
        """The stored values of every photo of more than 8 bits."""
        for index in range(len(self)):
            if self.config.bands:
                if (values := read_bands(self.photo(index), self.config.bands)).dtype != np.uint8:
                    yield values
                continue
            with opened(self.photo(index), self.config.page) as image:
                if is_deep(image):
                    yield deep_values(image, self.photo(index), self.config.page)

    @cached_property
    def _measured(self) -> Levels | None:
        """The lowest and highest value of all photos of more than 8 bits; None where there is none."""
        ends = [(float(np.nanmin(values)), float(np.nanmax(values))) for values in self._deep_photos()]
        if not ends:
            return None
        black = min(low for low, _ in ends)
        return black, max(black + 1e-6, *(high for _, high in ends))

    @cached_property
    def _deepest(self) -> int:
        """The most that 8, 10, 12, 14 or 16 bits hold, as many as some photo needs."""
        for values in self._deep_photos():
            if values.max() > RANGES[-2]:
                return RANGES[-1]
        return 0

    def sample(self, index: int) -> Sample:
        labels, photo = self.labels(index), self.photo(index)
        image = self.pixels(photo, labels.shape)
        if labels.shape is not None and labels.shape != image.shape[:2]:
            raise wrong_size(labels.file, labels.shape, photo, image.shape[:2])
        asked = self.wording.queries(labels.masks, index, self.unseen)
        queries = tuple(replace(query, soft=labels.soft.get(query.name)) if query.mask is not None else query for query in asked)
        return Sample(image, queries, labels.ignore)

    def pixels(self, photo: Path, size: tuple[int, int] | None) -> np.ndarray:
        """A photo as [H,W,3] uint8, see read_photo; of the bands that `bands:` names."""
        if self.config.bands is None:
            return read_photo(photo, size, self.levels, self.config.page)
        values = read_bands(photo, self.config.bands)
        return values if values.dtype == np.uint8 else eight_bit(values, self.levels(values, photo))

    def size_of(self, photo: Path) -> tuple[int, int]:
        """(height, width) of a photo as `pixels` gives it, from its header."""
        return bands_size(photo) if self.config.bands else upright_size(photo, self.config.page)

    def contents(self, index: int) -> Contents:
        labels = self.labels(index)
        areas = {name: int(mask.sum()) for name, mask in labels.masks.items()}
        height, width = labels.shape or (0, 0)
        return Contents(height * width, {name: area for name, area in areas.items() if area}, labels.unknown(), labels.empty)

    def findings(self) -> list[Finding]:
        shared = self.wording.shared_phrases()
        texts = [f'"{phrase}" stands for {" and ".join(names[:3])}' for phrase, names in shared.items()]
        return [Finding(f"{len(shared)} phrases ask for several classes, e.g. {texts[0]}")] if shared else []

    @cached_property
    def unseen(self) -> frozenset[str]:
        """Classes without a single pixel in the source; the labels are read until every class has been seen. Those that
        `absent:` names are never among them."""
        left = set(self.class_names) - set(self.config.absent)
        for index in range(len(self)):
            if not left:
                break
            with suppress(DataError):  # named where the image itself is read
                left -= set(self.contents(index).areas)
        return frozenset(left)

    @property
    def class_names(self) -> list[str]:
        return list(self.wording.phrases)

    def plain_prompt(self, name: str) -> str:
        return self.wording.phrases[name][0]
