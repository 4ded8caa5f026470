"""Kill a small real training at random moments with SIGKILL, start it again each time, and compare the end, bit by bit, with
a run nobody disturbed: weights, moments, averages, the exported file and the loss curve.

python tests/train/kill_stress.py [--kills 20] [--seed 0] [--processes 1] [--report F] [key=value ...]

Settings behind the options replace the training's own, e.g. cache_latents=false workers=1, or objective=end_to_end;
--processes 2 trains with torchrun, all of whose processes are killed together.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import psutil
import torch
from safetensors.torch import load_file

from tests.train.helpers import folder_dataset, tiny_base
from tests.train.test_finetune import ENVIRONMENT, command
from train.learning.resume import latest_state, load_state
from train.learning.run_log import read_log

STEPS, MOST_STEPS_A_START = 120, 5
SETTINGS = """base: {folder}/base.safetensors
data: {folder}/data/data.yaml
resolution: 64
steps: {steps}
batch_size: 2
log_every: 1
ema: 0.99
augment: {{variants: 1}}
optimizer: {{lr: 1.0e-3, warmup_steps: 2}}
validation: {{every: 10, images: 2, steps: 1}}
checkpoints: {{every: 2}}
"""


def prepare(folder: Path) -> Path:
    """A random tiny base, a small data set and a configuration in `folder`; returns the configuration."""
    tiny_base(folder / "base.safetensors")
    folder_dataset(folder / "data")
    path = folder / "config.yaml"
    path.write_text(SETTINGS.format(folder=folder, steps=STEPS), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Training:
    """A training to be disturbed: its configuration file, settings that replace some of it, how many processes share it."""

    config: Path
    settings: tuple[str, ...] = ()
    processes: int = 1

    def start(self, run: Path) -> subprocess.Popen:
        """The training command, its output in `<run>.log`; the cache belongs to the run, so that it is interrupted as well."""
        line = command("finetune.py", "--config", self.config, f"output={run}", f"cache={run}-cache", *self.settings)
        if self.processes > 1:
            line[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}
        log = run.with_suffix(".log").open("ab")
        return subprocess.Popen(line, env=environment, stdout=log, stderr=subprocess.STDOUT)


def finish(training: Training, run: Path) -> float:
    """Run to the end; returns the seconds until its first step. Raises RuntimeError with the log when it fails."""
    started, process = time.monotonic(), training.start(run)
    while process.poll() is None and not losses(run):
        time.sleep(0.01)
    seconds = time.monotonic() - started
    if process.wait() != 0:
        raise RuntimeError(run.with_suffix(".log").read_text(encoding="utf-8"))
    return seconds


def losses(run: Path) -> int:
    """Steps in the log."""
    path = run / "log.jsonl"
    return path.read_text(encoding="utf-8").count('"loss"') if path.is_file() else 0


def steps_done(run: Path) -> int:
    """Steps in the newest state."""
    path = latest_state(run / "checkpoints")
    return int(path.stem.split("-")[1]) if path else 0


def random_moment(run: Path, process: subprocess.Popen, rng: random.Random, startup: float) -> str:
    """Wait for one: while the command starts, encodes and resumes, or within a few steps of its training."""
    started, done = time.monotonic(), steps_done(run)
    early = rng.random() < 0.5
    seconds, steps = rng.uniform(0, startup), MOST_STEPS_A_START
    if not early:
        seconds, steps = float("inf"), rng.randint(1, MOST_STEPS_A_START)
    log, before = run / "log.jsonl", time.time()
    while process.poll() is None and time.monotonic() - started < seconds:
        if losses(run) >= done + steps and log.stat().st_mtime > before:  # its own lines, not those it will drop
            time.sleep(rng.uniform(0, 0.2))
            break
        time.sleep(0.002)
    return f"{time.monotonic() - started:.2f} s after the start, after step {losses(run)}"


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it started: torchrun's workers are in sessions of their own, and would train on without it."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def kill_at_random(training: Training, run: Path, kills: int, startup: float, seed: int) -> list[dict]:
    """Start and SIGKILL `kills` times."""
    rng, moments = random.Random(seed), []
    for _ in range(kills):
        process = training.start(run)
        moment = random_moment(run, process, rng, startup)
        for one in family(process):
            with suppress(psutil.NoSuchProcess):  # it ended by itself
                one.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"It ended by itself:\n{run.with_suffix('.log').read_text(encoding='utf-8')}")
        moments.append({"killed": moment, "steps_done": steps_done(run)})
        print(moments[-1], flush=True)
    return moments


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal names and equal bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def compare(straight: Path, killed: Path) -> dict[str, bool]:
    """What is bit-identical in two run folders."""
    (first, values), (second, others) = (load_state(latest_state(run / "checkpoints")) for run in (straight, killed))
    logs = [read_log(run / "log.jsonl", timing=False) for run in (straight, killed)]
    files = [load_file(run / "digseg.safetensors") for run in (straight, killed)]
    best = [load_file(run / "best.safetensors") for run in (straight, killed)]
    return {
        "weights, moments and averages": same_tensors(first, second),
        "progress": values["progress"] == others["progress"],
        "log": logs[0] == logs[1],
        "exported checkpoint": same_tensors(*files),
        "best checkpoint": same_tensors(*best),
    }


def main() -> int:
    """Run, kill, compare; exit status 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        straight, killed = folder / "straight", folder / "killed"
        training = Training(prepare(folder), tuple(args.settings), args.processes)
        startup = finish(training, straight)
        print(f"first step after {startup:.1f} s", flush=True)
        moments = kill_at_random(training, killed, args.kills, startup, args.seed)
        finish(training, killed)
        figures = {"steps": STEPS, "kills": moments, "identical": compare(straight, killed)}
    print(json.dumps(figures["identical"], indent=1))
    if args.report:
        args.report.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0 if all(figures["identical"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
