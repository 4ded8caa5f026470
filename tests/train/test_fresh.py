"""Training without the latent cache: the same samples as with it, another version of each at every step."""

import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.build import open_split
from train.data.config import load_data
from train.latents.batches import WorkShare
from train.latents.encoder import Encoder
from train.latents.fresh import FreshSamples, encoded
from train.learning.loop import Trainer
from train.learning.run_log import read_log
from train.settings.train_config import load_config

FRESH = "cache_latents=false"


def trainer(config_file, *overrides) -> Trainer:
    return Trainer(load_config(config_file, ["batch_size=6", *overrides]))


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if getattr(a, f.name) is not None)


@pytest.mark.parametrize("target", ["binary", "overlay"])
def test_without_augmentation_it_trains_on_what_the_cache_holds(config_file, target):
    cached, fresh = (trainer(config_file, f"target={target}", *more) for more in ([], [FRESH]))
    (expected,), (found,) = cached.batches[3], fresh.batches[3]
    found = encoded(found, Encoder(fresh.networks.vae), 4)
    for name in ("noise", "text", "timesteps"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    for name in ("image", "mask"):  # the cache rounds to half precision
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=4e-3)


def test_pixel_losses_get_the_drawn_mask(config_file):
    settings = ["objective=end_to_end", "end_to_end.loss=pixel", "resolution=40"]  # masks of 64 pixels get soft edges
    (expected,), (found,) = (trainer(config_file, *settings, *more).batches[1] for more in ([], [FRESH]))
    assert torch.equal(found.truth, expected.truth)
    assert found.truth.unique().tolist() == [0, 1]
    assert ((found.drawn > -1) & (found.drawn < 1)).any(), "what is encoded has them"


def test_every_step_sees_another_version_and_every_run_the_same(config_file):
    first, again = (trainer(config_file, FRESH, "augment.variants=1", "augment.crop=0.3") for _ in range(2))
    (one,), (repeated,) = first.batches[0], again.batches[0]
    assert same(one, repeated)
    table, (at, _) = first.batches.sampler.table, first.batches.sampler.draw(0, 6)
    versions = [first.batches._load(*first.batches._sample(step, 0, int(at[0])))[0] for step in range(4)]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(versions))
    present = torch.from_numpy(table.rows["absent"][at] == 0)
    assert ((one.drawn == 1).all(1).flatten(1).any(1) == present).all()  # what is asked for stays in view


def test_a_sample_does_not_depend_on_the_number_of_processes(config_file):
    whole = trainer(config_file, FRESH, "augment.variants=1", "batch_size=4").batches
    (expected,) = whole[2]
    for rank in (0, 1):
        whole.share = WorkShare(size=1, accumulation=2, processes=2, rank=rank)
        for micro, part in enumerate(whole[2]):
            one = slice(2 * micro + rank, 2 * micro + rank + 1)
            assert same(part, expected._map(lambda tensor, one=one: tensor[one]))


def test_worker_processes_change_nothing(config_file):
    losses = []
    for workers in (0, 2):
        run = f"output={config_file.parent / f'run-{workers}'}"
        one = trainer(config_file, FRESH, "augment.variants=1", "steps=2", "batch_size=2", f"workers={workers}", run)
        one.run()
        losses.append(read_log(one.log.path, timing=False))
    assert losses[0] == losses[1]


def test_unlabelled_pixels_leave_the_loss(config_file, data, tmp_path):
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    labels = np.full((64, 64), 255, np.uint8)
    labels[:, 32:] = np.arange(64)[:, None] // 32
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels/a.png")
    text = 'train: {type: index, root: ., images: "*.png", masks: "labels/{1}.png", classes: {ground: 1}, ignore: [255]}\n'
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    for more in ([], [FRESH]):
        (batch,) = trainer(config_file, f"data={tmp_path / 'data.yaml'}", "batch_size=2", *more).batches[0]
        assert batch.valid.shape == (2, 1, 8, 8)
        assert not batch.valid[..., :4].any()
        assert batch.valid[..., 4:].all()


def test_what_can_be_asked_is_read_once(tmp_path, data, monkeypatch):
    (source, _) = open_split(load_data(data), "train")[0]
    first = FreshSamples(tmp_path, 64).add(source)
    with (tmp_path / "queries.jsonl").open("ab") as file:
        file.write(b'{"id": "half')  # a killed writer
    monkeypatch.setattr(type(source), "sample", None)
    assert FreshSamples(tmp_path, 64).add(source) == first
    assert [query.name for query in first[0].queries] == ["box", "disc"]
    assert first[1] == FreshSamples(tmp_path, 64).entries[source.identity(1)]
