"""Networks in Stable Diffusion's own sizes, and every layout in which files of them are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from digseg_nodes.core.checkpoint import CheckpointConfig, save_checkpoint, write_safetensors
from digseg_nodes.core.latent_space import LATENT_CHANNELS, PROMPT_TOKENS, SEGMENTER_CHANNELS
from digseg_nodes.core.ldm_names import LDM_PREFIX, translate, unet_modules
from tests.parity import builders

TOKENS = {"vocab_size": 49408, "max_position_embeddings": PROMPT_TOKENS, "bos_token_id": 49406, "eos_token_id": 49407}


class Networks(NamedTuple):
    """U-Net, VAE and text encoder as diffusers' and transformers' modules, and the checkpoint config that goes with them."""

    unet: nn.Module
    vae: nn.Module
    text: nn.Module
    config: CheckpointConfig

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """State dicts by the checkpoint format's component names."""
        return {"unet": self.unet.state_dict(), "vae": self.vae.state_dict(), "text_encoder": self.text.state_dict()}


def make_networks(family: str, scheduler: dict, resolution: int) -> Networks:
    """Random fp16 networks of a family of UNETS and TEXTS ("sd15", "sd21"), in seconds."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    modules = [
        builders.fill_quickly(build, seed, torch.float16)
        for seed, build in enumerate(
            (
                lambda: UNet2DConditionModel(sample_size=64, in_channels=SEGMENTER_CHANNELS, **builders.UNETS[family]),
                lambda: AutoencoderKL(latent_channels=LATENT_CHANNELS, sample_size=512, **levels, **builders.VAES["sd"]),
                lambda: CLIPTextModel(CLIPTextConfig(**TOKENS, **builders.TEXTS[family])),
            )
        )
    ]
    return Networks(*modules, builders.config_for(*modules, scheduler, resolution=resolution))


def write_single(path: Path, networks: Networks) -> None:
    """A DiGSeg checkpoint with everything in it."""
    save_checkpoint(path, networks.tensors(), networks.config, title="random")


def write_unet(path: Path, networks: Networks) -> None:
    """A DiGSeg checkpoint of the U-Net alone."""
    config = builders.config_for(networks.unet, scheduler=networks.config.scheduler, resolution=networks.config.resolution)
    save_checkpoint(path, {"unet": networks.unet.state_dict()}, config, title="random")


def write_folder(path: Path, networks: Networks) -> None:
    """A folder as diffusers' MarigoldDepthPipeline saves it: fp16 variant, U-Net and text encoder in several files."""
    from diffusers import DDIMScheduler, MarigoldDepthPipeline

    from train.networks.tokenizer import clip_tokenizer

    unet, vae, text, config = networks
    pipe = MarigoldDepthPipeline(unet, vae, DDIMScheduler.from_config(config.scheduler), text, clip_tokenizer())
    pipe.save_pretrained(path, variant="fp16", max_shard_size="500MB")


def write_converted(path: Path, networks: Networks) -> None:
    """The original Stable Diffusion names with our metadata, as `train/convert.py --to ldm` writes them."""
    from train.networks.layouts import write_ldm

    write_ldm(path, networks.tensors(), networks.config, {})


def write_bare(path: Path, networks: Networks) -> None:
    """The U-Net alone in the original Stable Diffusion names, without any metadata."""
    modules = unet_modules(networks.config.unet)
    write_safetensors(path, {LDM_PREFIX["unet"] + translate(k, modules): v for k, v in networks.unet.state_dict().items()}, {})


LAYOUTS: dict[str, Callable[[Path, Networks], None]] = {
    "DiGSeg checkpoint": write_single,
    "original names, converted": write_converted,
    "Marigold folder, fp16 variant, sharded": write_folder,
    "DiGSeg U-Net alone": write_unet,
    "8-channel U-Net alone, original names, no metadata": write_bare,
}
"""Layouts by name, those with a VAE and a text encoder first."""


def write_layout(name: str, folder: Path, networks: Networks) -> Path:
    """Write one layout of LAYOUTS into `folder` and say where it is."""
    path = folder / ("model" if "folder" in name else "model.safetensors")
    LAYOUTS[name](path, networks)
    return path
