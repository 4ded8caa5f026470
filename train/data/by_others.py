"""Files that other tools wrote: regular files alone, as text or JSON, and whatever their content leads a reader to is a
DataError that names the file."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.data.base import DataError
from train.data.pixels import MOST_PIXELS
from train.settings.yaml_config import ConfigError

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape of half a letter; two of them make a whole one."""
_SHORT = 200


def short(value: object) -> str:
    """A value in one line of bearable length, for messages."""
    text = " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 20]}... ({len(text)} letters)"


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what the content of a file leads its reader to inside the block into a DataError."""
    try:
        yield
    except (DataError, ConfigError):
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"{short(file)} holds something that no such file has ({short(repr(error))}). Export it again, or mend it."
        ) from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; DataError for what is none."""
    if not path.is_file():
        raise DataError(f"There is no file {short(path)}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{short(path)} cannot be read ({error.strerror}). Check who may read it.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{short(path)} is not UTF-8 text ({error}). Save it as such.") from error


def read_json(path: Path):
    """The content of a JSON file; DataError for what is none, and for text with half a letter."""
    if not path.is_file():
        raise DataError(f"There is no JSON file {short(path)}: " + ("it is no regular file." if path.exists() else "not there."))
    try:
        text = path.read_bytes()
        values = json.loads(text)
        if SURROGATE.search(text):
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{short(path)} holds half a letter, as in \\ud83d. Write the whole letter.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{short(path)} is not JSON ({short(error)}). Export it again.") from error
    return values


def stated_size(height, width, file: Path) -> tuple[int, int] | None:
    """(height, width) of a photo as a file states it; None where it states none, DataError where that is no size of a photo."""
    if not height or not width:
        return None
    numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (height, width))
    bounded = numbers and all(1 <= side <= MOST_PIXELS and int(side) == side for side in (height, width))  # NaN is not
    if not bounded or height * width > MOST_PIXELS:
        raise DataError(
            f"{short(file)} says that its photo is {short(width)} x {short(height)} pixels; expected whole numbers above 0, "
            f"and up to {MOST_PIXELS // 10**6} million pixels. Export it again."
        )
    return int(height), int(width)


def is_file(path: Path) -> bool:
    """Whether there is a regular file; False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
