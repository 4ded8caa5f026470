"""The separate things in a mask: its connected parts, measured, filtered and sorted, as masks, boxes and Impact Pack's SEGS."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .choices import check_choice
from .masks import EMPTY_MASK, IF_EMPTY, SKIP, WHOLE_PICTURE, Choice

MOST_OBJECTS = 5000
"""Each is a mask of the whole picture."""
SORTS = ("size", "score", "left", "top", "centre")
CONNECTIVITIES = ("8", "4")

SEG = namedtuple(
    "SEG",
    ("cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"),
    defaults=(None,),
)
"""One object as Impact Pack's nodes take it, in a list behind the picture's (height, width)."""


@dataclass(frozen=True)
class ObjectSettings:
    """What counts as an object, and which of them are kept.

    smallest, largest: area as a share of the picture, 0 to 1. fill_holes: holes up to this share are filled. close_gaps:
    gaps up to this many pixels are bridged. connectivity: "8" when corners touch too, "4" for sides alone. sort: one of
    SORTS, largest, surest, leftmost, topmost or nearest to the centre first. keep: the first of that order, 0 for all.
    number: only the n-th of that order, 0 for all. Sorting and choosing go on for every frame and prompt by itself.
    """

    smallest: float = 0.001
    largest: float = 1.0
    fill_holes: float = 0.0
    close_gaps: int = 0
    connectivity: str = "8"
    sort: str = "size"
    keep: int = 0
    number: int = 0

    def __post_init__(self):
        check_choice("connectivity", self.connectivity, CONNECTIVITIES)
        check_choice("sort", self.sort, SORTS)
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest:g} and largest {self.largest:g}: no object can be both.")


@dataclass(frozen=True)
class FoundObject:
    """One object. box: (left, top, right, bottom) in pixels, right and bottom excluded. mask: bool, the box's size.

    score: mean soft value inside, 0 to 1. pixels: its area.
    """

    frame: int
    label: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    score: float
    pixels: int

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's middle, in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def split_objects(choice: Choice, settings: ObjectSettings) -> list[FoundObject]:
    """Objects of the chosen masks: frame by frame, within a frame prompt by prompt, within a prompt as `settings.sort` says."""
    objects = []
    for index, label in zip(choice.chosen, choice.names(), strict=True):
        soft, hard = choice.found.soft[:, index], choice.mask(index, "hard")
        for frame in range(len(soft)):
            values = soft[frame].detach().float().cpu().numpy()
            objects += _split(values, hard[frame].cpu().numpy() > 0, label, frame, settings)
            _check_count(len(objects))
    return sorted(objects, key=lambda item: item.frame)  # stable: within a frame the prompts' order stays


def _check_count(count: int) -> None:
    """Raises ValueError for more objects than masks of them can be had."""
    if count > MOST_OBJECTS:
        raise ValueError(
            f"There are {count} objects or more; {MOST_OBJECTS} at most are given, since each is a mask of the whole picture. "
            "Raise smallest, or set keep."
        )


def _split(soft: np.ndarray, hard: np.ndarray, label: str, frame: int, settings: ObjectSettings) -> list[FoundObject]:
    """The objects of one mask [H,W], filtered and sorted."""
    hard = close_gaps(hard, settings.close_gaps)
    hard = fill_holes(hard, settings.fill_holes * hard.size, settings.connectivity)
    labels, count = ndimage.label(hard, _structure(settings.connectivity))
    if not count:
        return []
    inside = np.flatnonzero(labels)
    numbers = labels.ravel()[inside]
    pixels = np.bincount(numbers, minlength=count + 1)
    scores = np.bincount(numbers, soft.ravel()[inside], minlength=count + 1) / np.maximum(pixels, 1)
    boxes = ndimage.find_objects(labels)
    fits = (pixels >= max(1.0, settings.smallest * hard.size)) & (pixels <= settings.largest * hard.size)
    objects = [
        FoundObject(
            frame,
            label,
            (boxes[n - 1][1].start, boxes[n - 1][0].start, boxes[n - 1][1].stop, boxes[n - 1][0].stop),
            labels[boxes[n - 1]] == n,
            float(scores[n]),
            int(pixels[n]),
        )
        for n in range(1, count + 1)
        if fits[n]
    ]
    return _chosen(objects, settings, hard.shape)


def _chosen(objects: list[FoundObject], settings: ObjectSettings, size: tuple[int, int]) -> list[FoundObject]:
    """Objects of one mask in the order asked for, and those of them that are kept. size: (height, width)."""
    height, width = size
    order = {
        "size": lambda o: -o.pixels,
        "score": lambda o: -o.score,
        "left": lambda o: o.box[0],
        "top": lambda o: o.box[1],
        "centre": lambda o: (o.centre[0] - width / 2) ** 2 + (o.centre[1] - height / 2) ** 2,
    }
    objects = sorted(objects, key=order[settings.sort])
    if settings.number:
        return objects[settings.number - 1 : settings.number]
    return objects[: settings.keep or None]


def _structure(connectivity: str) -> np.ndarray:
    return ndimage.generate_binary_structure(2, 2 if connectivity == "8" else 1)


def close_gaps(hard: np.ndarray, width: int) -> np.ndarray:
    """A mask [H,W] with gaps of up to `width` pixels bridged (a square morphological closing); nothing selected is lost."""
    if width <= 0 or not hard.any():
        return hard
    size = width + 1
    mirrored = size % 2 - 1  # the origin of the window that the second filter needs to be the first one's mirror image
    work = np.pad(hard, size).astype(np.uint8)
    for axis in (0, 1):
        work = ndimage.maximum_filter1d(work, size, axis, mode="constant", cval=0)
    for axis in (0, 1):
        work = ndimage.minimum_filter1d(work, size, axis, mode="constant", cval=1, origin=mirrored)
    return work[size:-size, size:-size] > 0


def fill_holes(hard: np.ndarray, largest: float, connectivity: str = "8") -> np.ndarray:
    """A mask [H,W] with its holes of up to `largest` pixels filled; what touches the picture's edge is no hole."""
    if largest < 1 or not hard.any():
        return hard
    labels, count = ndimage.label(~hard, _structure("4" if connectivity == "8" else "8"))
    filled = np.bincount(labels.ravel(), minlength=count + 1) <= largest
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        filled[edge] = False
    filled[0] = False
    return hard | filled[labels]


