"""What the adapters of labelled images share: reading files, digests, and queries from class masks."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from train.data.base import Contents, DataError, Query, Sample, Source
from train.data.config import LabelledConfig

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of an EXIF orientation upright; 1 is upright already."""
FAINT = 16
"""Masks whose brightest pixel is below this were not meant as black and white."""


def read_image(path: Path, mode: str | None) -> np.ndarray:
    """An image file as an array, turned upright: [H,W,3] uint8 for mode "RGB", [H,W] for "L"; None keeps the stored values
    (indices)."""
    with _opened(path) as image:
        upright = _upright(image)
        return np.asarray(upright.convert(mode) if mode else upright)


def read_photo(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A photo as [H,W,3] uint8, turned upright as its EXIF data says and ComfyUI shows it.

    size: (height, width) of its labels; where only the pixels as they are stored have that size, these are taken.
    """
    with _opened(path) as image:
        upright = _upright(image)
        stored = size == (image.height, image.width) != (upright.height, upright.width)
        return np.asarray(_eight_bit(image if stored else upright, path).convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF data says; EXIF data that nobody can read turns nothing."""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's readers raise whatever damaged bytes lead them to
        return image
    return image if turn is None else image.transpose(turn)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open image file; whatever is wrong with it, also while its pixels are read, is a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}). Replace or remove the file.") from error


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """A photo of 16-bit grey levels scaled to 8 bit, where Pillow would clip at 255; others as they are."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise DataError(f"{path} holds floating-point grey levels, whose range nobody can know. Save it with 8 or 16 bit.")
    return image


def read_mask(path: Path, ignore: int | None = None) -> np.ndarray:
    """A black-and-white mask as [H,W] uint8; raises DataError for one that counts classes or says 1 for white.

    ignore: the grey level of unknown pixels, which says nothing about the others.
    """
    mask = read_image(path, "L")
    brightest = mask[mask != ignore].max(initial=0)
    if 0 < brightest < FAINT:
        raise DataError(
            f"{path} has no grey level above {brightest}, so nothing in it counts as selected (128 and more do); expected 0 "
            "and 255. Scale its values up, or read the files as class numbers (`type: index`)."
        )
    return mask


def read_matlab(path: Path, variable: str | None) -> np.ndarray:
    """One variable of a MATLAB file, [H,W] for a label map."""
    from scipy.io import loadmat  # needed by this layout only
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file ({error}). Replace or remove the file.") from error
    if variable not in content:
        names = [name for name in content if not name.startswith("__")]
        raise DataError(f"{path} has no variable {variable!r}, only {names}. Name the label map as `variable:`.")
    return content[variable]


def file_digest(*paths: Path) -> str:
    """SHA-256 over the contents of files; a missing file counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing")
    return digest.hexdigest()


def settings_digest(*settings) -> str:
    """Short digest of whatever decides how files are read."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def wrong_size(label_file: Path, labels: tuple[int, int], photo_file: Path, photo: tuple[int, int]) -> DataError:
    """The error for labels of another size than their photo; sizes as (height, width)."""
    return DataError(
        f"{label_file} is {labels[1]}x{labels[0]} pixels but {photo_file} is {photo[1]}x{photo[0]}; masks must have the size of "
        "their image."
    )


class Wording:
    """The phrases of every class, and the queries that a set of class masks makes."""

    def __init__(self, config: LabelledConfig, classes: dict[str, list[str]]):
        self.config = config
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
        missing = [name for name in self.phrases if name not in present and name not in held_out | unseen]
        rng = np.random.default_rng([seed, len(missing)])
        for position in rng.permutation(len(missing))[: self.config.absent_per_image]:
            yield Query(missing[position], self.phrases[missing[position]], None, "absent_random")


@dataclass(frozen=True)
class Labels:
    """The labels of one image. masks: bool [H,W] by class, of the classes that are looked for. ignore: unlabelled pixels, bool
    [H,W], or None. file: where they come from, for messages. shape: (height, width), None without any label file. unknown:
    pixels by number or colour that nothing takes."""

    masks: dict[str, np.ndarray]
    ignore: np.ndarray | None
    file: Path
    shape: tuple[int, int] | None
    unknown: Callable[[], dict[str, int]] = dict


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
        return f"{self.content(index)}/{settings_digest(self.wording.settings(), sorted(self.unseen), index)}"

    def sample(self, index: int) -> Sample:
        labels, photo = self.labels(index), self.photo(index)
        image = read_photo(photo, labels.shape)
        if labels.shape is not None and labels.shape != image.shape[:2]:
            raise wrong_size(labels.file, labels.shape, photo, image.shape[:2])
        queries = tuple(self.wording.queries(labels.masks, index, self.unseen))
        return Sample(image, queries, labels.ignore)

    def contents(self, index: int) -> Contents:
        labels = self.labels(index)
        areas = {name: int(mask.sum()) for name, mask in labels.masks.items()}
        height, width = labels.shape or (0, 0)
        return Contents(height * width, {name: area for name, area in areas.items() if area}, labels.unknown())

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
