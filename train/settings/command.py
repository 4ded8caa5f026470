"""What the commands share: expected errors end as one message, without a traceback."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path

from safetensors import SafetensorError

from digseg_nodes.core.checkpoint import CheckpointError
from train.data.base import DataError
from train.learning.divergence import DivergedError
from train.learning.resume import ResumeError
from train.settings.yaml_config import ConfigError, expand, shortened

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(name: str, action: Callable[[], None], given: argparse.Namespace | None = None) -> None:
    """Call `action`; errors of configuration, data, checkpoint, resuming and divergence, and a full disk, go to standard
    error with exit status 1. given: the command line, whose paths and numbers are checked first."""
    printable()
    try:
        if given is not None:
            check_given(given)
        action()
        sys.stdout.flush()
        part_from_others()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        sys.exit(1)
    except (ConfigError, DataError, CheckpointError, ResumeError, DivergedError) as error:
        sys.exit(f"{name}: {error}")
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.filename is not None and not _disk_is_full(error):
            sys.exit(f"{name}: {shortened(error.filename)}: {error.strerror}. Check the path and who may read and write there.")
        if not _disk_is_full(error):
            raise
        sys.exit(
            f"{name}: a file could not be written: {error}. Free some disk space and start the same command again; "
            "what was finished before is intact."
        )


MOST_GIVEN = {"images": 10**9, "batch_size": 4096}
"""The largest value of numbers that commands take; the smallest is 1."""


def check_given(given: argparse.Namespace) -> None:
    """Replace ~ in the paths of a command line, in place; ConfigError for what can be no path, and for numbers out of range."""
    for name, value in vars(given).items():
        option = f"--{name.replace('_', '-')}"
        try:
            if isinstance(value, Path):
                setattr(given, name, expand(value))
            elif isinstance(value, list) and all(isinstance(one, Path) for one in value):
                setattr(given, name, [expand(one) for one in value])
        except ValueError as error:
            raise ConfigError(f"{option} is {shortened(value)}: {error}.") from error
        if isinstance(value, int) and name in MOST_GIVEN and not 1 <= value <= MOST_GIVEN[name]:
            raise ConfigError(f"{option} is {shortened(value)}; use 1 to {MOST_GIVEN[name]}.")


def printable() -> None:
    """Let standard output and error write any text: letters that the console's encoding lacks come as \\u escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def part_from_others() -> None:
    """Leave the processes that `accelerate launch` started beside this one, if any: left to Python's end, the threads that
    talk to them are torn down while they run, and now and then that ends a finished process with SIGABRT."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _nobody_reads() -> bool:
    """Whether whoever read standard output, `head` for one, has had enough of it; what is still written then goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more at its end
        return True
    return False


def _disk_is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in FULL or any(f"os error {number})" in str(error) for number in FULL)
