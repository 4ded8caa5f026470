"""Folders that a command is going to write to, tried out before the work begins."""

import errno
from pathlib import Path

from digseg_nodes.core.files import check_replaceable, write_text
from train.settings.yaml_config import ConfigError

REASONS = {
    errno.EEXIST: "it is a file",
    errno.ENOTDIR: "a part of the path is a file",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "the folder is read-only, or belongs to somebody else",
    errno.EPERM: "the folder is read-only, or belongs to somebody else",
}


def make_place(file: Path, key: str) -> None:
    """Make the folder of a file that is going to be written, as `make_folder` does; OSError where something else than a file is
    in its place."""
    make_folder(file.parent, key)
    check_replaceable(file)


def make_folder(path: Path, key: str) -> None:
    """Make a folder and write a file in it once; ConfigError names the setting where that cannot be done. A full disk stays an
    OSError."""
    trial = path / ".write-test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(trial, "")
        trial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = REASONS.get(error.errno, error.strerror or str(error))
        raise ConfigError(f"{key}: {_short(path)} cannot be written to: {reason}. Name a folder of your own.") from error


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) < 200 else f"{text[:100]} ... ({len(text)} characters)"
