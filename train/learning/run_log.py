"""What a run tells: log.jsonl and one line per validation."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from digseg_nodes.core.files import write_text

TIMING = ("time", "seconds_per_step", "samples_per_second", "data_wait", "peak_mib")
"""Keys of log.jsonl that differ between two runs of the same steps; all others are the same to the last bit."""


class RunLog:
    """log.jsonl of a run: one JSON object a line. Lines beyond the state a run continues from are dropped.

    active: whether this process writes. track: also called with the scalars of a line and its step, e.g. for TensorBoard.
    """

    def __init__(self, path: Path, active: bool, track: Callable[[dict[str, float], int], None] | None = None):
        self.path, self.active, self.track = path, active, track

    def open(self, step: int) -> None:
        """Keep the lines up to `step`."""
        if not self.active:
            return
        kept = [line for line, values in _whole_lines(self.path) if values["step"] <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: dict) -> None:
        """Append the line of a step, with the time of day. Values are finite or None."""
        if not self.active:
            return
        line = {"step": step, **values, "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self.track is not None:
            self.track(scalars(values), step)


def read_log(path: Path, timing: bool = True) -> list[dict]:
    """The lines of a log.jsonl; timing: with what differs between two runs of the same steps, or without."""
    lines = [values for _, values in _whole_lines(path)]
    return lines if timing else [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def _whole_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """The lines of a log and their values; what a power cut left half-written is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield line, values


def describe(step: int, summary: dict) -> str:
    """A validation in one line."""
    parts = [f"step {step}"]
    for group, scores in summary["groups"].items():
        parts.append(f"{group} " + (f"fired {scores['fired']:.3f}" if "fired" in scores else f"mIoU {scores['miou']:.3f}"))
    return ", ".join(parts)


def scalars(values: dict, prefix: str = "") -> dict[str, float]:
    """Nested figures as flat names, e.g. validation/groups/seen/miou; per-class scores are left to report.html."""
    out = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= scalars(value, f"{prefix}{key}/") if key != "classes" else {}
        elif isinstance(value, int | float):
            out[prefix + key] = float(value)
    return out
