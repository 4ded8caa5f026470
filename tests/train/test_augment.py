"""Augmentation: aligned with the masks, seeded, keeping an object in view."""

from dataclasses import replace

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


def test_crops_lie_inside_keep_the_images_shape_and_are_no_smaller_than_asked_for():
    boxes = [crop_box(sample(), 0.5, np.random.default_rng(seed)) for seed in range(100)]
    for top, left, height, width in boxes:
        assert height / width == pytest.approx(40 / 60, abs=0.03)
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 60 - width
    heights = [height for _, _, height, _ in boxes]
    assert 20 <= min(heights) < 24
    assert 36 < max(heights) <= 40


def test_small_objects_are_cropped_on_more_often_than_their_pixels_would_be():
    large, small = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    large[:, :40], small[18:22, 52:56] = True, True  # 1600 pixels and 16: weights of 1 to 10
    two = Sample(np.zeros((40, 60, 3), np.uint8), (Query("large", ("large",), large), Query("small", ("small",), small)))
    boxes = [crop_box(two, 0.1, np.random.default_rng(seed)) for seed in range(300)]
    boxes = [box for box in boxes if box[3] < 20]  # crops that cannot show both
    seen = [small[top : top + height, left : left + width].any() for top, left, height, width in boxes]
    assert len(seen) > 40
    assert np.mean(seen) > 0.75


def test_colours_move_within_their_bound_and_masks_stay():
    image = np.random.default_rng(0).integers(60, 180, (40, 60, 3)).astype(np.uint8)
    plain = replace(sample(), image=image)
    settings = Augmentation(variants=1, flip=0, crop=1, colour=0.2)
    versions = [augment(plain, settings, np.random.default_rng(seed)) for seed in range(20)]
    means = [version.image.mean() / image.mean() for version in versions]
    assert min(means) < 0.9 < 1.1 < max(means)
    assert all(0.79 < mean < 1.21 for mean in means)
    contrasts = [version.image.std() / version.image.mean() for version in versions]
    assert max(contrasts) > 1.1 * min(contrasts)
    assert all(np.array_equal(version.queries[0].mask, plain.queries[0].mask) for version in versions)
    still = augment(plain, settings.model_copy(update={"colour": 0}), np.random.default_rng(0))
    assert np.array_equal(still.image, image)


def test_the_same_seed_gives_the_same_version():
    settings = Augmentation(variants=1)
    first, again, other = (augment(sample(), settings, np.random.default_rng(seed)).image for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
