"""What a GPU does with this code: parity with the CPU, running out of memory, encodes and steps a second, memory taken.

With the bundled demo model at 128 pixels, and, on a GPU, encoding and training at 512 pixels with random networks of Stable
Diffusion 1.5's shape. `--cpu` goes the same way on the CPU with small shapes, in a few minutes, so that nothing is new to the
first GPU.

python benchmarks/gpu.py --report F [--cpu] [--rounds 3]     or: python dev.py bench gpu [--cpu]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.speed import machine, ratio, timed  # noqa: E402 (after the path is set)

DEMO = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"
SCENES, ENCODED, PROMPTS = 4, 4, "red circle\nblue star\ngreen square"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Names in the report, and what `mixed_precision` calls them."""
PLENTY = 24 * 2**30
"""Bytes of a GPU from which on all weights are trained, not a LoRA."""


@dataclass(frozen=True)
class Scale:
    """What is timed: a base (None: random, of Stable Diffusion 1.5's shape), pixels, masks in a step, steps in a round, and the
    precisions that training knows there."""

    base: Path | None
    pixels: int
    batch: int
    steps: int
    precisions: tuple[str, ...]

    @classmethod
    def of(cls, device: torch.device) -> "Scale":
        """That of a device: accelerate trains in fp16 on GPUs alone."""
        if device.type == "cpu":
            return cls(DEMO, 64, 2, 2, ("fp32", "bf16"))
        return cls(None, 512, 8 if device_bytes(device) >= PLENTY else 1, 8, tuple(PRECISIONS))


def device_bytes(device: torch.device) -> int:
    """Memory of a CUDA device."""
    return torch.cuda.get_device_properties(device).total_memory


def chosen_device(cpu: bool) -> torch.device | None:
    """What is measured: a CUDA device, the CPU where it is asked for, or nothing."""
    if cpu:
        return torch.device("cpu")
    return torch.device("cuda") if torch.cuda.is_available() else None


@contextlib.contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Context whose networks compute in a precision."""
    from digseg_nodes.core.checkpoint import DTYPES

    wanted = DTYPES[precision]
    with torch.inference_mode(), torch.autocast(device.type, dtype=wanted, enabled=wanted is not torch.float32):
        yield


def demo_samples(count: int) -> list:
    """Samples of the demo world that training never saw."""
    from train.data.build import open_split
    from train.data.config import load_data

    (source, _), *_ = open_split(load_data(ROOT / "train/configs/data/demo.yaml"), "test")
    return [source.sample(number) for number in range(count)]


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Of masks bool [N,H,W] one by one, 1 where both are empty."""
    both, any_ = ((one & other).sum((1, 2)), (one | other).sum((1, 2)))
    return torch.where(any_ == 0, 1.0, both / any_.clamp(min=1))


def spread(values: Tensor | list[float], what: str) -> dict:
    """Median, smallest and largest, in the report's form."""
    values = torch.as_tensor(values, dtype=torch.float64)
    found = {"median": values.quantile(0.5).item(), "min": values.min().item(), "max": values.max().item()}
    return {**{name: float(f"{value:.6g}") for name, value in found.items()}, "what": what}


def soft_masks(segmenter, precision: str) -> Tensor:
    """Soft masks [N,H,W] of PROMPTS in demo scenes."""
    found = []
    for sample in demo_samples(SCENES):
        with computing(segmenter.engine.networks.unet.device, precision):
            segmenter.set_image(sample.image)
            found.append(segmenter.predict(PROMPTS).soft[0].float().cpu())
    return torch.cat(found)


def measure_parity(device: torch.device) -> dict:
    """Masks on the device against the CPU's in fp32."""
    from train.networks.engine import open_segmenter

    expected, ratios = soft_masks(open_segmenter(DEMO, device="cpu"), "fp32"), {}
    segmenter = open_segmenter(DEMO, device=device)
    for precision in PRECISIONS:
        found = soft_masks(segmenter, precision)
        text = f"demo model, {len(found)} masks, {device.type} in {precision} against the CPU in fp32"
        ratios[f"mask_iou_{precision}_to_cpu"] = spread(iou(found > 0.5, expected > 0.5), f"{text}: IoU")
        worst = (found - expected).abs().amax((1, 2))
        ratios[f"mask_difference_{precision}_to_cpu"] = spread(worst, f"{text}: largest difference of a pixel's soft value")
        print(f"{precision}: {ratios[f'mask_iou_{precision}_to_cpu']['min']:.4f} IoU at least", flush=True)
    return ratios


