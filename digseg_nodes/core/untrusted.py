"""Files by strangers: only regular files are opened, and nothing is parsed before it is known to be of bearable size."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

from .errors import CheckpointError

MOST_JSON = 16 * 2**20
"""Bytes of a JSON file or text; the largest config of a model that is known takes 0.2 MB, an index of shards 3 MB."""
MOST_HEADER = 16 * 2**20
"""Bytes of a safetensors header; SDXL's takes 0.4 MB, the largest models' 2 MB."""
MOST_TENSORS = 100_000
"""Tensors of one file; Stable Diffusion has 1,100, the largest models a few thousand."""
_SHORT = 200


def shown(path: str | os.PathLike) -> str:
    """A path as errors print it: one line of bearable length."""
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHORT else f"{text[:100]}...{text[-60:]}"


def kind_of(path: Path) -> str | None:
    """`file`, `folder`, or None where nothing is; CheckpointError for a pipe, a device, or a name that cannot be."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # too long a name, a NUL in it, no right to look
        raise CheckpointError(
            f"{shown(path)} cannot be opened ({_reason(error)}). Check its name and who may read it."
        ) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{shown(path)} is no regular file but a pipe, a device or the like. Put the checkpoint itself there, as a file."
        )
    return "file"


def check_header(path: Path) -> None:
    """Raises CheckpointError for a safetensors file whose header is too large to be one, before anything parses it.

    What is no safetensors file at all passes: its reader says so.
    """
    if kind_of(path) != "file":
        raise CheckpointError(f"There is no file {shown(path)}.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= min(MOST_HEADER, path.stat().st_size - 8) else b""
    except OSError as error:
        raise CheckpointError(f"{shown(path)} cannot be read ({_reason(error)}). Check who may read it.") from error
    if MOST_HEADER < length <= path.stat().st_size - 8:
        raise CheckpointError(
            f"{path.name} has a header of {length:,} bytes; up to {MOST_HEADER:,} are read. It is damaged or no checkpoint."
        )
    tensors = max(header.count(b"data_offsets"), header.count(b"{") - 1)  # names may be written as escapes, brackets may not
    if tensors > MOST_TENSORS:
        raise CheckpointError(
            f"{path.name} lists {tensors:,} tensors; up to {MOST_TENSORS:,} are read. It is damaged or no checkpoint."
        )


def read_json(file: Path) -> dict:
    """A JSON object from disk; CheckpointError when it is none."""
    if kind_of(file) != "file":
        raise CheckpointError(f"There is no file {shown(file)}. Download the folder again.")
    try:
        size = file.stat().st_size
        if size > MOST_JSON:
            raise CheckpointError(f"{shown(file)} has {size:,} bytes; up to {MOST_JSON:,} are read. Download the folder again.")
        found = parse_json(file.read_text("utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(file)} cannot be read ({_reason(error)}). Download the folder again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{shown(file)} holds a {type(found).__name__}, a JSON object is expected. Download the folder again."
        )
    return found


def parse_json(text: str) -> object:
    """The value of a JSON text; ValueError in words for too long or too deep a text, and for numbers that are none."""
    if len(text) > MOST_JSON:
        raise ValueError(f"it has {len(text):,} characters; up to {MOST_JSON:,} are read")
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)[:_SHORT]
