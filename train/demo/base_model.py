"""Stage 3 of the demo stack: the text-to-image U-Net, with v-prediction and a zero-terminal-SNR schedule, on cached latents.

The latents come from the cache that ``train/finetune.py`` fills and reads too, so every scene is encoded once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPTextModel

from digseg_nodes.core.checkpoint import CheckpointConfig, save_checkpoint
from digseg_nodes.core.ddim import ddim_sample, initial_noise, predict_x0
from digseg_nodes.core.latent_space import LATENT_CHANNELS
from digseg_nodes.core.schedule import STABLE_DIFFUSION, alphas_cumprod, ddim_schedule
from train.data.demo import DemoSource
from train.data.source_config import DemoConfig
from train.demo.runtime import EMA, Clock, train_stage
from train.demo.scene_cache import SceneCache
from train.latents.latent_cache import LatentCache
from train.latents.row_store import digest
from train.networks.bases import decode_latents, plain_config
from train.networks.text_encoding import TextCache, encode_texts

SCHEDULER = {**STABLE_DIFFUSION, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
UNET = {
    "sample_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
UNCAPTIONED = 0.1


def frozen_parts(out: Path) -> tuple[AutoencoderKL, CLIPTextModel]:
    """The stages before this one, rounded to float16 as they are shipped, in float32."""
    parts = (
        AutoencoderKL.from_pretrained(out / "vae", local_files_only=True),
        CLIPTextModel.from_pretrained(out / "text_encoder", local_files_only=True),
    )
    return tuple(part.half().float().eval().requires_grad_(False) for part in parts)


def source(scenes: dict, limit: int | None) -> DemoSource:
    """The stack's scenes as the fine-tuning sees them."""
    return DemoSource(DemoConfig(type="demo", split="train", scenes=scenes["count"], seed=scenes["seed"], limit=limit))


def encode_scenes(out: Path, cache: Path, scenes: dict, limit: int) -> int:
    """Fill the latent cache with the first ``limit`` scenes and all their masks; returns the number of masks."""
    vae = frozen_parts(out)[0].to(memory_format=torch.channels_last)
    latents = LatentCache(cache, vae, 128, batch=2)  # two pictures at once are fastest on one core
    latents.add(source(scenes, limit))
    return len(latents.stores((128, 128)).masks)


