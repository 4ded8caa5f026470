"""How encoding goes: a progress bar, and at the end one line about speed and what limits it."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
READING_LIMITS = 0.3
"""Share of the time spent waiting for reading from which on more readers help."""


class Tally:
    """Counts of one process's part in encoding `missing` images; says nothing where `shown` is False."""

    def __init__(self, shown: bool, missing: int):
        self.shown, self.missing = shown, missing
        self.images = self.encodes = 0
        self.waited = self.worked = 0.0

    def __enter__(self) -> "Tally":
        self.bar = tqdm(total=self.missing, desc="encoding images and masks", unit="image", disable=not self.shown)
        return self

    def __exit__(self, kind, *_) -> None:
        self.bar.close()
        if self.shown and self.images and kind is None:
            tqdm.write(self.line())

    def read(self, loader: Iterable[T]) -> Iterator[T]:
        """What a loader gives; notes how long it is waited for, and how long until the next is asked for."""
        items = iter(loader)
        while True:
            asked = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            got = time.perf_counter()
            yield item
            self.waited += got - asked
            self.worked += time.perf_counter() - got

    def encoded(self, images: int) -> None:
        """So many images are in the cache now."""
        self.images += images
        self.bar.update(images)

    def left(self, images: int) -> None:
        """So many are still missing, whoever encoded the others."""
        self.bar.update(self.missing - images - self.bar.n)

    def line(self) -> str:
        """Images and encodes a second, and what they waited for."""
        seconds = max(self.waited + self.worked, 1e-9)
        share = self.waited / seconds
        others = f" (other processes: {self.missing - self.images})" if self.missing > self.images else ""
        limit = "reading limits it: more `workers` help" if share > READING_LIMITS else "the encoder limits it"
        return (
            f"encoded {self.images} images in {seconds:.1f} s{others}: {self.images / seconds:.2f} images/s, "
            f"{self.encodes / seconds:.2f} encodes/s, {share:.0%} of the time waiting for reading; {limit}"
        )
