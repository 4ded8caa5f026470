"""The front door for Python users: one photo, many questions, the masks of the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch

from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from train.data.demo import DemoSource
from train.data.source_config import DemoConfig
from train.networks.engine import open_segmenter
from train.scoring.predictions import encode_sample, predict

DEMO = Path(__file__).resolve().parents[2] / "digseg_nodes/models/digseg-demo.safetensors"


@pytest.fixture(scope="module")
def sample():
    return DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0)


def test_masks_are_those_of_the_evaluation(sample):
    segmenter = open_segmenter(DEMO, device="cpu")
    segmenter.set_image(sample.image)
    names = list(dict.fromkeys(query.prompts[0] for query in sample.queries))
    found = segmenter.predict("\n".join(names))
    assert found.names == tuple(names) and found.soft.shape == (1, len(names), 128, 128)
    one = encode_sample(segmenter.engine, sample, ImageSettings())
    expected = predict(segmenter.engine, one.image, one.prompts, SamplerSettings())
    position = [query.prompts[0] for query in sample.queries].index(names[0])
    assert torch.allclose(found.soft[0, 0], expected[position], atol=1e-5)


def test_a_photo_is_encoded_once_and_a_text_once(sample, monkeypatch):
    segmenter, calls = open_segmenter(DEMO, device="cpu"), {"pixels": 0, "texts": 0}
    engine = type(segmenter.engine)
    pixels, texts = engine.encode_pixels, engine.encode_texts
    monkeypatch.setattr(engine, "encode_pixels", lambda *a: calls.update(pixels=calls["pixels"] + 1) or pixels(*a))
    monkeypatch.setattr(engine, "encode_texts", lambda *a: calls.update(texts=calls["texts"] + 1) or texts(*a))
    segmenter.set_image(sample.image)
    first, again = segmenter.predict("red circle"), segmenter.predict("blue star\nred circle")
    assert torch.allclose(first.soft[:, 0], again.soft[:, 1], atol=1e-5)
    assert calls == {"pixels": 1, "texts": 2}


def test_bytes_floats_grey_and_alpha_are_the_same_photo(sample):
    segmenter, rgba = open_segmenter(DEMO, device="cpu"), np.dstack([sample.image, np.zeros((128, 128), np.uint8)])
    latents = []
    for image in (sample.image, sample.image.astype(np.float32) / 255, rgba, torch.from_numpy(sample.image.copy())[None]):
        segmenter.set_image(image)
        latents.append(segmenter.image.latents)
    assert all(torch.allclose(latents[0], other, atol=1e-4) for other in latents[1:])
    grey = []
    for image in (sample.image[..., 0], np.repeat(sample.image[..., :1], 3, axis=2)):
        segmenter.set_image(image)
        grey.append(segmenter.image)
    assert grey[0].image.shape == (1, 128, 128, 3) and torch.equal(grey[0].image, grey[1].image)
    assert torch.allclose(grey[0].latents, grey[1].latents, atol=1e-4)


def test_asking_before_a_photo_is_set_says_so():
    with pytest.raises(RuntimeError, match="call set_image first"):
        open_segmenter(DEMO, device="cpu").predict("red circle")
