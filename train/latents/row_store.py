"""Append-only stores of encoded images, masks and texts on disk, addressed by content, every row with a checksum."""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from train.data.base import DataError

DIGEST_BYTES, SUM_BYTES = 16, 4
NO_KEY = bytes(DIGEST_BYTES)
"""In place of the key of a row that was found damaged."""
SPAN = 2**40
"""Row numbers of one part of a store."""


def digest(key: str | bytes) -> bytes:
    """128 bits of the SHA-256 of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()[:DIGEST_BYTES]


def checksum(row: bytes | memoryview) -> int:
    """CRC-32 of a row's bytes."""
    return zlib.crc32(row)


@contextmanager
def first_free(path: Callable[[int], Path]) -> Iterator[int]:
    """Context that holds the first lock file path(0), path(1), … that nobody else holds; gives its number."""
    for number in count():
        lock = FileLock(path(number))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield number
        finally:
            lock.release()
        return


def part_name(name: str, number: int) -> str:
    """File name without suffix of part `number` of a store or a list."""
    return f"{name}-{number}" if number else name


def part_numbers(folder: Path, name: str, suffix: str) -> set[int]:
    """Numbers of the parts that are there; one may be missing between others, when its first writer was killed."""
    later = (path.stem.removeprefix(f"{name}-") for path in folder.glob(f"{name}-*{suffix}"))
    first = {0} if (folder / f"{name}{suffix}").is_file() else set()
    return first | {int(number) for number in later if number.isdecimal()}


