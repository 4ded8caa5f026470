"""Read thousands of mutated exports and configuration files: each is read, or refused in words, soon.

python tests/stress/fuzz_labels.py [--minutes 2] [--seed 0] [--report F]
"""

import contextlib
import io
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bad_labels import KINDS, mutate_export
from tests.stress.campaign import options, report
from tests.train.exports import write_export
from tests.train.test_fuzzed_settings import CONFIGS, gnawed
from train.check_data import check, describe
from train.data.base import DataError
from train.data.config import load_data
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError

CASES, SOON = 10_000, 10.0


def one_export(good: dict[str, Path], at: Path, rng: random.Random) -> None:
    """Read a mutated export as check_data.py does."""
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(good[rng.choice(KINDS)], at)
    mutate_export(at, rng)
    if problems := check(describe(at, None, True), None).problems:
        raise DataError(problems[0])


def one_configuration(at: Path, rng: random.Random) -> None:
    """Read a configuration of this repository that something has gnawed at."""
    original = rng.choice(sorted(CONFIGS.rglob("*.yaml")))
    at.write_bytes(gnawed(original.read_bytes(), rng))
    (load_data if original.parent.name == "data" else load_config)(at)


def main() -> int:
    """CASES cases or as many as the time allows; exit status 1 after any other exception or a slow one."""
    arguments = options(__doc__, minutes=2)
    rng, ends, slowest, until = random.Random(arguments.seed), Counter(), 0.0, time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = {kind: write_export(kind, folder / kind) for kind in KINDS}
        while sum(ends.values()) < CASES and time.monotonic() < until:
            started = time.monotonic()
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    if rng.random() < 0.5:
                        one_export(good, folder / "case", rng)
                    else:
                        one_configuration(folder / "case.yaml", rng)
                ends["read"] += 1
            except (DataError, ConfigError):
                ends["refused"] += 1
            except Exception as error:
                ends[f"{type(error).__name__}: {error}"] += 1
            slowest = max(slowest, time.monotonic() - started)
    others = {end: count for end, count in ends.items() if end not in ("read", "refused")}
    figures = {"cases": sum(ends.values()), "read": ends["read"], "refused": ends["refused"], "other_errors": others}
    return report(arguments, {**figures, "slowest_seconds": round(slowest, 3)}, good=not others and slowest < SOON)


if __name__ == "__main__":
    sys.exit(main())
