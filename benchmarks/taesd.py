"""TAESD wired as `vae`: whether it opens, and what its masks lose against the VAE's.

python benchmarks/taesd.py [--steps 500] [--scenes 40] --report F

The published TAESD belongs to Stable Diffusion's latents, so one of its architecture (ComfyUI's own class) is trained here for
the bundled demo's VAE, on pictures and masks of scenes that are not scored. It then goes where a user would put it: ComfyUI's VAE
class, the node's `vae`. Mean IoU over all prompts for what is in the scene, one step.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.load_memory import boot  # noqa: E402
from digseg_nodes.core.checkpoint import open_checkpoint  # noqa: E402
from digseg_nodes.core.inference import (  # noqa: E402
    ImageSettings,
    SamplerSettings,
    decode_masks,
    encode_image,
    encode_prompts,
    sample_masks,
    segment,
)
from digseg_nodes.core.latent_space import SCALING_FACTOR  # noqa: E402
from digseg_nodes.core.metrics import iou  # noqa: E402
from digseg_nodes.core.prompts import parse_prompts  # noqa: E402
from train.demo.world import DemoWorld  # noqa: E402

CHECKPOINT = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"
BATCH, CROP, LEARNING_RATE = 8, 64, 5e-4


def pictures(world: DemoWorld, numbers: range) -> torch.Tensor:
    """A crop of the photo and of one mask of each of these scenes, [2N,3,CROP,CROP] in [-1,1]."""
    found = []
    for number in numbers:
        scene, rng = world.sample(number), np.random.default_rng(number)
        top, left = (int(rng.integers(side - CROP + 1)) for side in scene.image.shape[:2])
        mask = torch.from_numpy(scene.masks[rng.choice(sorted(scene.masks))]).float()
        for picture in (torch.from_numpy(scene.image).permute(2, 0, 1) / 255, mask.expand(3, -1, -1)):
            found.append(picture[:, top : top + CROP, left : left + CROP])
    return torch.stack(found) * 2 - 1


def train(vae, steps: int):
    """A TAESD that imitates `vae`: its encoder the latents, its decoder the pictures."""
    from comfy.taesd.taesd import TAESD

    network, world = TAESD(), DemoWorld(steps * BATCH // 2, split="train")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.Conv2d.reset_parameters(module)  # ComfyUI leaves weights as they lie in memory
    network.vae_scale.data.fill_(SCALING_FACTOR)
    trained = [*network.taesd_encoder.parameters(), *network.taesd_decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for step in (bar := tqdm(range(steps))):
        pixels = pictures(world, range(step * BATCH // 2, (step + 1) * BATCH // 2))
        with torch.no_grad():
            latents = vae.encode(pixels)
        loss = (network.decode(latents) - pixels).abs().mean()
        loss = loss + SCALING_FACTOR * (network.encode(pixels) - latents).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(loss):.4f}")
    return network


def opened_by_comfyui(network):
    """The network as ComfyUI's VAE loader gives it to a node."""
    import comfy.sd

    return comfy.sd.VAE(sd={name: tensor.detach().clone() for name, tensor in network.state_dict().items()})


def scores(engines: dict, scenes: int) -> dict[str, float]:
    """Mean IoU of prompts for what is in unseen scenes, by the VAE in use; 'TAESD decodes': after the VAE's encoder."""
    world, found = DemoWorld(scenes, split="test"), {}
    options, settings = SamplerSettings(steps=1), ImageSettings()
    for scene in tqdm(map(world.sample, range(scenes)), total=scenes):
        photo = torch.from_numpy(scene.image)[None].float() / 255
        prompts = parse_prompts("\n".join(scene.masks))
        for name, engine in engines.items():
            for way in ("vae", "guided"):
                soft = segment(engine, photo, prompts, options, settings, decoder=way).soft[0]
                found.setdefault(f"{name}, {way}", []).extend(scored(soft, scene))
        engine = engines["VAE"]
        latents = sample_masks(engine, encode_prompts(engine, prompts), encode_image(engine, photo, settings), options)
        soft = decode_masks(engines["TAESD"], latents, decoder="vae").soft[0]
        found.setdefault("TAESD decodes", []).extend(scored(soft, scene))
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()} | {"prompts": len(found["VAE, vae"])}


def scored(soft: torch.Tensor, scene) -> list[float]:
    """IoU of every soft mask [N,H,W] with the scene's."""
    truths = (torch.from_numpy(mask) for mask in scene.masks.values())
    return [float(iou(one > 0.5, truth)) for one, truth in zip(soft, truths, strict=True)]


def main() -> None:
    """Train, open, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--report", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    host, opened = boot([]), open_checkpoint(CHECKPOINT)
    model, clip, vae = host.load_model(opened), host.load_clip(opened), host.load_vae(opened)
    network = train(vae.first_stage_model, arguments.steps)
    with torch.inference_mode():
        engines = {"VAE": host.HostEngine(model, clip, vae), "TAESD": host.HostEngine(model, clip, opened_by_comfyui(network))}
        found = scores(engines, arguments.scenes)
    arguments.report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
