"""Training steps with and without the latent cache on a random model of Stable Diffusion 1.5's shape, and the memory estimate
of train/memory.py beside the memory that was taken.

A LoRA of rank 16 is trained on both sides: AdamW over all weights holds them four times in fp32. Batch 1, one thread, fp32.

python benchmarks/latent_cache.py --report F [--pixels 256] [--steps 3]     needs about 9 GiB of memory
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.load_memory import resident_bytes  # noqa: E402 (after the path is set)

DEMO = ROOT / "digseg_nodes/models/digseg-demo.safetensors"
BOUND = (0.7, 1.3)
"""Taken memory over estimated memory."""


def write_base(path: Path) -> Path:
    """A DiGSeg checkpoint with random weights of SD 1.5's shape, stored as fp16."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from digseg_nodes.core.checkpoint import save_checkpoint
    from tests.parity.builders import fill_quickly
    from train.memory import stable_diffusion

    config = stable_diffusion()
    builders = {
        "unet": lambda: UNet2DConditionModel.from_config(config.unet),
        "vae": lambda: AutoencoderKL.from_config(config.vae),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**config.text_encoder)),
    }
    parts = {}
    for seed, (name, build) in enumerate(builders.items()):
        parts[name] = {key: value.to(torch.float16) for key, value in fill_quickly(build, seed).state_dict().items()}
    save_checkpoint(path, parts, config, title="random")
    return path


def write_config(folder: Path, base: Path, pixels: int, cached: bool) -> Path:
    """Train on the demo world's pictures at `pixels`."""
    data = {"type": "demo", "scenes": 1, "size": pixels}
    values = {
        "base": str(base), "data": {"train": [data]}, "output": str(folder / "run"), "cache": str(folder / "cache"),
        "resolution": pixels, "batch_size": 1, "ema": 0, "cache_latents": cached, "encode_batch": 1,
    }  # fmt: skip
    if base != DEMO:
        values["lora"] = {"rank": 16}
    else:
        values |= {"batch_size": 16, "ema": 0.998}  # as the demo model is trained
    path = folder / f"config-{cached}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


class Peak(threading.Thread):
    """Looks at `resident_bytes` every few milliseconds while its block runs; `bytes` is the most it saw."""

    def __enter__(self) -> "Peak":
        self.bytes, self.running = 0, True
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.running = False
        self.join()

    def run(self) -> None:
        while self.running:
            self.bytes = max(self.bytes, resident_bytes())
            time.sleep(0.003)


def measure(config: Path, steps: int) -> dict:
    """Seconds a step after a first one, and the memory that networks and steps took beside the imports."""
    import torch

    from train.learning.forecast import estimate
    from train.learning.loop import Trainer
    from train.networks.tokenizer import clip_tokenizer
    from train.settings.train_config import load_config

    torch.set_num_threads(1)
    clip_tokenizer()  # not a tensor
    before = resident_bytes()
    started = time.perf_counter()
    trainer = Trainer(load_config(config))
    prepared = time.perf_counter() - started
    seconds = []
    with Peak() as peak:
        for step in range(steps + 1):
            started = time.perf_counter()
            trainer.step(trainer.batches[step])
            seconds.append(time.perf_counter() - started)
    need = estimate(trainer.config, trainer.networks.config)
    estimated = need.weights + need.optimizer + need.averages + max(need.step, need.encoding)
    return {
        "preparing_seconds": prepared, "step_seconds": seconds, "seconds": min(seconds[1:]),
        "peak_bytes": peak.bytes - before, "estimated_bytes": estimated, "estimated_flops": need.flops,
    }  # fmt: skip


def in_own_process(config: Path, steps: int) -> dict:
    """`measure` in a process of its own, so that nothing of another measurement is in memory."""
    line = [sys.executable, __file__, "--measure", str(config), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{config.name}: {figures}", flush=True)
    return figures


def main() -> int:
    """Measure, print, report; exit status 1 when the memory estimate is further off than BOUND."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = write_base(folder / "base.safetensors")
        cached, fresh = (in_own_process(write_config(folder, base, args.pixels, one), args.steps) for one in (True, False))
        (folder / "demo").mkdir()
        demo = in_own_process(write_config(folder / "demo", DEMO, 128, True), args.steps)
    figures = {"pixels": args.pixels, "cached": cached, "fresh": fresh, "demo": demo}
    figures["ratio"] = fresh["seconds"] / cached["seconds"]
    runs = {"cached": cached, "fresh": fresh, "demo": demo}
    figures["memory_over_estimate"] = {name: one["peak_bytes"] / one["estimated_bytes"] for name, one in runs.items()}
    print(json.dumps({key: figures[key] for key in ("ratio", "memory_over_estimate")}, indent=2))
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return int(not all(BOUND[0] < ratio < BOUND[1] for ratio in figures["memory_over_estimate"].values()))


if __name__ == "__main__":
    sys.exit(main())