class Part:
    """One file of rows, written by one process at a time: `.rows`, their checksums in `.sums`, the digests of their keys in
    `.keys`. A row counts once its digest is written, after it and its checksum."""

    def __init__(self, folder: Path, name: str, number: int, row_bytes: int):
        self.rows_file, self.sums_file, self.keys_file = (
            folder / f"{part_name(name, number)}.{suffix}" for suffix in ("rows", "sums", "keys")
        )
        self.number, self.row_bytes = number, row_bytes
        self.known, self.short = 0, False

    def __len__(self) -> int:
        """Whole rows on disk."""
        return min(self.named(), _size(self.sums_file) // SUM_BYTES, _size(self.rows_file) // self.row_bytes)

    def named(self) -> int:
        """Rows with a digest."""
        return _size(self.keys_file) // DIGEST_BYTES

    def news(self) -> Iterator[tuple[int, bytes]]:
        """(row number, digest) of the whole rows that came since the last call."""
        whole = len(self)
        if self.named() > whole and not self.short:
            self.short = True
            tqdm.write(f"{self.rows_file} was cut short: {self.named() - whole} rows are missing and are encoded again.")
        tail = _read(self.keys_file, self.known * DIGEST_BYTES, (whole - self.known) * DIGEST_BYTES)
        for start in range(0, len(tail), DIGEST_BYTES):
            yield self.number * SPAN + self.known, tail[start : start + DIGEST_BYTES]
            self.known += 1

    def append(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> None:
        """Add rows behind the whole ones, dropping what a killed writer left there; under the part's lock."""
        whole = len(self)
        self.sums_file.touch()  # before the keys: keys without sums are an earlier version's
        _write_at(self.keys_file, whole * DIGEST_BYTES, b"")  # before the rows: no digest may ever stand beside another's row
        _write_at(self.rows_file, whole * self.row_bytes, b"".join(rows))
        _write_at(self.sums_file, whole * SUM_BYTES, np.array([checksum(row) for row in rows], "<u4").tobytes())
        _write_at(self.keys_file, whole * DIGEST_BYTES, b"".join(keys))

    def sum_rows(self) -> None:
        """Give the rows of an earlier version, which had no checksums, theirs; under the part's lock."""
        if self.sums_file.is_file() or not self.keys_file.is_file():
            return
        whole = min(self.named(), _size(self.rows_file) // self.row_bytes)
        tqdm.write(f"{self.rows_file} is of an earlier version: its {whole} rows get checksums.")
        with self.rows_file.open("rb") as file:
            sums = [checksum(file.read(self.row_bytes)) for _ in range(whole)]
        _write_at(self.sums_file, 0, np.array(sums, "<u4").tobytes())


class Rows:
    """Rows [N, *shape] of a store by their numbers, each compared with its checksum when it is read."""

    def __init__(self, parts: dict[int, Part], shape: tuple[int, ...], dtype: np.dtype, what: str):
        self.parts, self.shape, self.dtype, self.what = dict(parts), shape, dtype, what
        self.sums = {number: _read(part.sums_file, 0, len(part) * SUM_BYTES) for number, part in parts.items()}

    def read(self, numbers: Sequence[int] | np.ndarray) -> Tensor:
        """Rows [n, *shape]. Raises DataError for one that is not what was written."""
        content, files = bytearray(), {}
        with ExitStack() as opened:
            for part, at in (divmod(int(number), SPAN) for number in numbers):
                if part not in files:
                    files[part] = opened.enter_context(self.parts[part].rows_file.open("rb", buffering=0))
                content += self._row(files[part], part, at)
        return torch.from_numpy(np.frombuffer(content, self.dtype).reshape(len(numbers), *self.shape))

    def _row(self, file: BinaryIO, part: int, at: int) -> bytes:
        size = self.parts[part].row_bytes
        file.seek(at * size)
        row = file.read(size)
        written = int.from_bytes(self.sums[part][at * SUM_BYTES : (at + 1) * SUM_BYTES], "little")
        if len(row) < size or checksum(row) != written:
            self._refuse(self.parts[part], at, "is cut short" if len(row) < size else "does not have its checksum")
        return row

    def _refuse(self, part: Part, at: int, found: str) -> None:
        """Strike a damaged row from the list, so that it is encoded again, and raise DataError."""
        with part.keys_file.open("r+b") as file:
            file.seek(at * DIGEST_BYTES)
            file.write(NO_KEY)
        raise DataError(
            f"{part.rows_file}: row {at} ({self.what}) {found}: the disk or another program damaged it. It is struck from the "
            "list: start the same command again, which encodes it anew and goes on. If it happens again, check the disk."
        )


class RowStore:
    """Rows of one shape and type, addressed by the digests of their keys; `<name>.rows` and `<name>-1.rows`, … of as many
    processes as ever wrote at the same moment.

    A killed writer loses at most the batch it was at; the torn tail is cut off by the next one. Readers see whole rows. A key
    that two processes wrote counts where it comes first. what: the rows in the words of an error.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: str = "float16", what: str = "latents"):
        self.folder, self.name, self.shape, self.dtype, self.what = folder, name, shape, np.dtype(dtype), what
        self.row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        folder.mkdir(parents=True, exist_ok=True)
        self.parts: dict[int, Part] = {}
        self.index: dict[bytes, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Learn of rows that other processes have added."""
        for number in sorted(part_numbers(self.folder, self.name, ".keys") - self.parts.keys()):
            self.parts[number] = part = self._part(number)
            if not part.sums_file.is_file():
                with FileLock(self._lock_file(number)):
                    part.sum_rows()
        for part in self.parts.values():
            for number, key in part.news():
                if key != NO_KEY and number <= self.index.get(key, number):
                    self.index[key] = number

    def _part(self, number: int) -> Part:
        return Part(self.folder, self.name, number, self.row_bytes)

    def _lock_file(self, number: int) -> Path:
        return self.folder / f"{part_name(self.name, number)}.lock"

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: bytes) -> bool:
        return key in self.index

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows [N, *shape] under their digests; digests already present are skipped."""
        if rows.shape[1:] != self.shape:
            raise ValueError(f"{self.name} in {self.folder} holds rows of shape {self.shape}, got {rows.shape[1:]}.")
        with first_free(self._lock_file) as number:
            self.refresh()
            first = {key: position for position, key in reversed(list(enumerate(keys))) if key not in self.index}
            order = sorted(first.values())
            if order:
                content = rows.astype(self.dtype)
                self._part(number).append([keys[at] for at in order], [content[at].tobytes() for at in order])
                self.refresh()

    def rows(self) -> Rows:
        """All rows that are known now, to read by number."""
        return Rows(self.parts, self.shape, self.dtype, self.what)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, offset: int, size: int) -> bytes:
    if size <= 0:
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Write at an offset, dropping whatever a killed writer left behind it."""
    with path.open("r+b" if path.is_file() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(content)


def fill(store: RowStore, keys: Sequence[bytes], encode: Callable[[list[int]], Tensor], batch: int, progress=None) -> None:
    """Encode what is missing: `encode` gets positions in `keys` and returns their rows [n, *shape]."""
    first = {key: position for position, key in reversed(list(enumerate(keys))) if key not in store}
    missing = sorted(first.values())
    for start in range(0, len(missing), batch):
        chunk = missing[start : start + batch]
        store.append([keys[position] for position in chunk], encode(chunk).cpu().numpy())
        if progress is not None:
            progress.update(len(chunk))
