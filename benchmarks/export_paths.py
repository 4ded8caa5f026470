"""From an export to a mask, as a stranger goes: check_data.py on the folder, ten steps, and the checkpoint asked about a photo.

Every export of tests/train/exports.py is written as its tool writes it, with ten photos of 64x48 pixels; the base is the bundled
tiny one. All runs in one process, whose start (Python, PyTorch, diffusers) is a row of its own.

python benchmarks/export_paths.py --report F [--only yolo_roboflow ...] [--steps 10] [--pixels 64]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BASE = ROOT / "digseg_nodes/models/digseg-demo-base.safetensors"


def timed(command: Callable[[list[str]], None], *line: str | Path) -> list[float]:
    """Seconds on the clock and of the processor that a command takes; its output where it fails."""
    start, used, output = time.perf_counter(), processor_seconds(), StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            command(list(map(str, line)))
    except SystemExit as error:
        raise SystemExit(f"{' '.join(map(str, line))}: {error}\n{output.getvalue()[-3000:]}") from error
    return [time.perf_counter() - start, processor_seconds() - used]


def processor_seconds() -> float:
    """Of this process and those it has started and waited for."""
    return sum(os.times()[:4])


def ask(checkpoint: Path, data: Path) -> list[float]:
    """Seconds, as `timed` gives them, to open a checkpoint and to ask it for the classes of a photo; checks what comes back."""
    from train.data.build import open_split
    from train.data.config import load_data
    from train.networks.engine import open_segmenter

    source = open_split(load_data(data), "test")[0][0]
    sample = source.sample(0)
    start, used = time.perf_counter(), processor_seconds()
    segmenter = open_segmenter(checkpoint)
    segmenter.set_image(sample.image)
    masks = segmenter.predict("\n".join(source.class_names)).soft
    if tuple(masks.shape) != (1, len(source.class_names), *sample.image.shape[:2]):
        raise SystemExit(f"{checkpoint} gave masks of shape {tuple(masks.shape)}")
    return [time.perf_counter() - start, processor_seconds() - used]


def path_of(name: str, folder: Path, steps: int, pixels: int) -> dict:
    """Seconds of every step of one export's way."""
    from accelerate.state import AcceleratorState

    from tests.train.exports import write_export
    from train.check_data import main as check_data
    from train.finetune import main as finetune

    root = write_export(name, folder / name)
    check = timed(check_data, root)
    data = next(path for path in (root / "digseg.yaml", root / "data.yaml") if path.is_file())
    config = folder / f"{name}.yaml"
    values = {
        "base": str(BASE), "data": str(data), "output": str(folder / f"{name}-run"), "cache": str(folder / "cache"),
        "resolution": pixels, "steps": steps, "batch_size": 2, "validation": {"every": 1000, "images": 2},
    }  # fmt: skip
    config.write_text(json.dumps(values), encoding="utf-8")
    train = timed(finetune, "--config", config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return {"check": check, "train": train, "ask": ask(folder / f"{name}-run/digseg.safetensors", data)}


def main() -> None:
    """Parse the command line, go every way, print a table."""
    from tests.train.exports import EXPORTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(EXPORTS), default=list(EXPORTS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pixels", type=int, default=64)
    arguments = parser.parse_args()
    found, start = {}, time.perf_counter()
    import train.learning.loop
    import train.networks.engine  # noqa: F401

    started = time.perf_counter() - start
    print(f"{'export':20}{'check':>14}{'train':>14}{'ask':>14}{'all':>14}   seconds on the clock (of the processor)")
    print(f"{'start':20}{started:6.0f} ({processor_seconds():5.1f})")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            found[name] = path_of(name, Path(folder), arguments.steps, arguments.pixels)
            steps = [*found[name].values(), [sum(column) for column in zip(*found[name].values(), strict=True)]]
            print(f"{name:20}" + "".join(f"{clock:6.0f} ({used:5.1f})" for clock, used in steps), flush=True)
    arguments.report.write_text(json.dumps({"start": started, "seconds": found}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
