"""diffusers' networks as the engine of the inference loop (core/inference.py): what validation, evaluate and predict run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digseg_nodes.core.checkpoint import CheckpointConfig
from digseg_nodes.core.ddim import ddim_sample, predict_x0
from digseg_nodes.core.engine import OnStep, Progress
from digseg_nodes.core.mask_decoder import MaskDecoder
from digseg_nodes.core.preview import probe_latents
from digseg_nodes.core.schedule import DDIMSchedule
from digseg_nodes.core.segmenter import Segmenter
from train.networks.bases import Networks, call_unet, decode_latents, encode_pixels, load_networks, scaling
from train.networks.lora import merge_lora
from train.networks.text_encoding import encode_texts

DECODED_PIXELS = 2**18


@dataclass(frozen=True)
class DiffusersEngine:
    """The Engine of core/engine.py on these networks; batch_size: masks in one U-Net call."""

    networks: Networks
    batch_size: int = 32

    @property
    def config(self) -> CheckpointConfig:
        """The networks' own."""
        return self.networks.config

    @property
    def resolution(self) -> int:
        """The checkpoint's."""
        return self.config.resolution

    @property
    def photo_shape(self) -> str:
        """The checkpoint's."""
        return self.config.photo_shape

    @property
    def mask_decoder(self) -> "ModuleDecoder | None":
        """The networks' own."""
        decoder = self.networks.mask_decoder
        return None if decoder is None else ModuleDecoder(decoder)

    def check_vae(self) -> None:
        """Networks always come with their VAE."""

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts → [N,77,D] float32 on the CPU."""
        return encode_texts(self.networks.text_encoder, texts).float().cpu()

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """[N,3,H,W] in [0,1] → unscaled latents [N,4,H/8,W/8]."""
        vae = self.networks.vae
        return (encode_pixels(vae, pixels.to(vae.device) * 2 - 1) / scaling(vae)).float().cpu()

    def preview_probe(self) -> Tensor:
        """Encoded anew every time; nothing here draws previews."""
        return probe_latents(self.encode_pixels)

    @torch.no_grad()
    def sample(
        self, text: Tensor, image: Tensor, noise: Tensor, schedule: DDIMSchedule, on_step: OnStep, sampler: Any = None
    ) -> Tensor:
        """Exact DDIM; there are no other samplers here."""
        if sampler is not None:
            raise ValueError("A ComfyUI sampler cannot run outside of ComfyUI; leave `sampler` out.")
        scale, device = scaling(self.networks.vae), self.networks.unet.device
        text, image, noise = text.to(device), image.to(device) * scale, noise.to(device)
        denoise = _denoiser(self.networks, image, text, schedule)
        return ddim_sample(denoise, noise, schedule, lambda i, x0, _x: on_step(i, x0 / scale)) / scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents [N,4,h,w] → [N,3,8h,8w] on the CPU."""
        vae = self.networks.vae
        return decode_latents(vae, latents.to(vae.device) * scaling(vae)).float().cpu()

    def sample_chunk(self, _latent_size: tuple[int, int]) -> int:
        """As configured."""
        return self.batch_size

    def decode_chunk(self, latent_size: tuple[int, int]) -> int:
        """As many as make DECODED_PIXELS, or one."""
        return decoded_at_once(*latent_size)

    def is_out_of_memory(self, error: Exception) -> bool:
        """What PyTorch raises on any accelerator."""
        return isinstance(error, torch.OutOfMemoryError)

    def release_memory(self) -> None:
        """Give the accelerator's cached memory back."""
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def progress(self, total: int) -> Progress:
        """Commands show their own bars, image by image."""
        return Progress(total)


@dataclass(frozen=True)
class ModuleDecoder:
    """The GuidedDecoder of core/engine.py on a network where it lies."""

    network: MaskDecoder

    @property
    def guide(self) -> float:
        """As trained."""
        return self.network.config.guide

    @torch.no_grad()
    def photo_features(self, photo: Tensor) -> list[Tensor]:
        """[1,3,H,W] in [-1,1] → features on the network's device."""
        return self.network.photo_features(photo.to(next(self.network.parameters()).device))

    @torch.no_grad()
    def logits(self, latents: Tensor, features: list[Tensor]) -> Tensor:
        """Unscaled latents [N,4,h,w] → [N,H,W] on the CPU."""
        return self.network(latents.to(features[0].device), features).float().cpu()

    def chunk(self, guide_size: tuple[int, int]) -> int:
        """As many as make DECODED_PIXELS, or one."""
        return max(1, DECODED_PIXELS // (guide_size[0] * guide_size[1]))


def decoded_at_once(height: int, width: int) -> int:
    """How many latents of [4,height,width] the VAE decodes at a time."""
    return max(1, DECODED_PIXELS // (64 * height * width))


def _denoiser(networks: Networks, image: Tensor, text: Tensor, schedule: DDIMSchedule):
    """The function of `ddim_sample` for scaled image latents [N,4,h,w] and texts [N,77,D]; good for one pass."""
    timesteps = iter(schedule.timesteps)

    def denoise(x_ve: Tensor, sigma: float) -> Tensor:
        alpha_bar = 1 / (1 + sigma**2)
        x = x_ve * alpha_bar**0.5
        timestep = torch.full((len(image),), next(timesteps), device=image.device)
        output = call_unet(networks.unet, image, x, timestep, text)
        return predict_x0(output.float(), x, alpha_bar, networks.config.prediction_type)

    return denoise


def open_segmenter(
    checkpoint: Path,
    components: Path | None = None,
    lora: Path | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
) -> Segmenter:
    """A DiGSeg checkpoint (file or diffusers folder) ready to be shown photos.

    components: a checkpoint with VAE and text encoder, for a U-Net-only file. lora: a LoRA file to add. device: None takes
    this machine's accelerator, or the CPU. Raises CheckpointError for files that cannot be used.
    """
    networks = load_networks(checkpoint, components)
    if lora:
        networks.mask_decoder = merge_lora(networks.unet, lora) or networks.mask_decoder
    return Segmenter(DiffusersEngine(networks.to(device).eval(), batch_size))
