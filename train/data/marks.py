"""Masks of one thing as people save them: white, a colour, a grey level or opaque pixels say where it is."""

from pathlib import Path

import numpy as np
from PIL import Image

from train.data.base import DataError
from train.data.label_values import code_colour, colour_codes
from train.data.pixels import RANGES, deep_values, has_alpha, is_deep, is_lossy, opened, orientation, turned
from train.data.source_config import Marks

FAINT = 16
"""Brightness below which a pixel is black."""
WHITE = 240
"""Brightness from which a pixel is white."""
SAME, LINE = 48, 40
"""How far from a colour, and from the line between it and black, a pixel of it may lie in any channel."""
PLATEAU = 0.1
"""Share of the marked pixels from which an area of one level is a mark of its own and no edge."""
FEW = 0.02
"""Share of pixels that may lie outside of what a mask says."""
EDGE = 0.1
"""Share of the marked pixels in which two readings of one mask may differ."""


def read_mask(
    path: Path, ignore: int | None = None, how: Marks = "auto", page: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Marked and unknown pixels of a mask, bool [H,W] each, turned upright.

    ignore: the grey level of unknown pixels, which are not marked. Raises DataError for a mask that could mean two things,
    naming both, or that says 1 for white.
    """
    if how == "auto" and (grey := _black_and_white(path, page)) is not None:
        unknown = grey == ignore if ignore is not None else np.zeros(grey.shape, bool)
        return (grey > 0) & ~unknown, unknown
    picture = _picture(path, ignore, page)
    return _READ[how](picture) & ~picture.unknown, picture.unknown


def read_weights(path: Path, ignore: int | None = None, page: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How much every pixel of a soft mask belongs to the thing, float32 [H,W] in [0,1], its grey level where it is opaque; and
    the unknown pixels, bool [H,W], whose weight is 0."""
    picture = _picture(path, ignore, page)
    grey = _grey(picture) * (1 if picture.alpha is None else picture.alpha / np.float32(255))
    weights = np.where(picture.unknown, np.float32(0), (grey / 255).astype(np.float32))
    if 0 < weights.max(initial=0) < 0.5:
        raise picture.error(
            f"has no weight above {weights.max():.2f}, and what is below one half counts as not there",
            "Scale its levels up, or read the file with `marks: any`.",
        )
    return weights, picture.unknown


def _picture(path: Path, ignore: int | None, page: int | None) -> "_Picture":
    """A mask turned upright."""
    with opened(path, page) as image:
        colours, alpha = _layers(image, path, page)
        turn, smeared = orientation(image), is_lossy(image, path)
    colours, alpha = turned(colours, turn), None if alpha is None else turned(alpha, turn)
    if alpha is not None and alpha.min() == alpha.max():
        alpha = None
    unknown = (colours == ignore).all(2) if ignore is not None else np.zeros(colours.shape[:2], bool)
    return _Picture(path, colours, alpha, unknown, smeared)


def _black_and_white(path: Path, page: int | None) -> np.ndarray | None:
    """[H,W] uint8, upright, of a grey mask whose levels are 0 and 255 alone, where there is nothing to find out; None for
    others."""
    with opened(path, page) as image:
        if image.mode not in ("1", "L") or has_alpha(image):
            return None
        grey = turned(np.asarray(image.convert("L")), orientation(image))
    return None if np.bincount(grey.ravel(), minlength=256)[1:255].any() else grey


class _Picture:
    """A mask's colours [H,W,3], its alpha [H,W] or None (all uint8), its unknown pixels, and whether its format is lossy."""

    def __init__(self, path: Path, colours: np.ndarray, alpha: np.ndarray | None, unknown: np.ndarray, smeared: bool):
        self.path, self.colours, self.alpha, self.unknown, self.smeared = path, colours, alpha, unknown, smeared
        self.value = colours.max(2)

    def opaque(self) -> np.ndarray:
        """Bool [H,W]; everything where there is no alpha channel."""
        return np.ones(self.value.shape, bool) if self.alpha is None else self.alpha >= (int(self.alpha.max()) + 1) // 2

    def error(self, what: str, readings: str) -> DataError:
        return DataError(f"{self.path} {what}. {readings}")


def _layers(image: Image.Image, path: Path, page: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours [H,W,3] and alpha [H,W] (None without), uint8."""
    if is_deep(image):
        deep = _bytes(deep_values(image, path, page), path)
        if deep.ndim == 2:
            return np.repeat(deep[..., None], 3, axis=2), None
        return deep[..., :3], deep[..., 3] if deep.shape[2] == 4 else None
    if image.mode == "P":
        _refuse_blind_palette(image, path)
    layers = np.asarray(image.convert("RGBA" if has_alpha(image) else "RGB"))
    return layers[..., :3], layers[..., 3] if layers.shape[2] == 4 else None


def _refuse_blind_palette(image: Image.Image, path: Path) -> None:
    """DataError where numbers that differ are shown in one colour."""
    numbers, shown = np.unique(np.asarray(image)), np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    if len(numbers) > 1 and len(shown) == 1:
        raise DataError(
            f"{path} holds the numbers {', '.join(map(str, numbers[:8]))}, and its palette shows them in one colour: it is "
            "either empty, or a map of class numbers. Read numbers with `type: index`, or save it in black and white."
        )


def _bytes(values: np.ndarray, path: Path) -> np.ndarray:
    """Deep values as bytes: fractions of 1 and 16-bit levels are scaled, small values are levels of 0 to 255 already."""
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all() or low < 0:
        raise DataError(f"{path} holds values from {low:g} to {high:g}; expected 0 for black and 255, 65535 or 1 for white.")
    if values.dtype.kind == "f" and high <= 1:
        return (values * 255).round().astype(np.uint8)
    if high <= 255:
        return values.astype(np.uint8)
    two_levels = len(np.unique(values)) == 2
    white = high if two_levels else next((top for top in RANGES[-1:] if top / 2 <= high <= top), None)
    if white is None:
        raise DataError(
            f"{path} holds levels up to {high:g} in 16 bits: either no pixel is half white, or white is not 65535. Save it with "
            "8 bits, black and white."
        )
    return (values * 255 // white).astype(np.uint8)


def _bright(picture: _Picture) -> np.ndarray:
    return (_grey(picture) >= 127.5) & picture.opaque()


def _grey(picture: _Picture) -> np.ndarray:
    """Luminance, float32 [H,W] in [0,255]."""
    return picture.colours.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _auto(picture: _Picture) -> np.ndarray:
    if picture.alpha is not None:
        return _by_alpha(picture)
    return _by_colour(picture)


def _by_alpha(picture: _Picture) -> np.ndarray:
    """Marked pixels of a mask with transparent parts: opaque ones where their colours say nothing else."""
    opaque = picture.opaque()
    if opaque.all():
        return _by_colour(picture)
    seen = picture.colours[opaque & ~picture.unknown]
    if not len(seen) or (_one_colour(seen) and not _small_mark(picture, opaque)):
        return opaque
    try:
        coloured = _by_colour(_Picture(picture.path, picture.colours, None, picture.unknown | ~opaque, picture.smeared))
    except DataError:
        coloured = None
    if coloured is not None and _agree(coloured, opaque):
        return opaque
    hidden, drawn = picture.colours[~opaque], coloured is not None and _black_and_one_colour(seen)
    if not drawn and _one_colour(hidden):
        return opaque  # a thing cut out: nothing is left of the photo around it
    if drawn and hidden.max() < FAINT:
        return coloured
    raise picture.error(
        f"has transparent parts and colours that say something else ({1 - opaque.mean():.0%} is transparent): the thing may be "
        "what is opaque (a photo cut out), what is transparent (ComfyUI's mask editor), or what is bright",
        "Say which with `marks: alpha`, `marks: transparent` or `marks: bright` in the data YAML.",
    )


def _small_mark(picture: _Picture, opaque: np.ndarray) -> bool:
    """Whether what is opaque is black but for areas of one level, so few pixels that they hardly count."""
    lit = opaque & ~picture.unknown & (picture.value >= FAINT)
    return 0 < lit.sum() <= FEW * opaque.sum() and _plateau(picture, lit)


def _one_colour(colours: np.ndarray) -> bool:
    """Whether nearly all of [N,3] is one colour."""
    middle = np.median(colours, axis=0)
    return (np.abs(colours - middle).max(1) <= SAME).mean() >= 1 - FEW


def _black_and_one_colour(colours: np.ndarray) -> bool:
    """Whether nearly all of [N,3] is black or one colour, as in a mask and unlike in a photo."""
    lit = colours.max(1) >= FAINT
    near = np.abs(colours - _commonest(colours[lit])).max(1) <= SAME if lit.any() else lit
    return (near | ~lit).mean() >= 1 - EDGE


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two readings differ at the edge at most."""
    return (one != other).sum() <= EDGE * (one | other).sum()


def _by_colour(picture: _Picture) -> np.ndarray:
    """Marked pixels of an opaque mask: one colour on black, whatever its brightness."""
    value, known = picture.value, ~picture.unknown
    top = int(value[known].max(initial=0))
    if top == 0:
        return np.zeros(value.shape, bool)
    if top < FAINT:
        raise picture.error(
            f"has no grey level above {top}, so nothing in it counts as selected; expected 0 and 255",
            "Scale its values up, or read the files as class numbers (`type: index`).",
        )
    lit = known & (value >= FAINT)
    if set(np.unique(picture.colours).tolist()) <= {0, 255} and (picture.colours == value[..., None]).all():
        return lit  # black and white: nothing to find out
    colour = _commonest(picture.colours[lit])
    along = value / colour.max()  # 0 on black, 1 where the mark has its full colour
    off_line = np.abs(picture.colours - along[..., None] * colour).max(2) > LINE
    foreign = lit & off_line & (np.abs(picture.colours - colour.astype(np.int16)).max(2) > SAME)
    if foreign.sum() > FEW * lit.sum() and _plateau(picture, foreign):
        raise _two_marks(picture, colour, foreign, lit)
    return _from_level(picture, lit, top)


def _commonest(colours: np.ndarray) -> np.ndarray:
    """The commonest of [N,3] colours, [3]."""
    found, counts = np.unique(colour_codes(colours), return_counts=True)
    return np.array(code_colour(int(found[counts.argmax()])), np.float32)


def _plateau(picture: _Picture, where: np.ndarray) -> bool:
    """Whether a set of pixels has areas of one level and is not edges alone."""
    return bool((where & _flat(picture)).sum() >= max(4, FEW * where.sum()))


def _flat(picture: _Picture) -> np.ndarray:
    """Bool [H,W]: the level is that of the eight neighbours (within a little, where the format smears)."""
    value = np.pad(picture.value.astype(np.int16), 1, mode="edge")
    near, (height, width) = 8 if picture.smeared else 0, picture.value.shape
    flat = np.ones((height, width), bool)
    for y in range(3):
        for x in range(3):
            flat &= np.abs(value[y : y + height, x : x + width] - picture.value) <= near
    return flat


def _two_marks(picture: _Picture, colour: np.ndarray, foreign: np.ndarray, lit: np.ndarray) -> DataError:
    other = _commonest(picture.colours[foreign])
    shares = [
        f"{name(one)} ({count / lit.size:.1%})" for one, count in ((colour, (lit & ~foreign).sum()), (other, foreign.sum()))
    ]
    return picture.error(
        f"is marked in several colours, e.g. {shares[0]} and {shares[1]}: they may be classes, several things of one class, or a "
        "background that is not black",
        "Classes: `type: colour`, or `type: index` for a palette PNG. One class in many colours: `marks: any`. Otherwise save it "
        "white on black.",
    )


def name(colour: np.ndarray) -> str:
    """A colour or grey level in words."""
    red, green, blue = (int(one) for one in colour)
    return f"grey {red}" if red == green == blue else f"({red}, {green}, {blue})"


def _from_level(picture: _Picture, lit: np.ndarray, top: int) -> np.ndarray:
    """Marked pixels of one colour: at least half of it. DataError for several levels, and for none that is black."""
    known, flat = ~picture.unknown, _flat(picture)
    levels, counts = np.unique(picture.value[flat & lit], return_counts=True)
    steps = [int(one) for one, count in zip(levels, counts, strict=True) if count >= max(9, PLATEAU * lit.sum())]
    steps = [one for number, one in enumerate(steps) if number == 0 or one - steps[number - 1] > FAINT]
    if len(steps) > 1:
        raise picture.error(
            f"has areas of several levels ({', '.join(map(str, steps[:6]))} of 255): the darker ones may be unknown pixels, "
            "other things or classes, or weights",
            "Say `ignore:` with the level of unknown pixels, `type: index` for class numbers, `marks: any` or `marks: bright`.",
        )
    if steps and lit[known].all() and (top < WHITE or picture.value[known].min() < WHITE):
        raise picture.error(
            f"has no black: it is {steps[-1]} of 255 all over or nearly so, which may be all or nothing",
            "Save it white on black, or say `marks: any` (all) or `marks: bright`.",
        )
    if steps or top >= 128:
        limit = steps[-1] / 2 if steps else 127.5
        return lit & (picture.value >= limit)
    raise picture.error(
        f"has soft levels and none above {top} of 255: either nothing is selected, or it is too dark",
        "Scale its values up so that 255 is certain, or say `marks: bright` (from 128 on) or `marks: any`.",
    )


_READ = {
    "auto": _auto,
    "bright": _bright,
    "dark": lambda picture: ~_bright(picture) & picture.opaque(),
    "any": lambda picture: (picture.value >= FAINT) & picture.opaque(),
    "alpha": _Picture.opaque,
    "soft": _bright,
    "transparent": lambda picture: ~picture.opaque(),
}
