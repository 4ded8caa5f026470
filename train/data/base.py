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
    source's choosing, or "absent_hard" / "absent_random" where mask is None.
    """

    name: str
    prompts: tuple[str, ...]
    mask: np.ndarray | None
    group: str = "seen"


@dataclass(frozen=True)
class Sample:
    """One image, uint8 RGB [H, W, 3], its queries, and where the labels are unknown (bool [H, W] or None)."""

    image: np.ndarray
    queries: tuple[Query, ...]
    ignore: np.ndarray | None = None


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

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        """All mask files of the classes, and those of them that belong to an image; empty where masks are found by image."""
        return set(), set()
