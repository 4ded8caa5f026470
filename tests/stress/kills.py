"""SIGKILL trainings of every mode at random moments; each ends bit for bit as one nobody disturbed (tests/train/kill_stress.py).

python tests/stress/kills.py [--minutes 20] [--seed 0] [--report F]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.stress.campaign import options, report

ROOT = Path(__file__).resolve().parents[2]
SECONDS_A_KILL, MOST_KILLS, STRAIGHT = 25, 50, 120
MODES = {
    "cached": (),
    "encoded at every step": ("cache_latents=false", "workers=1"),
    "end to end": ("objective=end_to_end",),
    "two processes": ("--processes", "2"),
}


def kill_one_mode(words: tuple[str, ...], kills: int, seed: int, file: Path) -> dict:
    """What tests/train/kill_stress.py found with some words on its command line; `identical` is empty where it failed."""
    line = [sys.executable, ROOT / "tests/train/kill_stress.py", "--kills", kills, "--seed", seed, "--report", file, *words]
    status = subprocess.run([str(word) for word in line], cwd=ROOT, check=False).returncode
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"kills": [], "identical": {}}
    return {"kills": len(found["kills"]), "identical": found["identical"], "good": status == 0}


def main() -> int:
    """As many kills as the time allows, shared out over the modes."""
    arguments = options(__doc__, minutes=20)
    each = 60 * arguments.minutes / len(MODES)
    kills = int(max(1, min(-(-MOST_KILLS // len(MODES)), (each - STRAIGHT) // SECONDS_A_KILL)))
    with tempfile.TemporaryDirectory() as name:
        found = {
            mode: kill_one_mode(words, kills, arguments.seed + number, Path(name) / f"{number}.json")
            for number, (mode, words) in enumerate(MODES.items())
        }
    total = sum(one["kills"] for one in found.values())
    return report(arguments, {"kills": total, "modes": found}, good=all(one["good"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
