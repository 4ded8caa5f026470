"""What masks cost: a diffusers loop per prompt, ours with the VAE, ours with the guided mask decoder, the bare network calls.

Everything is timed alternately in one run, several rounds; a figure is the median of the rounds' ratios, with the smallest and
the largest. The demo model at 128 pixels in ComfyUI's engine, and a model of Stable Diffusion 2.1's size with random weights at
256 pixels in diffusers' (the same networks on both sides), where 12 GiB of memory are free. The mask decoders are random: their
time does not depend on their weights.

python benchmarks/speed.py --report F [--rounds 5] [--only demo|sd21|memory]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks._layouts import make_networks  # noqa: E402 (ComfyUI has a package `tests` too)
from digseg_nodes.core.latent_space import SCALING_FACTOR  # noqa: E402
from tests.parity.builders import SCHEDULERS, reference_ddim  # noqa: E402

MODELS = ROOT / "digseg_nodes" / "models"
PROMPTS, PIPELINE_STEPS, SIDE, SMALL_SIDE, MANY = 8, 4, 256, 128, 64
PHOTO, MEMORY_COUNTS = (1024, 1024), (8, 64)  # one chunk and eight, on a CPU
SD21_ROUNDS, TRAINING_ROUNDS, SD21_GIB, GPU_ITEMS = 3, 3, 12, 32
THINGS = [f"{colour} {shape}" for colour in ("red", "blue", "green", "white") for shape in ("circle", "star", "square", "ring")]
Work = Callable[[], object]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where everything but the photo lies: on a GPU where there is one."""


