"""Draw the learning curves of the bundled demo model from the logs its trainings left in docs/training-logs/.

python train/experiments/curves.py [--logs FOLDER] [--out FILE.png]

Log files are those of train/demo/make_stack.py (`NAME.log`) and of train/finetune.py (`NAME-NUMBER.jsonl`, one each).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from train.experiments.tables import pyplot, save_figure
from train.scoring.report import smoothed

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "text": ("text encoder", "contrast", "contrastive loss"),
    "vae": ("VAE", "loss", "reconstruction loss"),
    "base": ("text-to-image base", "loss", "v-prediction loss"),
}
RUNS = {"end-to-end": "DiGSeg, end-to-end objective", "diffusion": "DiGSeg, the paper's objective"}
Points = list[tuple[float, float]]


def stage_points(path: Path, value: str) -> Points:
    """(step, value) of the lines "NAME step S ... VALUE x ..." of a stage's log."""
    found = (re.search(rf"step (\d+) .*?\b{value} ([\d.]+)", line) for line in path.read_text(encoding="utf-8").splitlines())
    return [(int(match[1]), float(match[2])) for match in found if match]


def run_logs(logs: Path, name: str) -> list[Path]:
    """The logs NAME-1.jsonl, NAME-2.jsonl, ... in this order."""
    return sorted(logs.glob(f"{name}-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))


def run_points(paths: list[Path]) -> tuple[Points, Points, list[int]]:
    """Losses and seen-pair mIoU of a run whose trainings followed each other, and the steps where each began."""
    losses: Points = []
    scores: Points = []
    starts, offset = [], 0
    for path in paths:
        starts.append(offset)
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses += [(offset + line["step"], line["loss"]) for line in lines if "loss" in line]
        scores += [
            (offset + line["step"], line["validation"]["groups"]["seen"]["miou"]) for line in lines if "validation" in line
        ]
        offset += max(line["step"] for line in lines)
    return losses, scores, starts


def draw(logs: Path, out: Path) -> None:
    """One panel per stage and per run; writes a PNG."""
    figure, panels = pyplot().subplot_mosaic("aabbcc;dddeee", figsize=(12, 7))
    axes = list(panels.values())
    for axis, (name, (title, value, label)) in zip(axes, STAGES.items(), strict=False):
        steps, values = zip(*stage_points(logs / f"{name}.log", value), strict=True)
        axis.plot(steps, values, color="#2563eb")
        axis.set(title=title, xlabel="steps", ylabel=label)
    for axis, (name, title) in zip(axes[len(STAGES) :], RUNS.items(), strict=True):
        draw_run(axis, title, *run_points(run_logs(logs, name)))
    for axis in axes:
        axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, out)


def draw_run(axis, title: str, losses: Points, scores: Points, starts: list[int]) -> None:
    """Smoothed loss on the left scale, validation mIoU on the right one, dashed lines where a training went on from another."""
    steps, values = zip(*smoothed(losses, 0.97), strict=True)
    axis.plot(steps, values, color="#2563eb", label="loss, smoothed")
    axis.set(title=title, xlabel="steps of 16", ylabel="training loss", yscale="log")
    for start in starts[1:]:
        axis.axvline(start, color="#9ca3af", linestyle="--", linewidth=1)
    right = axis.twinx()
    right.plot(*zip(*scores, strict=True), color="#dc2626", marker="o", markersize=3)
    right.set(ylim=(0, 1))
    right.set_ylabel("validation mIoU, seen pairs", color="#dc2626")


def main(line: list[str] | None = None) -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, default=ROOT / "docs/training-logs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img/experiments/learning-curves.png")
    arguments = parser.parse_args(line)
    draw(arguments.logs, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