class Latents:
    """Latents and encoded captions of the scenes that are in the cache so far."""

    def __init__(self, out: Path, cache: Path, scenes: dict):
        self.vae, self.encoder = frozen_parts(out)
        self.source = source(scenes, None)
        self.captions = SceneCache(out / "scenes").captions
        self.latents, self.texts = LatentCache(cache, self.vae, 128).stores((128, 128)), TextCache(cache, self.encoder)
        self.none = encode_texts(self.encoder, [""])[0]
        self.refresh()

    def refresh(self) -> None:
        self.latents.images.refresh()
        index = self.latents.images.index
        keys = [(i, digest(self.source.identity(i))) for i in range(len(self.source))]
        present = [(i, index[key]) for i, key in keys if key in index]
        self.rows = np.array([row for _, row in present])
        self.words = np.array(self.texts.row_numbers([self.captions[i] for i, _ in present]))
        self.images, self.states = self.latents.images.rows(), self.texts.store.rows()

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [count, 4, 16, 16] and text states [count, 77, width]; every tenth text is empty."""
        pick = rng.integers(len(self.rows), size=count)
        states = self.states.read(self.words[pick]).float()
        states[torch.from_numpy(rng.random(count) < UNCAPTIONED)] = self.none
        return self.images.read(self.rows[pick]).float(), states


def build(config: dict, width: int) -> UNet2DConditionModel:
    """``config``: block_out_channels, layers_per_block, attention_head_dim (the number of heads)."""
    return UNet2DConditionModel(**UNET, **config, cross_attention_dim=width)


def velocity_loss(unet, latents: torch.Tensor, states: torch.Tensor, alpha_bar: torch.Tensor, generator) -> torch.Tensor:
    """MSE of v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) latent at uniform timesteps, quarter strata per batch."""
    count = len(latents)
    t = ((torch.arange(count) + torch.rand(count, generator=generator)) / count * len(alpha_bar)).long()
    noise = torch.randn(latents.shape, generator=generator)
    signal, spread = (a.sqrt().view(-1, 1, 1, 1) for a in (alpha_bar[t], 1 - alpha_bar[t]))
    noisy = (signal * latents + spread * noise).contiguous(memory_format=torch.channels_last)
    return F.mse_loss(unet(noisy, t, states).sample, signal * noise - spread * latents)


def train(
    out: Path,
    cache: Path,
    scenes: dict,
    unet_config: dict,
    *,
    seconds: float | None,
    steps: int | None = None,
    seed: int = 0,
    size: int = 16,
) -> UNet2DConditionModel:
    """Train to the end of the budget (resuming) and return the averaged U-Net."""
    torch.manual_seed(seed)
    data = Latents(out, cache, scenes)
    unet = build(unet_config, data.encoder.config.hidden_size).to(memory_format=torch.channels_last)
    alpha_bar = alphas_cumprod(SCHEDULER).float()
    clock, calls = Clock(seconds, steps), 0

    def loss_of(generator: torch.Generator, progress: float) -> tuple[torch.Tensor, str]:
        nonlocal calls
        calls += 1
        if calls % 100 == 0:
            data.refresh()
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        loss = velocity_loss(unet, *data.draw(rng, size), alpha_bar, generator)
        return loss, f"loss {loss.item():.4f} scenes {len(data.rows)}"

    ema: EMA = train_stage("base", out, clock, unet, loss_of, peak=1e-3, decay=0.998, seed=seed)
    return ema.module


@torch.no_grad()
def sample(unet, vae, encoder, prompts: list[str], *, steps: int = 25, guidance: float = 3.0, seed: int = 0) -> torch.Tensor:
    """Pictures float32 [N, 3, 128, 128] in [-1, 1] for prompts, by DDIM with classifier-free guidance."""
    states = torch.cat([encode_texts(encoder, prompts), encode_texts(encoder, [""] * len(prompts))])
    schedule = ddim_schedule(SCHEDULER, steps)
    times = iter(schedule.timesteps)
    shape = (1, LATENT_CHANNELS, UNET["sample_size"], UNET["sample_size"])
    noise = torch.cat([initial_noise(seed, i, shape) for i in range(len(prompts))])

    def denoise(x_ve: torch.Tensor, sigma) -> torch.Tensor:
        alpha_bar = 1 / (1 + float(sigma) ** 2)
        x_vp = (x_ve * alpha_bar**0.5).float()
        t = torch.full((2 * len(prompts),), int(next(times)))
        v = unet(torch.cat([x_vp, x_vp]), t, states).sample
        with_text, without = v.chunk(2)
        return predict_x0(without + guidance * (with_text - without), x_vp, alpha_bar, "v_prediction")

    return decode_latents(vae, ddim_sample(denoise, noise, schedule).float())


PROMPTS = (
    "a red circle and a blue star on grass",
    "a yellow heart on a photo of a cat",
    "a green triangle, a purple ring and a pink cross on wood",
    "a cyan crescent and an orange star on a brick wall",
    "a blue square on a plain wall",
    "a red heart and a green cross on tiles",
    "an orange ring on a photo of coffee",
    "a purple triangle and a yellow star on gravel",
)


def sample_sheet(out: Path, path: Path) -> None:
    """A PNG with one picture per line of PROMPTS, four in a row."""
    unet = UNet2DConditionModel.from_pretrained(out / "unet", local_files_only=True).eval()
    pictures = sample(unet, *frozen_parts(out), list(PROMPTS)).clamp(-1, 1)
    rows = [torch.cat(list(row), 2) for row in pictures.split(4)]
    Image.fromarray(((torch.cat(rows, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(path)


def export(out: Path, path: Path) -> None:
    """Write the base as one fp16 file of the pack's format, with VAE and text encoder."""
    unet = UNet2DConditionModel.from_pretrained(out / "unet", local_files_only=True)
    vae, encoder = frozen_parts(out)
    config = CheckpointConfig(
        unet=plain_config(unet),
        vae=plain_config(vae),
        text_encoder=encoder.config.to_dict(),
        scheduler=SCHEDULER,
        default_steps=25,
        resolution=128,
        base_model="digseg-demo-base",
    )
    components = {"unet": unet, "vae": vae, "text_encoder": encoder}
    tensors = {name: {k: v.half() for k, v in part.state_dict().items()} for name, part in components.items()}
    save_checkpoint(
        path,
        tensors,
        config,
        title="DiGSeg demo base",
        description="Tiny text-to-image model of the demo world, trained from nothing by train/demo/make_stack.py",
        license="GPL-3.0-or-later",
    )
