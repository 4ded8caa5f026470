"""Image files as arrays: opened whatever is wrong with them, turned upright, with the values they are stored with."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from train.data.base import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".jfif", ".gif", ".avif", ".jp2", ".tga", ".pgm", ".ppm", ".pnm"),
)
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
"""Larger pictures are not decoded (Pillow's own limit, 179 million pixels)."""
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
ONE_PICTURE = ("MPO", "PSD", "ICO", "ICNS")
"""Formats whose first frame is the picture; what follows are previews, layers or sizes."""
REDUCED, PHOTOMETRIC, WHITE_IS_ZERO, BITS = 254, 262, 0, 258
"""TIFF tags: kind of page (1: a smaller version of another), meaning of the values (0: white is zero), bits per sample."""
OTHER_BYTE = {"16L": "16B", "16N": "16B", "16B": "16L"}
"""Raw modes of 16-bit channels, and the one that takes the other byte: Pillow keeps the high one alone."""
RANGES = (255, 1023, 4095, 16383, 65535)
"""Largest values of 8, 10, 12, 14 and 16 bits."""
Levels = tuple[float, float]
"""The stored values that are black and white."""


@contextmanager
def opened(path: Path | BinaryIO, page: int | None = None) -> Iterator[Image.Image]:
    """An open image file at `page` (from 1), on disk or in memory; whatever is wrong with it, also while its pixels
    are read, is a DataError, and so is a file of several pages without `page`."""
    if isinstance(path, Path) and not path.is_file():
        raise DataError(f"{path} is {'no regular file' if path.exists() else 'not there'}; expected an image file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _turn_to(image, path, page)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path} has more than {MOST_PIXELS // 10**6} million pixels, the most that are decoded: it would fill the memory. "
            "Cut it into tiles, or make it smaller."
        ) from error
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them to
        more = (
            " Name three `bands:` if it has others than red, green and blue." if path.suffix.lower() in (".tif", ".tiff") else ""
        )
        raise DataError(f"{path} cannot be read as an image ({error}). Replace or remove the file.{more}") from error


def _turn_to(image: Image.Image, path: Path, page: int | None) -> None:
    """Go to a page; DataError when there are several and none is named, or not as many as that."""
    count = 1 if image.format in ONE_PICTURE else getattr(image, "n_frames", 1)
    if page is None and count > 1:
        full = _full_pages(image, count)
        if full > 1:
            raise DataError(
                f"{path} has {full} pages, and only one can be the picture. Say which one with `page:` in the data YAML (the "
                "first is 1), or save that page alone."
            )
    if page is not None and count > 1:
        if page > count:
            raise DataError(f"{path} has {count} pages, `page: {page}` asks for a later one.")
        image.seek(page - 1)


def _full_pages(image: Image.Image, count: int) -> int:
    """Pages that are no smaller versions of others."""
    if image.format != "TIFF":
        return count
    full = 0
    for number in range(count):
        image.seek(number)
        full += not image.tag_v2.get(REDUCED, 0) & 1
    image.seek(0)
    return full


def orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright as its EXIF data says; EXIF data that nobody can read turns nothing."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow's readers raise whatever damaged bytes lead them to
        return None


def turned(values: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    """[H,W,...] turned as Pillow would turn the image."""
    if turn is None:
        return values
    across = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    if across:
        values = np.swapaxes(values, 0, 1)  # the rest is a mirror image of this
    upside_down, left_right = {
        TURNS[2]: (False, True),
        TURNS[3]: (True, True),
        TURNS[4]: (True, False),
        TURNS[5]: (False, False),
        TURNS[6]: (False, True),
        TURNS[7]: (True, True),
        TURNS[8]: (True, False),
    }[turn]
    return values[:: -1 if upside_down else 1, :: -1 if left_right else 1]


def upright_size(path: Path, page: int | None = None) -> tuple[int, int]:
    """(height, width) of an image turned upright, from its header."""
    with opened(path, page) as image:
        across = orientation(image) in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
        return (image.width, image.height) if across else (image.height, image.width)


def is_deep(image: Image.Image) -> bool:
    """Whether an open image, whose pixels and EXIF data nobody has read yet, holds more than 8 bits a channel."""
    return image.mode.startswith("I") or image.mode == "F" or any(_raw_mode(tile)[-3:] in OTHER_BYTE for tile in image.tile)


def _raw_mode(tile) -> str:
    mode = tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]
    return mode if isinstance(mode, str) else ""


def deep_values(image: Image.Image, path: Path, page: int | None = None) -> np.ndarray:
    """The values of a deep image as stored, [H,W] or [H,W,C]: integers, or float32 of mode F; not turned."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        values = values if image.mode == "F" else values.astype(np.int64)
        return RANGES[-1] - values if _turned_over(image) and image.mode.startswith("I;16") else values
    with opened(path, page) as other:
        other.tile = [_other_byte(tile) for tile in other.tile]
        try:
            low = np.asarray(other).astype(np.int64)
        except ValueError:  # grey with alpha: Pillow has no reader of the low byte
            low = 0
    return np.asarray(image).astype(np.int64) * 256 + low


def _other_byte(tile):
    mode = _raw_mode(tile)
    mode = mode[:-3] + OTHER_BYTE.get(mode[-3:], mode[-3:])
    return type(tile)(*tile[:3], (mode, *tile[3][1:])) if isinstance(tile[3], tuple) else type(tile)(*tile[:3], mode)


def own_levels(values: np.ndarray, path: Path) -> Levels:
    """Black and white of a single deep photo: the smallest of 8, 10, 12, 14 and 16 bits that holds its values."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > RANGES[-1]:
        raise DataError(
            f"{path} holds values from {values.min():g} to {values.max():g}, whose black and white nobody can know. Save it "
            "with 8 or 16 bit, or name them in the data YAML: `range: [black, white]` (or `range: measured`)."
        )
    return 0, next(top for top in RANGES if values.max() <= top)


def read_photo(
    path: Path | BinaryIO,
    size: tuple[int, int] | None = None,
    levels: Callable[[np.ndarray, Path], Levels] = own_levels,
    page: int | None = None,
) -> np.ndarray:
    """A photo as [H,W,3] uint8, turned upright as its EXIF data says and ComfyUI shows it.

    size: (height, width) of its labels; where only the pixels as they are stored have that size, these are taken. levels: black
    and white of photos of more than 8 bits, by their stored values and file.
    """
    with opened(path, page) as image:
        if is_deep(image):
            deep = deep_values(image, path, page)
            pixels = eight_bit(deep, levels(deep, path))
        else:
            pixels = np.asarray(image.convert("RGB"))
        turn = orientation(image)
    upright = turned(pixels, turn)
    stored = size == pixels.shape[:2] != upright.shape[:2]
    return np.ascontiguousarray(pixels if stored else upright)


def eight_bit(values: np.ndarray, levels: Levels) -> np.ndarray:
    """Stored values [H,W] or [H,W,C] as [H,W,3] uint8: black is 0, white 255, what lies outside is cut off."""
    black, white = levels
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float64), nan=black, posinf=white, neginf=black)
    scaled = (np.clip(values, black, white) - black) * 255 // (white - black)
    scaled = scaled.astype(np.uint8)
    if scaled.ndim == 3 and scaled.shape[2] != 2:
        return scaled[..., :3]
    grey = scaled if scaled.ndim == 2 else scaled[..., 0]
    return np.repeat(grey[..., None], 3, axis=2)