def measure_encoded_masks(device: torch.device) -> dict:
    """What the precision of the encoder does to masks, decoded in fp32: against the true masks and fp32's."""
    from digseg_nodes.core.mask_targets import drawn
    from train.data.prepare import prepare
    from train.latents.encoder import Encoder
    from train.networks.bases import decode_latents, load_networks

    vae, ratios = load_networks(DEMO).vae.to(device), {}
    masks = torch.cat([prepare(sample, 128).soft for sample in demo_samples(ENCODED)])
    pixels, decoded, latents = drawn(masks, masks, "binary"), {}, {}
    for name, precision in PRECISIONS.items():
        latents[name] = Encoder(vae, precision).encode(pixels, 8).half().float()  # as the cache keeps them
        with torch.inference_mode():
            decoded[name] = torch.cat([decode_latents(vae, part).mean(1) > 0 for part in latents[name].split(8)]).cpu()
        text = f"demo VAE, {len(masks)} masks encoded in {name} on {device.type}, decoded in fp32"
        ratios[f"encoded_mask_iou_{name}"] = spread(iou(decoded[name], masks > 0.5), f"{text}: IoU with the true masks")
        ratios[f"encoded_mask_iou_{name}_to_fp32"] = spread(iou(decoded[name], decoded["fp32"]), f"{text}: with fp32's masks")
        error = (latents[name] - latents["fp32"]).square().mean((1, 2, 3)).sqrt() / latents["fp32"].std()
        ratios[f"encoded_error_{name}"] = spread(error, f"{text}: RMS error over the latents' deviation")
    return ratios


def measure_encodes(device: torch.device, rounds: int) -> dict:
    """Encodes a second in every precision, alternately."""
    from train.latents.encoder import Encoder
    from train.networks.bases import load_networks

    scale = Scale.of(device)
    vae = load_networks(DEMO).vae.to(device) if scale.base else random_vae().to(device)
    at_once = Encoder(vae).fits(scale.pixels, 4)
    encoders = {name: Encoder(vae, precision) for name, precision in PRECISIONS.items()}
    pixels = torch.rand(at_once, 3, scale.pixels, scale.pixels) * 2 - 1
    works = {name: (lambda one=encoder: one.encode(pixels, at_once)) for name, encoder in encoders.items()}
    seconds = timed(works, rounds)
    kind = "demo VAE" if scale.base else "Stable Diffusion's VAE, random"
    text = f"{kind}, {scale.pixels} px, {at_once} at once, {device.type}"
    rates = {
        f"encodes_per_second_{name}": spread([at_once / one for one in times], f"{text}, {name}: images or masks a second")
        for name, times in seconds.items()
    }
    return rates | {
        f"encode_{name}_over_fp32": ratio(times, seconds["fp32"], f"{text}: seconds in {name} over fp32")
        for name, times in seconds.items()
        if name != "fp32"
    }


def random_vae():
    """A VAE of Stable Diffusion's shape."""
    from diffusers import AutoencoderKL

    from train.networks.single_file import VAE

    return AutoencoderKL.from_config(VAE).eval().requires_grad_(False)


def write_config(folder: Path, scale: Scale, base: Path, precision: str) -> Path:
    """A training on the demo world's pictures."""
    values = {
        "base": str(base), "data": {"train": [{"type": "demo", "scenes": 4, "size": scale.pixels}]}, "seed": 0,
        "output": str(folder / f"run-{precision}"), "cache": str(folder / "cache"), "resolution": scale.pixels,
        "batch_size": scale.batch, "mixed_precision": PRECISIONS[precision], "objective": "end_to_end", "ema": 0.999,
    }  # fmt: skip
    if scale.base is None and scale.batch == 1:
        values |= {"lora": {"rank": 16}, "ema": 0}
    path = folder / f"{precision}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def measure_training(device: torch.device, rounds: int) -> dict:
    """Steps a second, over the bare U-Net's, and memory over the estimate; every precision in a process of its own."""
    from benchmarks.latent_cache import write_base

    scale, ratios = Scale.of(device), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = scale.base or write_base(folder / "base.safetensors")
        for precision in scale.precisions:
            found = in_own_process(write_config(folder, scale, base, precision), rounds, device)
            kind = "demo model" if scale.base else "Stable Diffusion 1.5's shape" + (", LoRA" if scale.batch == 1 else "")
            text = f"{kind}, {scale.pixels} px, batch {scale.batch}, {precision}, {device.type}"
            ratios[f"steps_per_second_{precision}"] = spread([1 / one for one in found["step"]], f"{text}: steps a second")
            ratios[f"step_over_bare_unet_{precision}"] = ratio(
                found["step"], found["bare"], f"{text}: a step over the U-Net alone, forwards and backwards"
            )
            ratios[f"peak_memory_over_estimate_{precision}"] = ratio(
                [found["peak_bytes"]], [found["estimated_bytes"]], f"{text}: memory taken over that of train/memory.py"
            )
    return ratios


