"""What a data source gives: images, and for each image the texts that may be asked and their masks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ABSENT_GROUPS = ("absent_hard", "absent_random")


class DataError(ValueError):
    """Images or masks that cannot be used; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class Query:
    """One thing that can be asked of an image.

    name: the class, for balanced sampling and per-class scores. prompts: phrases for it, the plainest first.
    mask: bool [H, W], or None where the thing is not in the image. group: "seen", "held_out", another name of the
    source's choosing, or "absent_hard" / "absent_random" where mask is None. soft: float32 [H, W] in [0, 1],
    what is taught instead of the mask where the labels are soft; the scores go by the mask.
    """

    name: str
    prompts: tuple[str, ...]
    mask: np.ndarray | None
    group: str = "seen"
    soft: np.ndarray | None = None


@dataclass(frozen=True)
class Sample:
    """One image, uint8 RGB [H, W, 3], its queries, and where the labels are unknown (bool [H, W] or None)."""

    image: np.ndarray
    queries: tuple[Query, ...]
    ignore: np.ndarray | None = None


@dataclass(frozen=True)
class Contents:
    """What the labels of one image hold: `pixels` in all, `areas` of the classes that are there, and `unknown`, the pixels of
    every number or colour that is no class, neither ignored nor declared as background; all in pixels. empty: outlines
    that enclose no pixel of the photo."""

    pixels: int
    areas: dict[str, int]
    unknown: dict[str, int]
    empty: int = 0


@dataclass(frozen=True)
class Finding:
    """Something about a source that a person should know, one sentence. left_over: labels or photos that nothing uses, or that
    may not mean what they are read as; otherwise it is said for information only."""

    text: str
    left_over: bool = True


class Source(ABC):
    """An indexed collection of samples; sample(i) is the same at every call."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Image number `index` with its queries."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """Content address of sample(index), without loading it: another string whenever the sample would differ."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Every class the source can ask for."""

    def plain_prompt(self, name: str) -> str:
        """The plainest words for a class."""
        return name

    def photo(self, index: int) -> Path | None:
        """The file of image number `index`; None where images are generated."""
        return None

    def contents(self, index: int) -> Contents | None:
        """What the labels of image number `index` hold, read without the photo; None where nothing is labelled by hand."""
        return None

    @property
    def unseen(self) -> frozenset[str]:
        """Classes without a single mask in the source, which it does not ask for."""
        return frozenset()

    def findings(self) -> list[Finding]:
        """What opening the source has shown about labels that are not used as they are there."""
        return []

    def photo_files(self) -> tuple[set[Path], set[Path]]:
        """All photos that are there, and those of them that have labels; empty where a photo needs no entry anywhere."""
        return set(), set()

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        """All mask files of the classes, and those of them that belong to an image; empty where masks are found by image."""
        return set(), set()
