import inspect
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from digseg_nodes.core.latent_space import (
    LATENT_CHANNELS,
    PIXELS_PER_LATENT,
    PROMPT_TOKENS,
    SCALING_FACTOR,
    segments,
    unet_input_channels,
)
from train.networks.bases import expand_conv_in
from train.networks.single_file import VAE
from train.networks.tokenizer import tokenize

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("digseg_nodes", "train", "tools", "benchmarks")


def test_the_constants_are_those_of_stable_diffusions_own_libraries():
    vae = AutoencoderKL.from_config({**VAE, "block_out_channels": [32, 32, 32, 32]})
    side = 64 // PIXELS_PER_LATENT
    assert vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, LATENT_CHANNELS, side, side)
    assert inspect.signature(AutoencoderKL).parameters["scaling_factor"].default == SCALING_FACTOR
    assert tokenize(["a red circle"]).shape == (1, PROMPT_TOKENS)


@pytest.mark.parametrize("channels", [LATENT_CHANNELS, 16])
def test_a_widened_unet_segments_whatever_its_latents_channels_are(channels):
    small = {"block_out_channels": [32, 32], "cross_attention_dim": 8, "layers_per_block": 1, "attention_head_dim": 4}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "mid_block_type": None}
    unet = UNet2DConditionModel(in_channels=channels, out_channels=channels, **small, **blocks)
    assert not segments(unet.config)
    assert expand_conv_in(unet).config.in_channels == unet_input_channels(channels)
    assert segments(unet.config)


def test_the_scaling_factor_is_written_once():
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    assert [file.name for file in files if str(SCALING_FACTOR) in file.read_text(encoding="utf-8")] == ["latent_space.py"]
