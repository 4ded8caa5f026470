"""What the adapters of labelled images share: reading files, digests, and queries from class masks."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from train.data.base import DataError, Query, Source
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


def check_size(mask: np.ndarray, mask_file: Path, image: np.ndarray, image_file: Path) -> None:
    """Raise DataError unless a label file has the size of its photo."""
    (h, w), (height, width) = mask.shape[:2], image.shape[:2]
    if (h, w) != (height, width):
        raise DataError(
            f"{mask_file} is {w}x{h} pixels but {image_file} is {width}x{height}; masks must have the size of their image."
        )


class Wording:
    """The phrases of every class, and the queries that a set of class masks makes."""

    def __init__(self, config: LabelledConfig, classes: dict[str, list[str]]):
        self.config = config
        self.phrases = {name: self._phrases(name, given) for name, given in classes.items()}
        for setting in ("held_out", "phrases"):
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

    def queries(self, masks: dict[str, np.ndarray], seed: int) -> Iterator[Query]:
        """Present classes in the order of the classes, then `absent_per_image` absent ones drawn with `seed`."""
        held_out = set(self.config.held_out)
        present = [name for name in self.phrases if name in masks and masks[name].any()]
        for name in present:
            yield Query(name, self.phrases[name], masks[name], "held_out" if name in held_out else "seen")
        missing = [name for name in self.phrases if name not in present and name not in held_out]
        rng = np.random.default_rng([seed, len(missing)])
        for position in rng.permutation(len(missing))[: self.config.absent_per_image]:
            yield Query(missing[position], self.phrases[missing[position]], None, "absent_random")


class LabelledSource(Source):
    """A source whose classes and phrases are those of its `wording`."""

    wording: Wording

    @property
    def class_names(self) -> list[str]:
        return list(self.wording.phrases)

    def plain_prompt(self, name: str) -> str:
        return self.wording.phrases[name][0]
