"""SD 1.5 and SD 2.1 sized models in ComfyUI against diffusers in fp32: random weights that fp16 files hold exactly, small images.

Compares U-Net, VAE, text encoder, sampling at several step counts, the whole path from image and text to the soft mask,
diffusers' MarigoldDepthPipeline with its empty prompt, every prediction type, every layout of the file, and ComfyUI's own
InstructPixToPix nodes on the converted SD 1.5 file. Errors are the largest absolute differences, relative to the
reference's largest value where that is above 1.

python benchmarks/real_sizes.py --report F [--families sd15 sd21] [--steps 1 4 10 50] [--only parts]    takes about 10 GiB
"""

import argparse
import gc
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks._layouts import LAYOUTS, Networks, make_networks, write_layout  # noqa: E402 (ComfyUI has a package `tests` too)
from digseg_nodes.core.latent_space import LATENT_CHANNELS, PIXELS_PER_LATENT, PROMPT_TOKENS, SCALING_FACTOR  # noqa: E402
from tests.parity.builders import SCHEDULERS, deviation, reference_ddim  # noqa: E402

BOUND = 1e-4
SIZE = 64
LATENT = (1, LATENT_CHANNELS, SIZE // PIXELS_PER_LATENT, SIZE // PIXELS_PER_LATENT)
STEPS = 4
COMPARISONS = ("parts", "pipelines", "types", "layouts")
FAMILIES = {"sd15": "epsilon", "sd21": "v_zero_snr"}
"""Families and the prediction type that most of the comparison runs with."""


@dataclass
class Case:
    """The same random networks as diffusers' modules in fp32 and as the host's MODEL, CLIP and VAE."""

    networks: Networks
    opened: object
    model: object
    host_clip: object
    host_vae: object

    @property
    def scheduler(self) -> dict:
        """The scheduler config of the checkpoint."""
        return self.networks.config.scheduler


def make_case(host, family: str, folder: Path) -> Case:
    """Random networks of one family, saved as a DiGSeg checkpoint and loaded by the host."""
    from digseg_nodes.core.checkpoint import open_checkpoint

    networks = make_networks(family, SCHEDULERS[FAMILIES[family]], SIZE)
    opened = open_checkpoint(write_layout("DiGSeg checkpoint", folder, networks))
    for module in networks[:3]:
        module.float()
    return Case(networks, opened, host.load_model(opened), host.load_clip(opened), host.load_vae(opened))


def compare(host, case: Case, steps: list[int]) -> dict[str, float]:
    """Errors of every part and of the whole path."""
    from digseg_nodes.core.ddim import initial_noise
    from digseg_nodes.core.masks import soft_mask
    from digseg_nodes.core.schedule import ddim_schedule

    pixels = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = [t for t, _ in next(iter(case.host_clip.tokenize("a red (circle)", disable_weights=True).values()))[0]]
    words, image = case.networks.text(torch.tensor([ids]))[0], case.networks.vae.encode(pixels * 2 - 1).latent_dist.mean
    our_words, our_image = host.encode_text(case.host_clip, "a red (circle)"), host.encode_image(case.host_vae, pixels)
    noise = initial_noise(0, 0, tuple(image.shape))
    t = torch.tensor([500.0])
    native = case.model.model.diffusion_model(torch.cat([noise, image * SCALING_FACTOR], 1), t, context=words)
    errors = {
        "text encoder": deviation(our_words, words),
        "VAE encode": deviation(our_image, image),
        "VAE decode": deviation(host.decode(case.host_vae, image), case.networks.vae.decode(image).sample),
        "U-Net": deviation(native, case.networks.unet(torch.cat([image * SCALING_FACTOR, noise], 1), t, words).sample),
    }
    print(errors, flush=True)
    for n in steps:
        ours = host.sample(case.model, our_words, our_image, noise, ddim_schedule(case.scheduler, n))
        reference = reference_ddim(case.networks.unet, words, image * SCALING_FACTOR, noise, case.scheduler, n)
        errors[f"{n} steps"] = deviation(ours * SCALING_FACTOR, reference)
        mask = soft_mask(case.networks.vae.decode(reference / SCALING_FACTOR).sample)
        errors[f"image and text to mask, {n} steps"] = deviation(soft_mask(host.decode(case.host_vae, ours)), mask)
        print(n, "steps", errors[f"{n} steps"], "mask", errors[f"image and text to mask, {n} steps"], flush=True)
    return errors


def against_marigold(host, case: Case) -> float:
    """Error of the mask against MarigoldDepthPipeline on the same networks, its empty prompt of two tokens."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline
    from torchvision.transforms.functional import to_pil_image, to_tensor

    from digseg_nodes.core.ddim import initial_noise
    from digseg_nodes.core.masks import soft_mask
    from digseg_nodes.core.schedule import ddim_schedule
    from train.networks.tokenizer import clip_tokenizer

    unet, vae, text, _ = case.networks
    pipe = MarigoldDepthPipeline(unet, vae, DDIMScheduler.from_config(case.scheduler), text, clip_tokenizer())
    picture = to_pil_image(torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    noise = initial_noise(0, 0, LATENT)
    depth = pipe(
        picture, num_inference_steps=STEPS, ensemble_size=1, processing_resolution=SIZE, latents=noise, output_type="pt"
    ).prediction
    empty = host.encode_text(case.host_clip, "")[:, :2]
    image = host.encode_image(case.host_vae, to_tensor(picture)[None])
    latents = host.sample(case.model, empty, image, noise, ddim_schedule(case.scheduler, STEPS))
    return deviation(soft_mask(host.decode(case.host_vae, latents))[:, None], depth)


def sampling_error(host, unet, opened) -> float:
    """Error of a few DDIM steps of an opened checkpoint's U-Net, loaded anew, with the schedule it says it has."""
    from digseg_nodes.core.schedule import ddim_schedule

    generator = torch.Generator().manual_seed(3)
    image, noise = (torch.randn(LATENT, generator=generator) for _ in range(2))
    words = torch.randn(1, PROMPT_TOKENS, unet.config.cross_attention_dim, generator=generator)
    ours = host.sample(
        host.load_model(opened), words, image / SCALING_FACTOR, noise, ddim_schedule(opened.config.scheduler, STEPS)
    )
    host.mm.unload_all_models()
    gc.collect()
    return deviation(ours * SCALING_FACTOR, reference_ddim(unet, words, image, noise, opened.config.scheduler, STEPS))


def every_prediction_type(host, case: Case) -> dict[str, float]:
    """Errors of the same weights under each scheduler config of SCHEDULERS."""
    configs = {kind: replace(case.opened.config, scheduler=scheduler) for kind, scheduler in SCHEDULERS.items()}
    return {
        f"{kind}, {STEPS} steps": sampling_error(host, case.networks.unet, replace(case.opened, config=config))
        for kind, config in configs.items()
    }


def every_layout(host, case: Case, folder: Path) -> dict[str, float]:
    """Errors of the same weights out of every other layout of the file."""
    from digseg_nodes.core.checkpoint import open_checkpoint

    errors = {}
    for name in list(LAYOUTS)[1:]:
        for module in case.networks[:3]:
            module.half()  # exact: the weights were fp16 to begin with
        path = write_layout(name, Path(tempfile.mkdtemp(dir=folder)), case.networks)
        for module in case.networks[:3]:
            module.float()
        errors[f"{name}, {STEPS} steps"] = sampling_error(host, case.networks.unet, open_checkpoint(path, mask_target="binary"))
        print(name, errors[f"{name}, {STEPS} steps"], flush=True)
        shutil.rmtree(path.parent)
    return errors


def against_instruct_nodes(host, case: Case, folder: Path) -> float:
    """Error of ComfyUI's own loader and InstructPixToPixConditioning on the converted fp32 file against our MODEL."""
    import comfy.sample
    import comfy.samplers
    import comfy.sd
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    from digseg_nodes.core.ddim import initial_noise
    from digseg_nodes.core.schedule import ddim_schedule

    path = write_layout("original names, converted", Path(tempfile.mkdtemp(dir=folder)), case.networks)
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(path))[:3]
    pixels = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    words = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    result = InstructPixToPixConditioning.execute(words, words, pixels, vae)
    positive, negative, empty = getattr(result, "args", result)
    schedule, noise = ddim_schedule(case.scheduler, STEPS), initial_noise(0, 0, LATENT)
    sigmas = torch.cat([schedule.sigmas, schedule.prev_sigmas[-1:]]).float()
    stock = comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        negative,
        empty["samples"],
        disable_pbar=True,
        seed=0,
    )
    stock = stock / (1.0 + float(sigmas[-1]) ** 2) ** 0.5
    image = host.encode_image(case.host_vae, pixels.movedim(-1, 1))
    ours = host.sample(case.model, host.encode_text(case.host_clip, "a red circle"), image, noise, schedule)
    return deviation(stock * SCALING_FACTOR, ours * SCALING_FACTOR)


