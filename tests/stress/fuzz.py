"""Open thousands of mutated checkpoint files and folders: each opens, or is refused in words, soon.

python tests/stress/fuzz.py [--minutes 2] [--seed 0] [--report F]
"""

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from tests.bad_files import mutated, mutated_folder
from tests.stress.campaign import options, report

CASES = 10_000
SOON = 2.0


def open_all(path: Path) -> str:
    """What becomes of one file or folder: "opened" (its tensors read) or "refused"; other exceptions pass through."""
    try:
        checkpoint = open_checkpoint(path)
        if path.is_file():
            for component in checkpoint.components:
                checkpoint.state_dict(component)
    except CheckpointError:
        return "refused"
    return "opened"


def one_case(folder: Path, rng: random.Random) -> tuple[str, float]:
    """(what became of it, seconds) of one mutation."""
    path = folder / "model.safetensors"
    if rng.random() < 0.7:
        path.write_bytes(mutated(rng))
    else:
        path = mutated_folder(folder / "model", rng)
    started = time.monotonic()
    try:
        end = open_all(path)
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    shutil.rmtree(folder / "model", ignore_errors=True)
    return end, seconds


def main() -> int:
    """CASES cases or as many as the time allows; exit status 1 after any other exception or a slow one."""
    arguments = options(__doc__, minutes=2)
    rng, ends, slowest, until = random.Random(arguments.seed), Counter(), 0.0, time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as name:
        while sum(ends.values()) < CASES and time.monotonic() < until:
            end, seconds = one_case(Path(name), rng)
            ends[end] += 1
            slowest = max(slowest, seconds)
    others = {end: count for end, count in ends.items() if end not in ("opened", "refused")}
    figures = {"cases": sum(ends.values()), "opened": ends["opened"], "refused": ends["refused"], "other_errors": others}
    return report(arguments, {**figures, "slowest_seconds": round(slowest, 3)}, good=not others and slowest < SOON)


if __name__ == "__main__":
    sys.exit(main())
