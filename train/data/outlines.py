"""Outlines as masks: polygons and run lengths of COCO and its relatives, checked before anything is drawn."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as pycoco

FAR = 100_000
"""How many pixels beyond the picture a corner may lie."""
LONGEST = 4_000_000
"""Pixels that the outlines of one region may be long together: drawing takes some 80 bytes for each."""
NUMBERS = 1e300
"""What is no number below it is NaN, infinite, or more than a float holds."""


class OutlineError(ValueError):
    """An outline that is no mask; the message says what is wrong with it."""


def outline_mask(segmentation, height: int, width: int) -> np.ndarray:
    """Bool [H,W] of a COCO `segmentation`: polygons, run lengths packed or not, or a list of run lengths.

    Raises OutlineError for whatever is neither, for run lengths that do not fill the picture and for corners that are no
    numbers. Parts of fewer than three points enclose nothing and are passed over beside others.
    """
    if isinstance(segmentation, dict):
        return run_length_mask(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise OutlineError(f"`segmentation` is {_short(segmentation)}; boxes alone hold no mask. Export with outlines")
    if all(isinstance(part, dict) for part in segmentation):
        return np.logical_or.reduce([run_length_mask(part, height, width) for part in segmentation])
    polygons = [_corners(part) for part in _parts(segmentation)]
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if not whole:
        raise OutlineError("no part has three points or more, so nothing is enclosed. Export with outlines")
    return polygon_mask(whole, height, width)


def polygon_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Bool [H,W] of the union of polygons, each [x, y, x, y, ...] in pixels with three corners or more."""
    for polygon in polygons:
        for position, value in enumerate(polygon):
            if not -NUMBERS < value < NUMBERS:
                raise OutlineError(f"a corner is {_short(value)}, which is no place")
            if not -FAR <= value <= (height if position % 2 else width) + FAR:
                raise OutlineError(f"a corner at {value:g} is far outside of the picture of {width}x{height} pixels")
    if (length := sum(map(_length, polygons))) > LONGEST:
        raise OutlineError(f"its outline is {length:,.0f} pixels long; up to {LONGEST:,} are drawn")
    # a polygon of four numbers first would be taken for a box
    return pycoco.decode(pycoco.merge(pycoco.frPyObjects([list(map(float, one)) for one in polygons], height, width))).astype(
        bool
    )


def _length(polygon: Sequence[float]) -> float:
    """How far it is around a polygon, in steps of a pixel along x or y."""
    corners = np.array(polygon, float).reshape(-1, 2)  # [2N] -> [N,2]
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def _parts(segmentation: list) -> list:
    """The polygons of a list: itself, where it is one polygon of numbers or of points."""
    if all(_is_number(value) for value in segmentation):
        return [segmentation]
    if len(segmentation) > 2 and all(_is_point(part) for part in segmentation):
        return [segmentation]
    return segmentation


def _corners(part) -> list[float]:
    """One polygon as [x, y, x, y, ...], given so or as points."""
    if isinstance(part, list) and part and all(_is_point(point) for point in part):
        part = [value for point in part for value in point]
    if not isinstance(part, list) or not all(_is_number(value) for value in part):
        raise OutlineError(f"a polygon is {_short(part)}; expected numbers x, y, x, y, ...")
    if len(part) % 2:
        raise OutlineError(f"a polygon has {len(part)} numbers; expected pairs x, y")
    return part


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value) -> bool:
    return -NUMBERS < value < NUMBERS and value == int(value)


def _is_point(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(one) for one in value)


def run_length_mask(runs: dict, height: int, width: int) -> np.ndarray:
    """Bool [H,W] of COCO run lengths, {"size": [H, W], "counts": list of numbers or packed text}; columns first."""
    size, counts = runs.get("size"), runs.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        swapped = " (turned over?)" if size in ([width, height], (width, height)) else ""
        raise OutlineError(f"its run lengths are of size {_short(size)}, the picture is [{height}, {width}]{swapped}")
    if isinstance(counts, str | bytes):
        counts = unpacked(counts)
    if not isinstance(counts, list) or not all(_is_number(one) and _is_whole(one) for one in counts):
        raise OutlineError(f"its run lengths are {_short(counts)}; expected whole numbers or packed text")
    if min(counts, default=0) < 0:
        raise OutlineError(f"a run has the length {min(counts):g}; expected 0 or more")
    if sum(counts) != height * width:
        raise OutlineError(
            f"its run lengths fill {sum(counts):g} of {height * width} pixels: the last ones are missing, or they are of another "
            "picture. Export it again"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, [int(one) for one in counts]).reshape(width, height).T  # columns first: [W*H] -> [W,H] -> [H,W]


def unpacked(text: str | bytes) -> list[int]:
    """The run lengths in COCO's packed text: five bits a letter, low ones first; from the fourth on as differences to the last
    but one."""
    letters = text.encode("latin-1", "replace") if isinstance(text, str) else text
    counts, value, shift = [], 0, 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise OutlineError(f"its packed run lengths hold {chr(letter)!r} where no such letter can be")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise OutlineError("its packed run lengths end in the middle of a number")
    return counts


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