def in_place_of_nothing(size: tuple[int, int], frames: int, if_empty: str) -> list[FoundObject] | None:
    """What to give when there is no object: one empty mask, every frame as a whole, or None to skip what hangs behind."""
    check_choice("if_empty", if_empty, IF_EMPTY)
    height, width = size
    if if_empty == SKIP:
        return None
    if if_empty == EMPTY_MASK:
        return [FoundObject(0, "", (0, 0, width, height), np.zeros(size, bool), 0.0, 0)]
    whole = (0, 0, width, height)
    return [FoundObject(frame, WHOLE_PICTURE, whole, np.ones(size, bool), 0.0, height * width) for frame in range(frames)]


def padded(box: Sequence[int], padding: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box grown by `padding` pixels on every side, inside a picture of `size` (height, width)."""
    left, top, right, bottom = box
    grow = round(padding)
    return max(0, left - grow), max(0, top - grow), min(size[1], right + grow), min(size[0], bottom + grow)


def object_masks(objects: Sequence[FoundObject], size: tuple[int, int]) -> Tensor:
    """Every object as a mask of the picture's `size` (height, width): [N,H,W] float32, exactly 0 or 1.

    The memory is taken as the operating system's untouched zeros: only what lies around an object really costs any.
    ValueError when even that cannot be had.
    """
    try:
        masks = np.zeros((len(objects), *size), np.float32)
    except MemoryError as error:
        need = len(objects) * size[0] * size[1] * 4 / 2**30
        raise ValueError(
            f"The masks of {len(objects)} objects of {size[1]} x {size[0]} pixels need {need:.1f} GiB. "
            "Raise smallest, or set keep."
        ) from error
    for mask, item in zip(masks, objects, strict=True):
        left, top, right, bottom = item.box
        mask[top:bottom, left:right] = item.mask
    return torch.from_numpy(masks)


def bounding_boxes(objects: Iterable[FoundObject], frames: int, size: tuple[int, int], padding: int = 0) -> list[list[dict]]:
    """ComfyUI's BOUNDING_BOX: per frame a list of {x, y, width, height, label, score}, in pixels."""
    boxes: list[list[dict]] = [[] for _ in range(frames)]
    for item in objects:
        left, top, right, bottom = padded(item.box, padding, size)
        place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        boxes[item.frame].append({**place, "label": item.label, "score": round(item.score, 4)})
    return boxes


def segs(objects: Iterable[FoundObject], size: tuple[int, int], padding: int = 0, crop_factor: float = 3.0) -> tuple:
    """Impact Pack's SEGS of a picture of `size` (height, width): ((height, width), [SEG, ...]).

    crop_factor: side of what a detailer sees, in sides of the box, 1 or more. A SEG names no frame: those of all frames
    follow one another, as in Impact Pack's own MASK to SEGS.
    """
    parts = []
    for item in objects:
        box = padded(item.box, padding, size)
        region = _around(box, crop_factor, size)
        mask = np.zeros((region[3] - region[1], region[2] - region[0]), np.float32)
        left, top, right, bottom = item.box
        mask[top - region[1] : bottom - region[1], left - region[0] : right - region[0]] = item.mask
        parts.append(SEG(None, mask, item.score, list(region), list(box), item.label))
    return size, parts


def _around(box: Sequence[int], factor: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A region `factor` times as wide and high as the box around it, moved into the picture rather than cut where it fits."""
    region = []
    for start, end, limit in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        side = min(limit, max(end - start, round((end - start) * factor)))
        first = min(max(0, round((start + end - side) / 2)), limit - side)
        region.append((first, first + side))
    (left, right), (top, bottom) = region
    return left, top, right, bottom


def table(objects: Sequence[FoundObject], size: tuple[int, int], padding: int = 0) -> str:
    """JSON: a list of {number, frame, label, score, share, x, y, width, height}, number from 1 on as in the mask batch."""
    rows = []
    for number, item in enumerate(objects, 1):
        left, top, right, bottom = padded(item.box, padding, size)
        share = item.pixels / (size[0] * size[1])
        rows.append(
            {"number": number, "frame": item.frame, "label": item.label, "score": round(item.score, 4), "share": round(share, 6)}
            | {"x": left, "y": top, "width": right - left, "height": bottom - top}
        )
    return json.dumps(rows, ensure_ascii=False)