def main() -> int:
    """Compare, print, report; exit status 1 when an error is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 10, 50])
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), help="leave the others out")
    args = parser.parse_args()
    from benchmarks.load_memory import boot

    host, figures = boot(["cpu"]), {}
    for family in args.families:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            figures[family] = compare_family(host, family, args.steps, Path(folder), args.only)
        print(family, json.dumps(figures[family], indent=2), flush=True)
        host.mm.unload_all_models()
        gc.collect()
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return int(max(error for errors in figures.values() for error in errors.values()) > BOUND)


def compare_family(host, family: str, steps: list[int], folder: Path, chosen: list[str]) -> dict[str, float]:
    """Every chosen error of one family, by what was compared."""
    case, errors = make_case(host, family, folder), {}
    if "parts" in chosen:
        errors |= compare(host, case, steps)
    if "pipelines" in chosen:
        errors[f"MarigoldDepthPipeline, {STEPS} steps"] = against_marigold(host, case)
        if family == "sd15":
            errors[f"InstructPixToPix nodes, {STEPS} steps"] = against_instruct_nodes(host, case, folder)
    case.model = case.host_clip = case.host_vae = None
    if "types" in chosen:
        errors |= every_prediction_type(host, case)
    if "layouts" in chosen:
        errors |= every_layout(host, case, folder)
    return errors


if __name__ == "__main__":
    sys.exit(main())
