"""What a mask decoder learns from: predictions as the nodes make them, aligned cuts, a loss that minds unknown pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from digseg_nodes.core.geometry import plan_geometry
from digseg_nodes.core.inference import ImageSettings, SamplerSettings, encode_image, encode_prompts, sample_masks
from digseg_nodes.core.mask_targets import drawn
from digseg_nodes.core.prompts import Prompt
from tests.train.helpers import EPSILON_SCHEDULER, tiny_base
from train.data.augment import repainted
from train.data.base import Query, Sample, Source
from train.data.prepare import prepare
from train.learning.decoder_batches import BatchSettings, DecoderBatches
from train.learning.decoder_pairs import (
    PairSettings,
    chosen_places,
    encode_mask,
    make_pairs,
    pair_path,
    predicted_pair,
    read_pair,
    sampler_plans,
    stored_geometry,
)
from train.learning.mask_loss import mask_loss
from train.networks.bases import encode_pixels, scaling
from train.networks.engine import open_segmenter
from train.scoring.predictions import as_float


class Squares(Source):
    """Photos of `size` with a bright square that the mask covers exactly; the right third of the labels is unknown."""

    def __init__(self, count: int, size: tuple[int, int]):
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def identity(self, index: int) -> str:
        return f"squares/{self.size}/{index}"

    def sample(self, index: int) -> Sample:
        height, width = self.size
        mask = np.zeros(self.size, bool)
        mask[8 + index : height // 2, 4 : width // 2] = True
        image = np.full((height, width, 3), 30, np.uint8)
        image[mask] = 220
        ignore = np.zeros(self.size, bool)
        ignore[:, -width // 3 :] = True
        queries = (Query("square", ("square",), mask), Query("disc", ("disc",), None, "absent_random"))
        return Sample(image, queries, ignore)

    @property
    def class_names(self) -> list[str]:
        return ["square", "disc"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    base = tiny_base(tmp_path_factory.mktemp("model") / "digseg.safetensors", in_channels=8, scheduler=EPSILON_SCHEDULER)
    return open_segmenter(base, device="cpu").engine


def test_predictions_are_those_of_the_inference_loop(engine):
    source, settings = Squares(1, (96, 128)), PairSettings(prompts=2, absent=0.5, variants=2, guide=2)
    pair = predicted_pair(engine, source.sample(0), settings, 0)
    image = encode_image(engine, as_float(source.sample(0).image), ImageSettings())
    asked = encode_prompts(engine, [Prompt(name, (name,)) for name in ("square", "disc")])
    found = {
        tuple(sample_masks(engine, asked, image, plan)["samples"].flatten().tolist()[:4]) for plan in _plans(engine, settings)
    }
    assert {tuple(pair.latents[:, k].flatten().tolist()[:4]) for k in range(2)} == found
    assert pair.latents.shape == (2, 2, *image.latents.shape[1:])
    assert pair.masks[0].any() and not pair.masks[1].any()


@pytest.mark.parametrize("target", ["binary", "overlay"])
def test_the_latent_of_a_true_mask_is_the_one_the_model_was_taught(engine, target):
    sample = Squares(1, (90, 50)).sample(0)  # filled up, and with soft edges at 64 pixels
    networks = replace(engine.networks, config=replace(engine.networks.config, mask_target=target))
    other = replace(engine, networks=networks)
    image = encode_image(other, as_float(sample.image), ImageSettings())
    taught = prepare(sample, 64, networks.config.photo_shape)
    expected = encode_pixels(networks.vae, drawn(taught.soft, taught.pixels[None], target)) / scaling(networks.vae)
    assert torch.allclose(encode_mask(other, image, sample.queries[0], sample), expected, atol=1e-3)


def _plans(engine, settings: PairSettings) -> list[SamplerSettings]:
    """The plans that predicted_pair draws for photo 0 of two queries: after the order and the wordings."""
    rng = np.random.default_rng([settings.seed, 0])
    for count in (1, 1):
        rng.permutation(count)
    for _ in range(2):
        rng.integers(1)
    return sampler_plans(engine, settings.variants, rng.integers(2**31, size=settings.variants))


def test_models_with_noise_are_asked_with_several_noises_and_steps(engine):
    plans = sampler_plans(engine, 3, [5, 6, 7])
    assert [(plan.seed, plan.steps) for plan in plans] == [(5, 10), (6, 5), (7, 10)]


@pytest.mark.parametrize(("size", "cell"), [((64, 64), 8), ((256, 256), 32), ((96, 144), 18), ((512, 512), 32), ((40, 32), 8)])
def test_guide_is_as_large_as_the_photo_up_to_its_limit_and_on_the_latents_grid(size, cell):
    seen = plan_geometry(*size, 64)
    guide = stored_geometry(seen, 4.0)
    assert guide.padded == tuple(side // 8 * cell for side in seen.padded)


def test_files_come_back_as_written_and_are_made_once(engine, tmp_path):
    sources, settings = [(Squares(3, (96, 80)), 1.0)], PairSettings(images=3, prompts=2, absent=0.5, variants=1)
    paths = make_pairs(engine, sources, settings, tmp_path)
    assert len(paths) == 3
    first, written = read_pair(paths[0]), paths[0].stat().st_mtime_ns
    source, index = chosen_places(sources, settings)[0]
    fresh = predicted_pair(engine, source.sample(index), settings, 0)
    for name in ("photo", "masks", "known"):
        assert torch.equal(getattr(first, name), getattr(fresh, name)), name
    assert torch.equal(first.latents, fresh.latents.half().float())
    pair_path(tmp_path, 1).unlink()
    make_pairs(engine, sources, settings, tmp_path)
    assert paths[0].stat().st_mtime_ns == written and paths[1].exists()


def test_cuts_stay_aligned_and_unknown_pixels_do_not_count(engine, tmp_path):
    sources = [(Squares(2, (96, 96)), 0.5), (Squares(2, (256, 256)), 0.5)]
    paths = make_pairs(engine, sources, PairSettings(images=4, prompts=2, absent=0.5, variants=1), tmp_path)
    batches = DecoderBatches(paths, 40, BatchSettings(photos=2, crop=96, masks=4, colour=0.0))
    sizes = set()
    for step in range(40):
        batch = batches[step]
        sizes.add(batch.photo.shape[-1])
        assert batch.photo.shape[-1] * batch.latents.shape[-2] == batch.photo.shape[-2] * batch.latents.shape[-1]
        bright = batch.photo[batch.index].mean(1) > 0
        asked = batch.truth.flatten(1).any(1)
        wrong = (bright != batch.truth.bool())[asked] & (batch.known[asked] > 0)
        assert wrong.sum() <= 0.02 * wrong.numel()
        assert torch.equal(batch.photo, batches[step].photo) and torch.equal(batch.latents, batches[step].latents)
    assert len(sizes) > 2
    assert any(float(batches[step].known.min()) == 0 for step in range(5))


def test_loss_minds_neither_unknown_pixels_nor_their_truth():
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    truth, known = (torch.rand(3, 8, 8) > 0.5).float(), torch.ones(3, 8, 8)
    known[:, :4] = 0
    other = truth.clone()
    other[:, :4] = 1 - other[:, :4]
    assert mask_loss(logits, truth, known) == mask_loss(logits, other, known)
    elsewhere = torch.where(known > 0, logits, -3 * logits)
    assert mask_loss(logits, truth, known) == mask_loss(elsewhere, truth, known)
    assert mask_loss(logits, truth) != mask_loss(logits, other)
    perfect = (truth * 2 - 1) * 30
    assert mask_loss(perfect, truth) < 1e-4 < mask_loss(-perfect, truth)
    assert mask_loss(torch.full((1, 8, 8), -30.0), torch.zeros(1, 8, 8)) < 1e-4


def test_focal_loss_is_the_published_one_and_stays_finite():
    truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    logits = torch.tensor([[[4.0, -1.0, -4.0, 1.0]]])
    assert mask_loss(logits, truth, focal=0.0) == mask_loss(logits, truth)
    p = torch.sigmoid(logits * (truth * 2 - 1))  # what the truth gets
    dice = mask_loss(logits, truth) - torch.mean(-p.log())
    assert torch.allclose(mask_loss(logits, truth, focal=2.0), torch.mean((1 - p) ** 2 * -p.log()) + dice, atol=1e-6)
    certain = torch.full((1, 1, 4), 40.0).mul(truth * 2 - 1).requires_grad_()
    (slope,) = torch.autograd.grad(mask_loss(certain, truth, focal=0.5), certain)
    assert torch.isfinite(slope).all()


def test_repainted_photos_keep_their_range_and_their_edges():
    photo = torch.zeros(3, 8, 8)
    photo[:, :, 4:] = torch.tensor([0.9, 0.2, 0.4]).view(3, 1, 1)
    assert torch.equal(repainted(photo, 0.0, np.random.default_rng(0)).round(decimals=5), photo.round(decimals=5))
    several = [repainted(photo, 0.3, np.random.default_rng(seed)) for seed in range(20)]
    for one in several:
        assert one.min() >= 0 and one.max() <= 1
        assert (one[:, :, 3] != one[:, :, 4]).any() and torch.equal(one[:, :, 0], one[:, :, 3])
    assert len({round(float(one[0, 0, 5]), 3) for one in several}) > 10


def test_some_photos_lose_their_colours_and_some_change_channels():
    photo = torch.tensor([0.8, 0.5, 0.2]).view(3, 1, 1).expand(3, 8, 8)
    several = [repainted(photo, 0.05, np.random.default_rng(seed))[:, 0, 0] for seed in range(300)]
    grey = [one for one in several if one.max() - one.min() < 0.1]
    swapped = [one for one in several if one.max() - one.min() >= 0.1 and one.argsort(descending=True).tolist() != [0, 1, 2]]
    assert 0.05 < len(grey) / 300 < 0.16
    assert 0.1 < len(swapped) / 300 < 0.25  # a sixth of the orders is the old one
