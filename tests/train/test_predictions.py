"""Validation decodes masks as the checkpoint draws them, white on black or painted on the photo."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.inference import ImageSettings, SamplerSettings, encode_image, encode_prompts, sample_masks
from digseg_nodes.core.prompts import Prompt
from train.data.base import Query, Sample
from train.data.build import open_split
from train.data.config import load_data
from train.data.demo import DemoSource
from train.data.prepare import prepare
from train.data.source_config import DemoConfig
from train.networks.bases import Networks, encode_pixels, load_networks
from train.networks.engine import DiffusersEngine
from train.scoring.predictions import EncodedSample, as_float, encode_sample, encoded_samples, predict, score_sample

DEMO = Path(__file__).resolve().parents[2] / "digseg_nodes/models/digseg-demo.safetensors"


class Oracle(nn.Module):
    """A U-Net that has learnt one image by heart: its v-prediction at t = T-1 gives `clean` [1,4,h,w]."""

    device = torch.device("cpu")

    def __init__(self, clean: torch.Tensor):
        super().__init__()
        self.clean = clean

    def forward(self, x, timestep, encoder_hidden_states, return_dict):
        return (-self.clean.expand(len(x), -1, -1, -1),)


def scene() -> Sample:
    """A sky, brighter than half, over dark ground, and a mask across both; 96 x 128 pixels."""
    image = np.full((96, 128, 3), (120, 170, 240), np.uint8)
    image[48:] = (60, 80, 30)
    mask = np.zeros((96, 128), bool)
    mask[24:72, 32:80] = True
    return Sample(image, (Query("box", ("box",), mask),))


def encoded(networks: Networks, sample: Sample, mirror: bool = False) -> EncodedSample:
    """The sample as a network of 128 pixels is asked about it."""
    return encode_sample(DiffusersEngine(networks), sample, ImageSettings(128, mirror=mirror))


def soft_masks(networks: Networks, sample: Sample, mirror: bool = False) -> torch.Tensor:
    """Masks [K,H,W] of the sample's queries after one step, by the VAE: the demo's guided decoder knows its own photos."""
    one = encoded(networks, sample, mirror)
    return predict(DiffusersEngine(networks), one.image, one.prompts, SamplerSettings(steps=1), decoder="vae")


def drawn(networks: Networks, sample: Sample) -> torch.Tensor:
    """The latent of what a perfect model would draw for the only query, fitted like the photo."""
    mask = sample.queries[0].mask[..., None]
    overlay = networks.config.mask_target == "overlay"
    painted = np.where(mask, 255, sample.image if overlay else 0).astype(np.uint8)
    photo = as_float(np.broadcast_to(painted, sample.image.shape))
    return encode_image(DiffusersEngine(networks), photo, ImageSettings(128)).latents * 0.18215


@pytest.mark.parametrize("target", ["binary", "overlay"])
def test_a_perfect_model_scores_well_for_either_target(target):
    networks = load_networks(DEMO)
    networks.config = replace(networks.config, mask_target=target)
    sample = scene()
    networks.unet = Oracle(drawn(networks, sample))
    soft = soft_masks(networks, sample)
    assert soft.shape == (1, 96, 128)
    (result,) = score_sample(0, sample, soft, 0.5)
    assert result.record.iou > 0.93


def test_read_as_black_and_white_a_painted_photo_is_wrong():
    """What the un-blending is for: the sky would count as mask."""
    networks = load_networks(DEMO)
    networks.config = replace(networks.config, mask_target="overlay")
    sample = scene()
    networks.unet = Oracle(drawn(networks, sample))
    networks.config = replace(networks.config, mask_target="binary")
    (result,) = score_sample(0, sample, soft_masks(networks, sample), 0.5)
    assert result.record.iou < 0.5


def test_a_decoder_of_black_and_white_masks_reads_no_painted_photos():
    assert "mask_decoder" in open_checkpoint(DEMO, mask_target="binary").parts
    other = open_checkpoint(DEMO, mask_target="overlay")
    assert "mask_decoder" not in other.parts and other.config.mask_decoder is None and other.mask_decoder() is None


def test_mirror_is_the_mean_of_both_ways_round():
    networks, sample = load_networks(DEMO), DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0)
    turned = replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]))
    plain, other = (soft_masks(networks, one) for one in (sample, turned))
    both = soft_masks(networks, sample, mirror=True)
    assert (plain - other.flip(-1)).abs().max() > 0.1
    assert torch.allclose(both, (plain + other.flip(-1)) / 2, atol=1e-5)


def test_an_image_is_encoded_as_training_encodes_it():
    networks, sample = load_networks(DEMO), scene()
    latent = encoded(networks, sample).image.latents[0] * 0.18215
    pixels = prepare(sample, networks.config.resolution, networks.config.photo_shape).pixels[None]
    assert torch.allclose(latent, encode_pixels(networks.vae, pixels)[0], atol=1e-4)


def test_wordings_of_one_prompt_are_averaged_before_decoding():
    engine, sample = DiffusersEngine(load_networks(DEMO)), DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0)
    image = encode_image(engine, as_float(sample.image), ImageSettings(128))
    apart = [Prompt(word, (word,)) for word in ("the star", "everything blue", "crimson disc")]
    together = [Prompt("both", ("the star", "everything blue")), apart[2]]
    latents = sample_masks(engine, encode_prompts(engine, apart), image, SamplerSettings())["samples"]
    expected = engine.decode(torch.stack([latents[:2].mean(0), latents[2]])).mean(1) / 2 + 0.5
    found = predict(engine, image, encode_prompts(engine, together), SamplerSettings(), decoder="vae")
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-4)
    alone = predict(engine, image, encode_prompts(engine, apart[:1]), SamplerSettings(), decoder="vae")
    assert (found[0] - alone[0]).abs().max() > 0.1


def test_a_part_of_the_images_is_taken_evenly_where_asked_for(base, data):
    engine, sources = DiffusersEngine(load_networks(base)), [source for source, _ in open_split(load_data(data), "test")]
    chosen = {
        spread: [q.number for q in encoded_samples(sources, engine, ImageSettings(64), 2, spread=spread)]
        for spread in (False, True)
    }
    kept = {
        spread: [q.sample.image for q in encoded_samples(sources, engine, ImageSettings(64), 2, spread=spread)]
        for spread in (False, True)
    }
    every = [q.sample.image for q in encoded_samples(sources, engine, ImageSettings(64))]
    assert chosen == {False: [0, 1], True: [0, 1]}
    assert np.array_equal(kept[False][1], every[1])
    assert np.array_equal(kept[True][1], every[2])
