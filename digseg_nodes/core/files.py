"""Files that a reader sees whole or not at all, whatever happens to their writer."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_atomically(path: str | os.PathLike, *, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; at the end it takes the name `path`, replacing what had it.

    Missing folders are made. Until the end, and after any error, `path` is what it was and nothing is left beside it; only
    a killed process leaves its temporary file, `*.tmp`. The file's permissions are those the umask gives a new file. sync:
    wait until the content is on the disk, so that a power cut right after leaves it whole as well. Raises OSError as the
    file system does, and for a `path` that is no regular file: a folder, or a device, which would be replaced. The temporary
    name ends in `.tmp`, not in the target's suffix: Pillow has to be told the format.
    """
    path = Path(path)
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # no longer than a name may be
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode  # libraries may replace the file by one of 0600: safetensors does
        yield temporary
        temporary.chmod(permissions)
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def check_replaceable(path: Path) -> None:
    """Raises OSError where `path` is there and no regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, a file is to be written", str(path))
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "it is a device, a pipe or the like, a file is to be written", str(path))


def write_text(path: str | os.PathLike, text: str, *, sync: bool = False) -> None:
    """Write a text file in UTF-8 with the line ends of `text`, as written_atomically does."""
    with written_atomically(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
