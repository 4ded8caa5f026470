"""What the campaigns share: options and the report."""

import argparse
import json
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
