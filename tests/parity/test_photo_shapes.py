"""What the trainer encodes of a photo that is not square is what the nodes encode of it, in every shape it may be trained in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from digseg_nodes.core import inference
from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.geometry import PHOTO_SHAPES
from digseg_nodes.core.inference import ImageSettings
from digseg_nodes.core.latent_space import SCALING_FACTOR
from train.data.base import Query, Sample
from train.data.prepare import prepare
from train.demo.world import DemoWorld
from train.networks.bases import encode_pixels, load_networks
from train.networks.engine import DiffusersEngine
from train.scoring.predictions import as_float

DEMO = Path(__file__).resolve().parents[2] / "digseg_nodes/models/digseg-demo.safetensors"
SIZES = [(72, 128), (128, 85), (300, 451), (128, 128), (200, 30)]
BOUND = 1e-4
"""Of the largest number in a latent."""


@pytest.fixture(scope="module")
def trained():
    return load_networks(DEMO).eval()


def photo_of(size: tuple[int, int]) -> np.ndarray:
    coarse = np.random.default_rng(size).integers(0, 256, (size[0] // 10 + 1, size[1] // 10 + 1, 3), np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]


def host_engine(host, shape: str):
    found = open_checkpoint(DEMO)
    found = replace(found, config=replace(found.config, photo_shape=shape))
    return host.HostEngine(host.load_model(found), None, host.load_vae(found))


@pytest.mark.parametrize("shape", PHOTO_SHAPES)
def test_nodes_and_trainer_encode_a_photo_to_equal_latents(host, trained, shape):
    engine = host_engine(host, shape)
    for size in SIZES:
        photo = photo_of(size)
        mask = np.zeros(size, bool)
        mask[: size[0] // 2, : size[1] // 3] = True
        sample = Sample(photo, (Query("corner", ("corner",), mask),))
        taught = prepare(sample, 128, shape)
        with torch.inference_mode():
            asked = inference.encode_image(engine, as_float(photo), ImageSettings())
            learnt = encode_pixels(trained.vae, taught.pixels[None]) / SCALING_FACTOR
        assert asked.geometry.padded == taught.pixels.shape[1:] == taught.masks.shape[1:]
        assert asked.latents.shape == learnt.shape
        assert (asked.latents - learnt).abs().max() <= BOUND * learnt.abs().max()
        assert max(asked.geometry.padded) == 128 and (shape != "square" or asked.geometry.padded == (128, 128))


def test_a_padded_checkpoint_pads_and_a_square_photo_is_the_same_to_the_last_bit(host, trained):
    assert open_checkpoint(DEMO).config.photo_shape == "square"  # bundled before the field was there
    wide = DemoWorld(1, split="test", aspects=["16:9"]).sample(0).image
    square = DemoWorld(1, split="test").sample(0).image
    found = {}
    for shape in ("square", "whole"):
        engine = DiffusersEngine(replace(trained, config=replace(trained.config, photo_shape=shape)))
        with torch.inference_mode():
            found[shape] = [inference.encode_image(engine, as_float(photo), ImageSettings()).latents for photo in (wide, square)]
    assert found["square"][0].shape[2:] == (16, 16) and found["whole"][0].shape[2:] == (9, 16)
    assert torch.equal(found["square"][1], found["whole"][1])


def test_the_way_through_single_nodes_knows_the_shape_by_model_or_vae(host):
    wide = as_float(photo_of((72, 128)))
    for shape, size in (("square", (128, 128)), ("own", (72, 128))):
        full = host_engine(host, shape)
        by_model = replace(full, model=None, vae=full.vae, resolution_from=full.model)
        by_vae = replace(full, model=None)
        for engine in (full, by_model, by_vae):
            assert inference.encode_image(engine, wide, ImageSettings()).geometry.padded == size
