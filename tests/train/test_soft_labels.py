"""Soft masks: the grey level is what is taught, the half is what is scored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.augment import Augmentation, augment
from train.data.base import DataError, Source
from train.data.build import open_split
from train.data.config import load_data
from train.data.prepare import prepare

SIDE = 64
LEVELS = np.zeros((SIDE, SIDE), np.uint8)
LEVELS[16:48, 16:48] = 102
LEVELS[24:40, 24:40] = 204


def source(root: Path, levels: np.ndarray, kind: str, marks: str = "soft", ignore: int | None = None) -> Source:
    (root / "images").mkdir(exist_ok=True)
    (root / "masks/fur").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(root / "images/a.png")
    Image.fromarray(levels).save(root / "masks/fur/a.png")
    more = "" if ignore is None else f", ignore: {ignore}"
    layout = {
        "folder": "images: images, masks: masks",
        "binary": 'root: ., images: images/*.png, masks: "masks/fur/{1}.png", name: fur',
    }[kind]
    (root / "data.yaml").write_text(f"train: {{type: {kind}, {layout}, marks: {marks}{more}}}", encoding="utf-8")
    return open_split(load_data(root / "data.yaml"), "train")[0][0]


@pytest.mark.parametrize("kind", ["folder", "binary"])
def test_levels_are_weights_and_the_half_is_the_mask(tmp_path, kind):
    (query,) = source(tmp_path, LEVELS, kind).sample(0).queries
    assert np.array_equal(query.mask, LEVELS >= 128)
    assert np.allclose(query.soft, LEVELS / 255, atol=1e-6)
    hard = source(tmp_path, LEVELS, kind, "bright").sample(0).queries[0]
    assert hard.soft is None
    assert np.array_equal(hard.mask, query.mask)


@pytest.mark.parametrize("kind", ["folder", "binary"])
def test_what_is_taught_are_the_levels_at_any_size(tmp_path, kind):
    soft = source(tmp_path, LEVELS, kind)
    for side in (64, 32):
        prepared = prepare(soft.sample(0), side)
        step = SIDE // side
        assert torch.allclose(prepared.soft[0], torch.from_numpy(LEVELS[::step, ::step] / 255).float(), atol=1e-6)
    hard = source(tmp_path, LEVELS, kind, "bright")
    assert set(prepare(hard.sample(0), 64).soft.unique().tolist()) == {0, 1}
    assert soft.identity(0) != hard.identity(0)  # nothing cached may be taken for the other


def test_a_thing_smaller_than_a_pixel_is_not_taught_as_empty(tmp_path):
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[20, 20] = 200
    assert prepare(source(tmp_path, levels, "folder").sample(0), 32).masks[0].sum() == 1


def test_unknown_pixels_have_no_weight(tmp_path):
    levels = LEVELS.copy()
    levels[:8] = 255
    sample = source(tmp_path, levels, "binary", ignore=255).sample(0)
    assert sample.ignore[:8].all()
    assert not sample.queries[0].soft[:8].any()


def test_masks_below_one_half_everywhere_could_mean_two_things(tmp_path):
    with pytest.raises(DataError, match=r"a.png has no weight above 0.40, .*`marks: any`"):
        source(tmp_path, LEVELS // 2, "folder").sample(0)


def test_flips_take_the_weights_along(tmp_path):
    levels = np.where(np.arange(SIDE) < 30, LEVELS, 0).astype(np.uint8)
    sample = source(tmp_path, levels, "folder").sample(0)
    flipped = augment(sample, Augmentation(flip=1, crop=1, colour=0), np.random.default_rng(0))
    assert np.array_equal(flipped.queries[0].soft, sample.queries[0].soft[:, ::-1])
