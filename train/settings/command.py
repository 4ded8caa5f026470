"""What the commands share: expected errors end as one message, without a traceback."""

import errno
import sys
from collections.abc import Callable
from io import TextIOWrapper

from safetensors import SafetensorError

from digseg_nodes.core.checkpoint import CheckpointError
from train.data.base import DataError
from train.learning.divergence import DivergedError
from train.learning.resume import ResumeError
from train.settings.yaml_config import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(name: str, action: Callable[[], None]) -> None:
    """Call `action`; errors of configuration, data, checkpoint, resuming and divergence, and a full disk, go to standard
    error with exit status 1."""
    printable()
    try:
        action()
    except (ConfigError, DataError, CheckpointError, ResumeError, DivergedError) as error:
        sys.exit(f"{name}: {error}")
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.filename is not None and not _disk_is_full(error):
            sys.exit(f"{name}: {error.filename}: {error.strerror}. Check the path and who may read and write there.")
        if not _disk_is_full(error):
            raise
        sys.exit(
            f"{name}: a file could not be written: {error}. Free some disk space and start the same command again; "
            "what was finished before is intact."
        )


def printable() -> None:
    """Let standard output and error write any text: letters that the console's encoding lacks come as \\u escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _disk_is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in FULL or any(f"os error {number})" in str(error) for number in FULL)
