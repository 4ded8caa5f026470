"""SIGKILL a training at random moments; the end is bit for bit that of a run nobody disturbed (tests/train/kill_stress.py).

python tests/stress/kills.py [--minutes 10] [--seed 0] [--report F]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json

from tests.stress.campaign import options, report

ROOT = Path(__file__).resolve().parents[2]
SECONDS_A_KILL, MOST_KILLS, STRAIGHT = 25, 50, 120


def main() -> int:
    """As many kills as the time allows."""
    arguments = options(__doc__, minutes=10)
    kills = int(max(1, min(MOST_KILLS, (60 * arguments.minutes - STRAIGHT) // SECONDS_A_KILL)))
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "report.json"
        line = [sys.executable, ROOT / "tests/train/kill_stress.py", "--kills", kills, "--seed", arguments.seed, "--report", file]
        status = subprocess.run([str(word) for word in line], cwd=ROOT, check=False).returncode
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"identical": {}}
    return report(arguments, {"kills": len(found.get("kills", [])), "identical": found["identical"]}, good=status == 0)


if __name__ == "__main__":
    sys.exit(main())
