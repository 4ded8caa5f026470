"""Validation decodes masks as the checkpoint draws them, white on black or painted on the photo."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from digseg_nodes.core.schedule import ddim_schedule
from train.data.base import Query, Sample
from train.data.build import open_split
from train.data.config import DemoConfig, load_data
from train.data.demo import DemoSource
from train.networks.bases import Networks, encode_pixels, load_networks
from train.scoring.validate import Sampling, answer, ask, decode, encode_image, predict, questions, score_question

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


def drawn(networks: Networks, sample: Sample, question) -> torch.Tensor:
    """The latent of what a perfect model would draw for the only query, fitted like the photo."""
    mask = sample.queries[0].mask[..., None]
    overlay = networks.config.mask_target == "overlay"
    painted = np.where(mask, 255, sample.image if overlay else 0).astype(np.uint8)
    return encode_image(networks, np.broadcast_to(painted, sample.image.shape), question.geometry)[None]


@pytest.mark.parametrize("target", ["binary", "overlay"])
def test_a_perfect_model_scores_well_for_either_target(target):
    networks = load_networks(DEMO)
    networks.config = replace(networks.config, mask_target=target)
    sample = scene()
    question = ask(networks, sample, 128)
    networks.unet = Oracle(drawn(networks, sample, question))
    soft = answer(networks, question, Sampling(steps=1, initial="zero"))
    assert soft.shape == (1, 96, 128)
    (result,) = score_question(question, soft, 0.5)
    assert result.record.iou > 0.93


def test_read_as_black_and_white_a_painted_photo_is_wrong():
    """What the un-blending is for: the sky would count as mask."""
    networks = load_networks(DEMO)
    networks.config = replace(networks.config, mask_target="overlay")
    sample = scene()
    question = ask(networks, sample, 128)
    networks.unet = Oracle(drawn(networks, sample, question))
    networks.config = replace(networks.config, mask_target="binary")
    (result,) = score_question(question, answer(networks, question, Sampling(steps=1, initial="zero")), 0.5)
    assert result.record.iou < 0.5


def test_mirror_is_the_mean_of_both_ways_round():
    networks, sample = load_networks(DEMO), DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0)
    turned = replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]))
    sampling = Sampling(steps=1, initial="zero")
    plain, other = (answer(networks, ask(networks, one, 128), sampling) for one in (sample, turned))
    both = answer(networks, ask(networks, sample, 128), replace(sampling, mirror=True))
    assert (plain - other.flip(-1)).abs().max() > 0.1
    assert torch.allclose(both, (plain + other.flip(-1)) / 2, atol=1e-5)


def test_an_image_is_encoded_as_training_encodes_it():
    networks, sample = load_networks(DEMO), scene()
    question = ask(networks, sample, 128)
    pixels = torch.from_numpy(sample.image.copy()).movedim(-1, 0)[None].float() / 127.5 - 1
    assert torch.allclose(question.latent, encode_pixels(networks.vae, pixels)[0], atol=1e-4)


def test_wordings_of_one_prompt_are_averaged_before_decoding():
    networks, sample = load_networks(DEMO), DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0)
    words = ("the star", "everything blue", "crimson disc")
    question = ask(networks, replace(sample, queries=tuple(Query(word, (word,), None, "absent_random") for word in words)), 128)
    sampling, schedule = Sampling(steps=1, initial="zero"), ddim_schedule(networks.config.scheduler, 1)
    latents = predict(networks, question.latent.expand(3, -1, -1, -1), question.texts, schedule, sampling)
    expected = decode(networks, torch.stack([latents[:2].mean(0), latents[2]])).mean(1) / 2 + 0.5
    found = answer(networks, question, sampling, [2, 1])
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-4)
    assert (found[0] - answer(networks, question, sampling)[0]).abs().max() > 0.1


def test_a_part_of_the_images_is_taken_evenly_where_asked_for(base, data):
    networks, sources = load_networks(base), [source for source, _ in open_split(load_data(data), "test")]
    chosen = {spread: [q.number for q in questions(sources, networks, 64, 2, spread=spread)] for spread in (False, True)}
    kept = {spread: [q.sample.image for q in questions(sources, networks, 64, 2, spread=spread)] for spread in (False, True)}
    every = [q.sample.image for q in questions(sources, networks, 64)]
    assert chosen == {False: [0, 1], True: [0, 1]}
    assert np.array_equal(kept[False][1], every[1])
    assert np.array_equal(kept[True][1], every[2])
