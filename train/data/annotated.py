"""What the adapters of annotation tools share: photos with labelled regions, drawn into one mask per class."""

from abc import abstractmethod
from base64 import b64decode
from binascii import Error as Base64Error
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from math import cos, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import field_validator

from train.data.base import DataError, Finding
from train.data.by_others import short
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest
from train.data.names import images_below
from train.data.outlines import OutlineError
from train.data.pixels import has_alpha
from train.data.source_config import LabelledConfig, Phrases

ODD = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What coordinates raise that are no numbers, or no pairs of them."""
CORNERS = 180
"""Of a polygon that stands for a circle: half a pixel off at a radius of 3,000."""
LISTED = 8


class AnnotatedConfig(LabelledConfig):
    """Exports of annotation tools.

    classes: names, or names with the phrases that may stand for them; left out, every label there is. ignore: labels of
    regions that are unlabelled.
    """

    classes: Phrases | None = None
    ignore: tuple[str, ...] = ()

    @field_validator("classes")
    @classmethod
    def _trim_classes(cls, classes: Phrases | None) -> Phrases | None:
        return classes and {name.strip(): phrases for name, phrases in classes.items()}

    @field_validator("ignore")
    @classmethod
    def _trim_ignored(cls, ignore: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.strip() for name in ignore)


@dataclass(frozen=True)
class Region:
    """One annotated region. kind: what the tool calls its form. outline: that form as its file gives it. where: its place in the
    file, for messages."""

    label: str
    kind: str
    outline: Any
    where: str


@dataclass(frozen=True)
class Annotated:
    """One photo with its regions. file: where they come from. size: (height, width) of the photo as the file states it, or
    None."""

    photo: Path
    file: Path
    size: tuple[int, int] | None
    regions: tuple[Region, ...]


class AnnotatedSource(LabelledSource):
    """A source of photos with regions; sub-classes read the files of a tool and draw its outlines."""

    config: AnnotatedConfig
    root: Path
    """Folder of the photos."""

    def __init__(self, config: AnnotatedConfig):
        self.config, self.notes = config, []
        self.every = [_trimmed(one) for one in self.read()]
        self.found = Counter(region.label for one in self.every for region in one.regions)
        classes = config.classes or {name: [name] for name in self.names()}
        if not classes:
            raise DataError(f"{self.root} holds {len(self.every)} photos without a single label. Is this the right folder?")
        self.wording = Wording(config, classes)
        self.photos = chosen(self.every, lambda one: one.photo.relative_to(self.root).as_posix(), config)

    def names(self) -> list[str]:
        """The classes where the data YAML names none: every label that there is."""
        return sorted(set(self.found) - set(self.config.ignore))

    @abstractmethod
    def read(self) -> list[Annotated]:
        """Photos with their regions; sets `root`, adds to `notes` what a person should know."""

    @abstractmethod
    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        """Bool [H,W] of a region; OutlineError where it encloses nothing."""

    def __len__(self) -> int:
        return len(self.photos)

    def photo(self, index: int) -> Path:
        return self.photos[index].photo

    def content(self, index: int) -> str:
        one = self.photos[index]
        regions = [(region.label, region.kind, region.outline) for region in one.regions]
        settings = settings_digest(one.size, regions, sorted(self.config.ignore), self.class_names, self.drawing())
        return f"{self.config.type}/{file_digest(one.photo, *self.files(one))}/{settings}"

    def files(self, one: Annotated) -> Iterable[Path]:
        """Files that regions of a photo are drawn from, besides what `outline` holds."""
        return ()

    def drawing(self) -> tuple:
        """The settings that decide how regions are drawn."""
        return ()

    @cached_property
    def unseen(self) -> frozenset[str]:
        seen = {region.label for one in self.photos for region in one.regions}
        return frozenset(set(self.class_names) - seen - set(self.config.absent))

    def labels(self, index: int) -> Labels:
        one = self.photos[index]
        size = one.size or self.size_of(one.photo)
        masks, ignore, empty = {}, np.zeros(size, bool), 0
        for region in one.regions:
            if region.label not in self.config.ignore and region.label not in self.wording.phrases:
                continue
            mask = self._drawn(region, one, size)
            empty += not mask.any()
            if region.label in self.config.ignore:
                ignore |= mask
            else:
                masks[region.label] = masks.get(region.label, False) | mask
        return Labels(masks, ignore if ignore.any() else None, one.file, size, empty=empty)

    def _drawn(self, region: Region, one: Annotated, size: tuple[int, int]) -> np.ndarray:
        try:
            return self.draw(region, *size)
        except (OutlineError, *ODD) as error:
            what = f'{short(region.where)} ("{short(region.label)}", {short(region.kind)})'
            raise DataError(
                f"{one.file}: {what} is no mask: {short(error)}. Take it out or mend it, or list the classes to train on under "
                "`classes:`, without this one."
            ) from error

    def photo_files(self) -> tuple[set[Path], set[Path]]:
        used = {one.photo for one in self.every}
        return set(images_below(self.root)) | used, used

    def findings(self) -> list[Finding]:
        out = [*super().findings(), *self.notes]
        left = self.found.keys() - self.wording.phrases.keys() - set(self.config.ignore)
        if left:
            listed = [f'"{name}" ({self.found[name]})' for name in sorted(left)]
            text = f"{len(left)} labels are not among `classes` and not used: {some(listed)}"
            out.append(Finding(text, left_over=False))
        return [*out, *self.wording.nearly(left)]


def _trimmed(one: Annotated) -> Annotated:
    """The same with labels that have no white space around them."""
    return replace(one, regions=tuple(replace(region, label=region.label.strip()) for region in one.regions))


def some(names: Iterable[str]) -> str:
    """The first of many names, for messages."""
    listed = list(names)
    return ", ".join(listed[:LISTED]) + (f" and {len(listed) - LISTED} more" if len(listed) > LISTED else "")


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> list[float]:
    """An ellipse as polygon [x, y, x, y, ...]; degrees: turned clockwise around its middle."""
    turn = degrees * pi / 180
    points = []
    for corner in range(CORNERS):
        along, across = radius_x * cos(2 * pi * corner / CORNERS), radius_y * sin(2 * pi * corner / CORNERS)
        points += [x + along * cos(turn) - across * sin(turn), y + along * sin(turn) + across * cos(turn)]
    return points


def decoded(text: str) -> bytes:
    """The bytes of base64 text; OutlineError for other text."""
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError, TypeError, AttributeError) as error:
        raise OutlineError(f"its mask is no base64 text ({error})") from error


def embedded_mask(png: bytes) -> np.ndarray:
    """Bool [h,w] of a mask in the bytes of an image file: what is opaque where there is transparency, else what is not 0."""
    try:
        with Image.open(BytesIO(png)) as image:
            values = np.asarray(image.convert("RGBA"))[..., 3] if has_alpha(image) else np.asarray(image)
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them to
        raise OutlineError(f"its mask is no image ({error})") from error
    return (values if values.ndim == 2 else values.max(2)) > 0


def placed(part: np.ndarray, x: int, y: int, height: int, width: int) -> np.ndarray:
    """Bool [H,W] with a smaller mask [h,w] whose upper left pixel is at (x, y); what lies outside is cut off."""
    whole = np.zeros((height, width), bool)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + part.shape[1], width), min(y + part.shape[0], height)
    if right <= left or bottom <= top:
        raise OutlineError(f"its mask of {part.shape[1]}x{part.shape[0]} pixels at ({x}, {y}) lies outside of the picture")
    whole[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]
    return whole