def timed(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of every work in every round, one after the other within a round; a first round warms up and is not counted."""
    seconds = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            took = seconds_on_gpu(work) if DEVICE.type == "cuda" else seconds_on_cpu(work)
            if number:
                seconds[name].append(took)
        print(f"round {number} of {rounds}: " + ", ".join(f"{n} {t[-1]:.2f} s" for n, t in seconds.items() if t), flush=True)
    return seconds


def seconds_on_cpu(work: Work) -> float:
    """By the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def seconds_on_gpu(work: Work) -> float:
    """From when the GPU begins to when it has done what it was given, by its own events; waiting for the CPU counts."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def ratio(over: list[float], under: list[float], what: str, scale: float = 1.0) -> dict:
    """Median, smallest and largest quotient of paired rounds."""
    found = [scale * a / b for a, b in zip(over, under, strict=True)]
    figures = {"median": statistics.median(found), "min": min(found), "max": max(found)}
    return {**{name: round(value, 3) for name, value in figures.items()}, "what": what}


def prompts(count: int) -> list:
    """The first `count` of an endless list of prompts."""
    from digseg_nodes.core.prompts import Prompt

    names = [THINGS[i % len(THINGS)] + (f" {i // len(THINGS)}" if i >= len(THINGS) else "") for i in range(count)]
    return [Prompt(name, (name,)) for name in names]


def ours(engine, photo, count: int, decoder: str) -> Work:
    """Photo and texts to masks in one step."""
    from digseg_nodes.core import inference

    asked, settings = prompts(count), inference.SamplerSettings(steps=1)
    return lambda: inference.segment(engine, photo, asked, settings, inference.ImageSettings(), decoder=decoder)


def pipeline(networks, photo, count: int) -> Work:
    """The straight diffusers loop for each prompt: text, photo, PIPELINE_STEPS steps from noise, the VAE's mean."""
    from train.networks.bases import decode_latents, encode_pixels
    from train.networks.text_encoding import encode_texts

    pixels = (photo.movedim(-1, 1) * 2 - 1).to(DEVICE)
    texts = [prompt.wordings for prompt in prompts(count)]

    def run() -> None:
        for text in texts:
            image = encode_pixels(networks.vae, pixels)
            words, noise = encode_texts(networks.text_encoder, text).float(), torch.randn_like(image)
            latent = reference_ddim(networks.unet, words, image, noise, networks.config.scheduler, PIPELINE_STEPS)
            decode_latents(networks.vae, latent).mean(1)

    return run


def bare_calls(engine, photo, count: int) -> Work:
    """The same network calls as `ours` with the guided decoder, as many items in each, without anything around them."""
    model, clip, vae = engine.model.model, engine.clip, engine.vae.first_stage_model
    decoder = engine.mask_decoder.patcher.model
    pixels, timestep = (photo.movedim(-1, 1) * 2 - 1).to(DEVICE), torch.tensor([999.0], device=DEVICE)

    def run() -> None:
        words = [clip.encode_from_tokens(clip.tokenize(one.wordings[0], disable_weights=True)) for one in prompts(count)]
        image = vae.encode(like(pixels, vae))
        features = decoder.photo_features(like(pixels, decoder))
        x = like(torch.cat([torch.zeros_like(image), image * SCALING_FACTOR], 1), model.diffusion_model)
        for text in like(torch.cat(words)[:, :77], model.diffusion_model).split(engine.sample_chunk(tuple(image.shape[2:]))):
            latents = model.diffusion_model(x.expand(len(text), -1, -1, -1), timestep.expand(len(text)), context=text)
            for latent in latents.split(1):
                decoder(like(latent, decoder), features).sigmoid()

    return run


def like(tensor, module):
    """A tensor on the device and in the precision of a network's weights."""
    weight = next(module.parameters())
    return tensor.to(weight.device, weight.dtype)


def with_default_decoder(checkpoint: Path, target: Path) -> Path:
    """A copy of a checkpoint with a random mask decoder of the default shape."""
    from digseg_nodes.core.checkpoint import open_checkpoint, save_checkpoint
    from digseg_nodes.core.mask_decoder import MaskDecoder

    opened, decoder = open_checkpoint(checkpoint), MaskDecoder()
    parts = {name: opened.state_dict(name) for name in opened.components} | {"mask_decoder": decoder.state_dict()}
    save_checkpoint(target, parts, replace(opened.config, mask_decoder=decoder.config.to_dict()), title="speed")
    return target


def demo_engine(folder: Path):
    """ComfyUI's engine on the demo model with a mask decoder."""
    from benchmarks.load_memory import boot
    from digseg_nodes.core.checkpoint import open_checkpoint

    path = with_default_decoder(MODELS / "digseg-demo.safetensors", folder / "demo.safetensors")
    host, opened = boot([]), open_checkpoint(path)
    return host.HostEngine(host.load_model(opened), host.load_clip(opened), host.load_vae(opened))


def measure_demo(rounds: int) -> dict:
    """Ratios of the demo model."""
    from train.networks.bases import load_networks

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        engine, networks = demo_engine(Path(folder)), on_device(load_networks(MODELS / "digseg-demo.safetensors").eval())
        photo = torch.rand(1, SMALL_SIDE, SMALL_SIDE, 3)
        engine_works = {
            "guided": ours(engine, photo, PROMPTS, "guided"),
            "bare": bare_calls(engine, photo, PROMPTS),
            "vae": ours(engine, photo, PROMPTS, "vae"),
            "many": ours(engine, photo, MANY, "guided"),
            "pipeline": pipeline(networks, photo, PROMPTS),
        }
        t = timed(engine_works, rounds)
    text = f"demo model, {SMALL_SIDE} px, {PROMPTS} prompts, one step, ComfyUI's engine"
    return {
        "overhead_over_bare_calls": ratio(t["guided"], t["bare"], f"{text}: guided over the same network calls alone"),
        "time_64_prompts_over_8_prompts": ratio(t["many"], t["guided"], f"{text}: {MANY} prompts over {PROMPTS}, guided"),
        "pipeline_per_prompt_over_ours_guided_demo": ratio(
            t["pipeline"], t["guided"], f"{text}: a diffusers loop per prompt, {PIPELINE_STEPS} steps, over ours guided"
        ),
        "ours_vae_over_ours_guided_demo": ratio(t["vae"], t["guided"], f"{text}: VAE over guided"),
    }


def sd21_networks():
    """Random networks of Stable Diffusion 2.1's size in fp32 with a mask decoder, as train/ runs them."""
    from digseg_nodes.core.mask_decoder import MaskDecoder
    from train.networks.bases import Networks

    made = make_networks("sd21", SCHEDULERS["v"], SIDE)
    unet, vae, text = (module.float().requires_grad_(False) for module in made[:3])
    decoder = MaskDecoder().eval().requires_grad_(False)
    config = replace(made.config, initial_noise="zero", default_steps=1, mask_decoder=decoder.config.to_dict())
    return on_device(Networks(unet, vae, text, config, decoder).eval())


def on_device(networks):
    """The same networks, moved to DEVICE."""
    for module in filter(None, (networks.unet, networks.vae, networks.text_encoder, networks.mask_decoder)):
        module.to(DEVICE)
    return networks


def measure_sd21(rounds: int) -> dict:
    """Ratios of a model of Stable Diffusion 2.1's size, and of two others that a user may pick instead."""
    from digseg_nodes.core.engine import sampled_at_once_on_cpu
    from train.networks.engine import DiffusersEngine

    networks = sd21_networks()
    latent = SIDE // 8
    at_once = GPU_ITEMS if DEVICE.type == "cuda" else sampled_at_once_on_cpu(latent, latent)
    engine, photo = DiffusersEngine(networks, at_once), torch.rand(1, SIDE, SIDE, 3)
    with torch.inference_mode():
        works = {
            "guided": ours(engine, photo, PROMPTS, "guided"),
            "pipeline, one prompt": pipeline(networks, photo, 1),
            "vae": ours(engine, photo, PROMPTS, "vae"),
            "TAESD, one decode": taesd(),
            "VAE, one decode": lambda: engine.decode(torch.zeros(1, 4, SIDE // 8, SIDE // 8)),
            "CLIPSeg": clipseg(photo),
        }
        t = timed(works, min(rounds, SD21_ROUNDS))
    text = f"Stable Diffusion 2.1's size, random weights, {SIDE} px, {PROMPTS} prompts"
    one = "pipeline, one prompt"
    return {
        "pipeline_per_prompt_over_ours_guided": ratio(
            t[one],
            t["guided"],
            f"{text}: a diffusers loop per prompt, {PIPELINE_STEPS} steps, over ours guided, one step",
            PROMPTS,
        ),
        "ours_vae_over_ours_guided": ratio(t["vae"], t["guided"], f"{text}, one step: VAE over guided"),
        "taesd_decode_over_vae_decode": ratio(
            t["TAESD, one decode"], t["VAE, one decode"], f"one mask at {SIDE} px, random TAESD"
        ),
        "clipseg_over_ours_guided": ratio(t["CLIPSeg"], t["guided"], f"{text}: CLIPSeg (ViT-B/16, 352 px) over ours guided"),
    }


def measure_training() -> dict:
    """A training step of Stable Diffusion 2.1's U-Net, with the mask decoder trained along over without."""
    networks = sd21_networks()
    for module in (networks.unet, networks.mask_decoder):
        module.requires_grad_(True)
    works = {"with": training_step(networks, guided=True), "without": training_step(networks, guided=False)}
    t = timed(works, TRAINING_ROUNDS)
    what = f"one photo of {SIDE} px, forwards and backwards, the optimizer left out: with `mask_decoder: {{}}` over without"
    return {"training_step_with_decoder_over_without": ratio(t["with"], t["without"], what)}


def training_step(networks, guided: bool) -> Work:
    """The end-to-end loss of a batch of one, and its gradients."""
    from train.data.config import DataConfig
    from train.learning.loss import make_loss
    from train.settings.train_config import TrainConfig

    own = {"mask_decoder": {}} if guided else {}
    data = DataConfig(validation=[{"type": "demo"}])  # never opened: the batch is random
    config = TrainConfig(base="base", data=data, output="run", objective="end_to_end", **own)
    loss = make_loss(config, networks.vae, networks.alpha_bar.to(DEVICE), networks.config.prediction_type)
    modules = {"unet": networks.unet, "mask_decoder": networks.mask_decoder}
    batch = random_batch(networks.config.unet["cross_attention_dim"]).to(DEVICE)

    def run() -> None:
        loss(modules, batch).backward()
        for module in modules.values():
            module.zero_grad()

    return run


def random_batch(width: int):
    """An encoded photo of SIDE pixels and its mask, for texts of a width."""
    from train.latents.batches import Batch

    side = SIDE // 8
    image, mask, jitter = torch.randn(3, 1, 4, side, side)
    outline = (torch.rand(1, SIDE, SIDE) > 0.5).float()
    return Batch(
        image=image, mask=mask, noise=torch.zeros_like(mask), text=torch.randn(1, 77, width), timesteps=torch.tensor([999]),
        photo=torch.rand(1, 3, SIDE, SIDE) * 2 - 1, outline=outline, known=torch.ones_like(outline),
        window=(0, 0, side, side), jitter=jitter,
    )  # fmt: skip


def taesd() -> Work:
    """One decode of TAESD's architecture."""
    from diffusers import AutoencoderTiny

    vae, latent = AutoencoderTiny().eval().to(DEVICE), torch.zeros(1, 4, SIDE // 8, SIDE // 8, device=DEVICE)
    return lambda: vae.decode(latent)


def clipseg(photo) -> Work:
    """CLIPSeg's architecture with random weights on the same photo and as many prompts, tokens given."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    model = CLIPSegForImageSegmentation(CLIPSegConfig()).eval().to(DEVICE)
    pixels = torch.nn.functional.interpolate(photo.movedim(-1, 1), size=(352, 352)).expand(PROMPTS, -1, -1, -1).to(DEVICE)
    ids = torch.full((PROMPTS, 77), 49407, device=DEVICE)
    return lambda: model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))


def measure_memory() -> dict:
    """Peak memory of many prompts over one chunk, beside the masks themselves, each in a process of its own."""
    few, many = (in_own_process("--count", str(count)) for count in MEMORY_COUNTS)
    text = (
        f"demo model, photo of {PHOTO[0]} px, guided: what {MEMORY_COUNTS[1]} prompts add at most beside their masks, "
        f"over {MEMORY_COUNTS[0]}, one chunk"
    )
    return {"peak_memory_64_prompts_over_1_chunk": ratio([many["added_mib"]], [few["added_mib"]], text)}


def peak_of(count: int) -> dict:
    """MiB that segmenting `count` prompts adds to this process at most, without the masks it returns."""
    from benchmarks.load_memory import peak_bytes, resident_bytes

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        engine, photo = demo_engine(Path(folder)), torch.rand(1, *PHOTO, 3)
        ours(engine, torch.rand(1, SMALL_SIDE, SMALL_SIDE, 3), 1, "guided")()  # loads what is loaded on first use
        before = resident_bytes()
        masks = ours(engine, photo, count, "guided")().soft
        peak = peak_bytes() - before - masks.numel() * masks.element_size()
    return {"prompts": count, "added_mib": peak / 2**20}


def in_own_process(*arguments: str) -> dict:
    """What this file prints when started with these arguments."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"Measuring {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found = {"system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**found, "torch": torch.__version__, "load_average_at_start": load}


def free_gib() -> float:
    """Memory that is free now."""
    import psutil

    return psutil.virtual_memory().available / 2**30


def main() -> int:
    """Measure and report; ratios are judged by who reads them, so the exit status is 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=("demo", "sd21", "memory"), default=["demo", "sd21", "memory"])
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        print(json.dumps(peak_of(args.count)))
        return 0
    report, ratios = {"machine": machine()}, {}
    if "memory" in args.only:
        ratios |= measure_memory()
    if "demo" in args.only:
        ratios |= measure_demo(args.rounds)
    if "sd21" in args.only and free_gib() >= SD21_GIB:
        ratios |= measure_sd21(args.rounds) | measure_training()
    elif "sd21" in args.only:
        print(f"Left out for want of {SD21_GIB} GiB of free memory: Stable Diffusion 2.1's size", flush=True)
    report["ratios"] = ratios
    print(json.dumps(report, indent=2))
    if args.report:
        args.report.write_text(json.dumps(report, indent=2), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
