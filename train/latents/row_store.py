"""Append-only stores of encoded images, masks and texts on disk, addressed by content and read through memory maps."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

DIGEST_BYTES = 16


def digest(key: str | bytes) -> bytes:
    """128 bits of the SHA-256 of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()[:DIGEST_BYTES]


class RowStore:
    """Rows of one shape and type in `<name>.rows`, with the digests of their keys in `<name>.keys`.

    A row counts once its digest is written after it, so a killed writer loses at most the batch it was at; the torn
    tail is cut off by the next writer. Several processes may share a store: writers lock, readers see whole rows.
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], dtype: str = "float16"):
        self.rows_file, self.keys_file = folder / f"{name}.rows", folder / f"{name}.keys"
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / f"{name}.lock")
        self.index: dict[bytes, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Learn of rows that other processes have added."""
        known = len(self.index)
        if not self.keys_file.is_file():
            return
        with self.keys_file.open("rb") as file:
            file.seek(known * DIGEST_BYTES)
            tail = file.read()
        for position in range(min(len(tail) // DIGEST_BYTES, self._whole_rows() - known)):
            self.index.setdefault(tail[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES], known + position)

    def _whole_rows(self) -> int:
        return self.rows_file.stat().st_size // self.row_bytes if self.rows_file.is_file() else 0

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: bytes) -> bool:
        return key in self.index

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows [N, *shape] under their digests; digests already present are skipped."""
        if rows.shape[1:] != self.shape:
            raise ValueError(f"{self.rows_file} holds rows of shape {self.shape}, got {rows.shape[1:]}.")
        with self.lock:
            self.refresh()
            first = {key: position for position, key in reversed(list(enumerate(keys))) if key not in self.index}
            order = sorted(first.values())
            count = len(self.index)
            _write_at(self.rows_file, count * self.row_bytes, rows[order].astype(self.dtype).tobytes())
            _write_at(self.keys_file, count * DIGEST_BYTES, b"".join(keys[position] for position in order))
            self.index.update({keys[position]: count + number for number, position in enumerate(order)})

    def rows(self) -> Tensor:
        """All rows as one tensor over a read-only memory map, [N, *shape]."""
        if not self.index:
            return torch.zeros((0, *self.shape), dtype=torch.from_numpy(np.zeros(1, self.dtype)).dtype)
        mapped = np.memmap(self.rows_file, self.dtype, "c", shape=(len(self.index), *self.shape))
        return torch.from_numpy(mapped)


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