def is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether the format of an open image changes values: JPEG, AVIF, lossy WebP."""
    if image.format == "WEBP":
        with path.open("rb") as file:
            return b"VP8 " in file.read(64)
    return image.format in ("JPEG", "MPO", "AVIF", "HEIF", "JPEG2000")


def read_numbers(path: Path, page: int | None = None) -> np.ndarray:
    """Class numbers as stored, [H,W] integers, turned upright; palettes are not looked at. DataError for lossy formats, several
    channels that differ, and fractions."""
    with opened(path, page) as image:
        if is_lossy(image, path):
            raise lossy(path, image.format)
        values = turned(_unscaled(image.getchannel("P") if image.mode == "PA" else image), orientation(image))
    if values.ndim == 3 and values.shape[2] == 3 and (values[..., :1] == values).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(f"{path} has {values.shape[-1]} channels; expected one channel of class numbers (type: colour?).")
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise DataError(f"{path} holds fractions; expected whole class numbers.")
        values = values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values


def _unscaled(image: Image.Image) -> np.ndarray:
    """The stored numbers of a grey image whose few bits Pillow stretches to 0..255 (PNG, TIFF, PGM), or turns over."""
    raw, values = (_raw_mode(image.tile[0]) if image.tile else ""), None
    if image.format == "PPM" and image.mode == "L" and image.tile and len(image.tile[0][3]) > 1:
        top = image.tile[0][3][1]
        values = np.asarray(image).astype(np.int64)
        return (values * top + 127) // 255
    turned_over = image.mode in ("L", "1") and _turned_over(image)
    bits = {"L;2": 2, "L;4": 4, "L;2I": 2, "L;4I": 4, "L;2R": 2, "L;4R": 4, "L;2IR": 2, "L;4IR": 4}.get(raw, 8)
    values = np.asarray(image)
    if bits < 8:
        values = values // (255 // (2**bits - 1))
    if turned_over:
        values = ~values if values.dtype == bool else (2**bits - 1) - values
    return values


def _turned_over(image: Image.Image) -> bool:
    """Whether the file says that zero is white."""
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def lossy(path: Path, format: str) -> DataError:
    """The error for labels in a format that smears them."""
    return DataError(
        f"{path} is a {format}, which smears class numbers and colours: many pixels hold values that no class has. Export the "
        "labels as PNG."
    )


def read_colours(path: Path, page: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Class colours [H,W,3] uint8 turned upright, and where they are opaque, bool [H,W], or None where nothing is transparent.
    DataError for lossy formats."""
    with opened(path, page) as image:
        if is_lossy(image, path):
            raise lossy(path, image.format)
        turn, layers = orientation(image), image.convert("RGBA" if has_alpha(image) else "RGB")
    values = turned(np.asarray(layers), turn)
    alpha = values[..., 3] if values.shape[2] == 4 else None
    varies = alpha is not None and alpha.min() != alpha.max()
    return values[..., :3], alpha >= (int(alpha.max()) + 1) // 2 if varies else None


def has_alpha(image: Image.Image) -> bool:
    """Whether an open image has transparent pixels or could have them."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
