"""Augmentation: aligned with the masks, seeded, keeping an object in view."""

import numpy as np
import pytest

from train.data.augment import Augmentation, augment, crop_box
from train.data.base import Query, Sample


def sample() -> Sample:
    """A photo whose red channel is the mask, so that alignment can be read off."""
    mask = np.zeros((40, 60), bool)
    mask[30:36, 50:56] = True
    image = np.zeros((40, 60, 3), np.uint8)
    image[mask, 0] = 255
    return Sample(image, (Query("a", ("a",), mask), Query("b", ("b",), None, "absent_random")), ~mask)


@pytest.mark.parametrize("seed", range(8))
def test_masks_follow_the_image_and_the_object_stays_in_view(seed):
    settings = Augmentation(variants=1, crop=0.4, colour=0)
    out = augment(sample(), settings, np.random.default_rng(seed))
    present, absent = out.queries
    assert present.mask.any()
    assert np.array_equal(out.image[..., 0] > 127, present.mask)
    assert np.array_equal(out.ignore, ~present.mask)
    assert absent.mask is None


def test_a_crop_keeps_the_shape_of_the_image():
    top, left, height, width = crop_box(sample(), 0.5, np.random.default_rng(0))
    assert height / width == pytest.approx(40 / 60, abs=0.03)
    assert top + height <= 40
    assert left + width <= 60


def test_the_same_seed_gives_the_same_version():
    settings = Augmentation(variants=1)
    first, again, other = (augment(sample(), settings, np.random.default_rng(seed)).image for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
