"""Training steps on 16:9 photos in their own shape and padded to squares, at equal resolution: the demo's base on one core.

python benchmarks/photo_shapes.py --report F [--steps 12]

Both are stepped in turn in one process; processor seconds, the median of the steps after the first two.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES = ("own", "square")


def trainer(folder: Path, shape: str):
    """A run on 16:9 scenes whose latents are encoded."""
    from train.learning.loop import Trainer
    from train.settings.train_config import load_config

    values = {
        "base": str(ROOT / "digseg_nodes/models/digseg-demo-base.safetensors"),
        "data": {"train": [{"type": "demo", "scenes": 8, "aspects": ["16:9"]}]}, "output": str(folder / shape),
        "cache": str(folder / "cache"), "resolution": 128, "batch_size": 8, "objective": "end_to_end", "photo_shape": shape,
    }  # fmt: skip
    path = folder / f"{shape}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return Trainer(load_config(path))


def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        trainers = {shape: trainer(Path(name), shape) for shape in SHAPES}
        seconds = {shape: [] for shape in SHAPES}
        for step in range(args.steps + 2):
            for shape, one in trainers.items():
                start = time.process_time()
                one.step(one.batches[step])
                seconds[shape].append(time.process_time() - start)
        sizes = {shape: one.batches.sampler.table.shapes for shape, one in trainers.items()}
    medians = {shape: statistics.median(values[2:]) for shape, values in seconds.items()}
    figures = {"sizes": sizes, "seconds a step": medians, "steps per second, own to square": medians["square"] / medians["own"]}
    print(json.dumps(figures, indent=2))
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")


if __name__ == "__main__":
    main()