def in_own_process(config: Path, rounds: int, device: torch.device) -> dict:
    """`train_here` in a process of its own, so that nothing else is in memory."""
    line = [sys.executable, __file__, "--train", str(config), "--rounds", str(rounds)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"} if device.type == "cpu" else os.environ
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"Training with {config.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def train_here(path: Path, rounds: int) -> dict:
    """Seconds of a step and of the bare U-Net's passes on the same batches, alternately, and the memory that training took."""
    from benchmarks.latent_cache import Peak, resident_bytes
    from train.learning.forecast import estimate
    from train.learning.loop import Trainer
    from train.networks.tokenizer import clip_tokenizer
    from train.settings.train_config import load_config

    clip_tokenizer()  # not a tensor
    before = resident_bytes()
    trainer = Trainer(load_config(path))
    device = trainer.accelerator.device
    steps = Scale.of(device).steps
    batches = [trainer.batches[number] for number in range(steps)]
    with Peak() as peak:
        trainer.step(batches[0])
    taken = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak.bytes - before
    need = estimate(trainer.config, trainer.networks.config)
    estimated = need.weights + need.optimizer + need.averages + max(need.step, need.encoding)
    works = {
        "step": lambda: [trainer.step(batch) for batch in batches],
        "bare": lambda: [bare_passes(trainer, batch) for batch in batches],
    }
    with contextlib.redirect_stdout(sys.stderr):
        seconds = timed(works, rounds)
    per_step = {name: [one / steps for one in times] for name, times in seconds.items()}
    return {**per_step, "peak_bytes": max(taken, 1), "estimated_bytes": estimated}


def bare_passes(trainer, parts: list) -> None:
    """The U-Net alone forwards and backwards on a step's batches, already on the device, its gradients thrown away."""
    unet = trainer.trained.modules["unet"]
    for part in parts:
        part = part.to(trainer.accelerator.device)
        with trainer.accelerator.autocast():
            out = unet(torch.cat([part.image, part.noise], 1), part.timesteps, part.text).sample
        out.float().square().mean().backward()
    unet.zero_grad(set_to_none=True)


def measure_recovery(device: torch.device) -> dict:
    """Masks of a call that runs out of memory and goes on with smaller ones, against those of a call that does not."""
    from train.networks.engine import open_segmenter

    segmenter = open_segmenter(DEMO, device=device)
    sample = demo_samples(1)[0]
    segmenter.set_image(sample.image)
    expected = segmenter.predict(PROMPTS).soft
    with starved(segmenter) as refused:
        found = segmenter.predict(PROMPTS).soft
    text = (
        f"demo model on {device.type}, {len(refused)} calls of {refused} masks were refused: largest difference of a soft value"
    )
    if not refused:
        sys.exit("No call ran out of memory: nothing was tried.")
    return {"difference_after_out_of_memory": spread([(found - expected).abs().max().item()], text)}


@contextlib.contextmanager
def starved(segmenter) -> Iterator[list[int]]:
    """Context in which calls of the U-Net and the VAE's decoder on more than one mask ask for more memory than there is: on CUDA
    really, elsewhere by raising what CUDA raises. Gives the sizes of the calls that failed."""
    refused: list[int] = []
    networks = segmenter.engine.networks

    def check(_module, arguments: tuple) -> None:
        if len(arguments[0]) > 1:
            refused.append(len(arguments[0]))
            ask_for_too_much(arguments[0].device)

    decoder = networks.mask_decoder or networks.vae.decoder
    hooks = [module.register_forward_pre_hook(check) for module in (networks.unet, decoder)]
    try:
        yield refused
    finally:
        for hook in hooks:
            hook.remove()


def ask_for_too_much(device: torch.device) -> None:
    """Raise torch.OutOfMemoryError."""
    if device.type == "cuda":
        torch.empty(2 * device_bytes(device), dtype=torch.uint8, device=device)
    raise torch.OutOfMemoryError("asked for too much, on purpose")


PARTS = {
    "parity": lambda device, rounds: measure_parity(device),
    "masks": lambda device, rounds: measure_encoded_masks(device),
    "encodes": measure_encodes,
    "training": measure_training,
    "memory": lambda device, rounds: measure_recovery(device),
}


def main() -> int:
    """Measure and report; without a GPU and without --cpu, say so and report that nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--cpu", action="store_true", help="the same on the CPU, small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        print(json.dumps(train_here(args.train, args.rounds)))
        return 0
    device, report = chosen_device(args.cpu), {"machine": machine(), "ratios": {}}
    if device is None:
        report["skipped"] = "there is no CUDA GPU; --cpu goes the same way on the CPU"
        print(report["skipped"])
    else:
        report["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        for name in args.only:
            print(f"Measuring {name} on {report['device']}", flush=True)
            report["ratios"] |= PARTS[name](device, args.rounds)
    print(json.dumps(report, indent=2))
    if args.report:
        args.report.write_text(json.dumps(report, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
