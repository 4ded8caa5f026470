"""What the commands share: expected errors end as one message, without a traceback."""

import sys
from collections.abc import Callable

from digseg_nodes.core.checkpoint import CheckpointError
from train.data.base import DataError
from train.resume import ResumeError
from train.yaml_config import ConfigError


def run(name: str, action: Callable[[], None]) -> None:
    """Call `action`; configuration, data, checkpoint and resume errors go to standard error with exit status 1."""
    try:
        action()
    except (ConfigError, DataError, CheckpointError, ResumeError) as error:
        sys.exit(f"{name}: {error}")
