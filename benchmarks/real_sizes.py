"""SD 1.5 and SD 2.1 sized models in ComfyUI against diffusers, fp32, random weights, small images.

Compares U-Net, VAE, text encoder, sampling at several step counts, the whole path from image and text to the soft mask,
diffusers' MarigoldDepthPipeline with its empty prompt, and ComfyUI's own InstructPixToPix nodes on the converted SD 1.5
file. Errors are the largest absolute differences, relative to the reference's largest value where that is above 1.

python benchmarks/real_sizes.py --report F [--families sd15 sd21] [--steps 1 4 10 50]     needs about 9 GiB of memory
"""

import argparse
import gc
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.parity import builders  # noqa: E402 (before ComfyUI, which has a package `tests` of its own)
from tests.parity.builders import deviation, reference_ddim  # noqa: E402

SCALE = 0.18215
BOUND = 1e-4
SIZE = 64
FAMILIES = {"sd15": ("epsilon", "sd15"), "sd21": ("v_zero_snr", "sd21")}


@dataclass
class Case:
    """The same random networks as diffusers' modules and as the host's MODEL, CLIP and VAE."""

    unet: torch.nn.Module
    vae: torch.nn.Module
    text: torch.nn.Module
    scheduler: dict
    opened: object
    model: object
    host_clip: object
    host_vae: object


def make_case(host, family: str, folder: Path) -> Case:
    """Random networks of one family, saved as a DiGSeg checkpoint and loaded by the host."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    kind, layout = FAMILIES[family]
    tokens = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
    unet = builders.fill_quickly(lambda: UNet2DConditionModel(sample_size=64, in_channels=8, **builders.UNETS[layout]), 0)
    text = builders.fill_quickly(lambda: CLIPTextModel(CLIPTextConfig(**tokens, **builders.TEXTS[layout])), 2)
    vae, scheduler = builders.make_vae("sd"), builders.SCHEDULERS[kind]
    opened = builders.write_checkpoint(folder / f"{family}.safetensors", unet, vae, text, scheduler, resolution=SIZE)
    return Case(unet, vae, text, scheduler, opened, host.load_model(opened), host.load_clip(opened),
                host.load_vae(opened))


def compare(host, case: Case, steps: list[int]) -> dict[str, float]:
    """Errors of every part and of the whole path."""
    from digseg_nodes.core.ddim import initial_noise
    from digseg_nodes.core.masks import soft_mask
    from digseg_nodes.core.schedule import ddim_schedule

    pixels = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = [t for t, _ in next(iter(case.host_clip.tokenize("a red (circle)", disable_weights=True).values()))[0]]
    words, image = case.text(torch.tensor([ids]))[0], case.vae.encode(pixels * 2 - 1).latent_dist.mean
    our_words, our_image = host.encode_text(case.host_clip, "a red (circle)"), host.encode_image(case.host_vae, pixels)
    noise = initial_noise(0, 0, tuple(image.shape))
    t = torch.tensor([500.0])
    native = case.model.model.diffusion_model(torch.cat([noise, image * SCALE], 1), t, context=words)
    errors = {"text encoder": deviation(our_words, words), "VAE encode": deviation(our_image, image),
              "VAE decode": deviation(host.decode(case.host_vae, image), case.vae.decode(image).sample),
              "U-Net": deviation(native, case.unet(torch.cat([image * SCALE, noise], 1), t, words).sample)}
    print(errors, flush=True)
    for n in steps:
        ours = host.sample(case.model, our_words, our_image, noise, ddim_schedule(case.scheduler, n))
        reference = reference_ddim(case.unet, words, image * SCALE, noise, case.scheduler, n)
        errors[f"{n} steps"] = deviation(ours * SCALE, reference)
        mask = soft_mask(case.vae.decode(reference / SCALE).sample)
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
    from train.tokenizer import clip_tokenizer

    pipe = MarigoldDepthPipeline(case.unet, case.vae, DDIMScheduler.from_config(case.scheduler), case.text, clip_tokenizer())
    picture = to_pil_image(torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    noise = initial_noise(0, 0, (1, 4, SIZE // 8, SIZE // 8))
    depth = pipe(picture, num_inference_steps=4, ensemble_size=1, processing_resolution=SIZE, latents=noise,
                 output_type="pt").prediction
    empty = host.encode_text(case.host_clip, "")[:, :2]
    image = host.encode_image(case.host_vae, to_tensor(picture)[None])
    latents = host.sample(case.model, empty, image, noise, ddim_schedule(case.scheduler, 4))
    return deviation(soft_mask(host.decode(case.host_vae, latents))[:, None], depth)


def against_instruct_nodes(host, case: Case, folder: Path) -> float:
    """Error of ComfyUI's own loader and InstructPixToPixConditioning on the converted file against our MODEL."""
    import comfy.sample
    import comfy.samplers
    import comfy.sd
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    from digseg_nodes.core.ddim import initial_noise
    from digseg_nodes.core.schedule import ddim_schedule
    from train.layouts import write_ldm

    parts = {c: case.opened.state_dict(c) for c in case.opened.components}
    write_ldm(folder / "instruct.safetensors", parts, case.opened.config, {})
    del parts
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(folder / "instruct.safetensors"))[:3]
    pixels = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(2))
    words = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    result = InstructPixToPixConditioning.execute(words, words, pixels, vae)
    positive, negative, empty = getattr(result, "args", result)
    schedule, noise = ddim_schedule(case.scheduler, 4), initial_noise(0, 0, (1, 4, SIZE // 8, SIZE // 8))
    sigmas = torch.cat([schedule.sigmas, schedule.prev_sigmas[-1:]]).float()
    stock = comfy.sample.sample_custom(model, noise, 1.0, comfy.samplers.sampler_object("euler"), sigmas, positive, negative,
                                       empty["samples"], disable_pbar=True, seed=0)
    stock = stock / (1.0 + float(sigmas[-1]) ** 2) ** 0.5
    image = host.encode_image(case.host_vae, pixels.movedim(-1, 1))
    ours = host.sample(case.model, host.encode_text(case.host_clip, "a red circle"), image, noise, schedule)
    return deviation(stock * SCALE, ours * SCALE)


def main() -> int:
    """Compare, print, report; exit status 1 when an error is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 10, 50])
    args = parser.parse_args()
    from benchmarks.load_memory import boot

    host, figures = boot(["cpu"]), {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for family in args.families:
            case = make_case(host, family, Path(folder))
            errors = compare(host, case, args.steps)
            errors["MarigoldDepthPipeline, 4 steps"] = against_marigold(host, case)
            if family == "sd15":
                case.unet = None
                errors["InstructPixToPix nodes, 4 steps"] = against_instruct_nodes(host, case, Path(folder))
            figures[family] = errors
            print(family, json.dumps(errors, indent=2), flush=True)
            del case
            host.mm.unload_all_models()
            gc.collect()
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")
    return int(max(error for errors in figures.values() for error in errors.values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
