"""What the campaigns share: options, the report, and a small disk."""

import argparse
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


def options(about: str, minutes: float) -> argparse.Namespace:
    """--minutes, --seed and --report."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="end after about this long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="JSON file for the figures")
    return parser.parse_args()


def report(arguments: argparse.Namespace, figures: dict, good: bool) -> int:
    """Print and write the figures; returns the exit status."""
    figures = {**figures, "passed": good}
    print(json.dumps(figures, indent=1), flush=True)
    if arguments.report:
        arguments.report.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0 if good else 1


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """`folder` on a disk of `size` bytes, on a read-only one where size is 0; False where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}" if size else "ro,size=4096", "tmpfs", str(folder)]
    mounted = False
    try:
        with contextlib.suppress(OSError):
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        yield mounted
    finally:  # also when a signal came while mount ran: whatever is mounted there goes
        if os.path.ismount(folder):  # Path.is_mount is not there on Windows before 3.12
            subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S607
