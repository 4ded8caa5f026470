"""Work on the images of a source that several processes, on one machine or on several with a shared folder, do together."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from train.latents.row_store import digest

PAUSE = 0.3
"""Seconds between two looks at whether others have done what they were at."""


class SharedWork:
    """Batches of images by position, each done by the one process that holds its lock; a process that ends, however it ends,
    lets go of what it held. Batches hold the same images whoever does them and whatever is done already.

    identities: of all images. done: whether an image is, as far as this process knows. refresh: learn what others have done.
    """

    def __init__(self, folder: Path, identities: list[str], size: int, done: Callable[[str], bool], refresh: Callable[[], None]):
        self.folder, self.identities, self.size = folder, identities, size
        self.done, self.refresh = done, refresh
        self.held: dict[int, FileLock] = {}

    def __enter__(self) -> "SharedWork":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_) -> None:
        for number in list(self.held):
            self.give_back(number)

    def batches(self) -> range:
        """Numbers of all batches."""
        return range(-(-len(self.identities) // self.size))

    def positions(self, number: int) -> range:
        """The images of a batch."""
        return range(number * self.size, min((number + 1) * self.size, len(self.identities)))

    def open(self) -> list[int]:
        """Batches that are not done."""
        return [number for number in self.batches() if not self._is_done(number)]

    def _is_done(self, number: int) -> bool:
        return all(self.done(self.identities[at]) for at in self.positions(number))

    def taken(self, numbers: Iterable[int]) -> Iterator[int]:
        """Those of the batches that nobody is at and nobody has done, each held from now on until it is given back."""
        for number in numbers:
            lock = FileLock(self._lock_file(number))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            self.held[number] = lock
            self.refresh()  # the one who held it before may have done it
            if self._is_done(number):
                self.give_back(number)
            else:
                yield number

    def give_back(self, number: int) -> None:
        """Let go of a batch, done or not."""
        self.held.pop(number).release()
        with suppress(OSError):  # another process may be looking at it; it looks at what is done, too
            self._lock_file(number).unlink()

    def _lock_file(self, number: int) -> Path:
        name = digest("\n".join(self.identities[at] for at in self.positions(number)))
        return self.folder / f"{name.hex()}.lock"

    def rounds(self) -> Iterator[Iterator[int]]:
        """Batches to do, as `taken` gives them, again and again until all are done by whomever."""
        while numbers := self.open():
            taken = self.taken(numbers)
            if (first := next(taken, None)) is None:  # others are at all that is left
                time.sleep(PAUSE)
            else:
                yield chain([first], taken)
            self.refresh()
