"""Masks as models draw them, read again; un-blending white paint on the photo, where thresholding whiteness fails."""

import pytest
import torch

from digseg_nodes.core.mask_targets import MASK_TARGETS, drawn, masks_from_pixels, shows_photo, unblend
from digseg_nodes.core.masks import soft_mask
from digseg_nodes.core.metrics import iou


def scene(seed: int = 0):
    """A bright sky (upper half) over dark ground, and a soft-edged mask across both: image [1,3,64,64], mask [1,64,64]."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.empty(1, 3, 64, 64)
    image[:, :, :32] = torch.tensor([0.82, 0.95, 0.99]).view(1, 3, 1, 1)
    image[:, :, 32:] = torch.tensor([0.25, 0.30, 0.10]).view(1, 3, 1, 1)
    image = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    mask = (13.0 - ((rows - 32) ** 2 + (columns - 30) ** 2).sqrt()).clamp(0, 1)
    return image, mask[None]


def painted(image, mask):
    return ((1 - mask[:, None]) * image + mask[:, None]) * 2 - 1


def test_recovers_the_mask_exactly():
    image, mask = scene()
    assert torch.allclose(unblend(painted(image, mask), image), mask, atol=1e-5)


def test_beats_thresholded_whiteness_on_a_bright_sky():
    """With the error a VAE leaves (standard deviation 0.02) and paint that is not quite opaque."""
    image, mask = scene()
    generator = torch.Generator().manual_seed(1)
    decoded = painted(image, 0.9 * mask) + 0.04 * torch.randn(image.shape, generator=generator)
    truth = mask > 0.5
    whiteness = max(float(iou(soft_mask(decoded) > t, truth)) for t in (0.5, 0.7, 0.8, 0.9, 0.95))
    assert float(iou(unblend(decoded, image) > 0.5, truth)) > 0.95
    assert whiteness < 0.6


@pytest.mark.parametrize("value", [1.0, 0.999])
def test_white_photo_gives_no_mask(value):
    image = torch.full((1, 3, 8, 8), value)
    assert unblend(torch.ones(1, 3, 8, 8), image).max() < 0.05


def test_one_saturated_channel_is_no_obstacle():
    image = torch.tensor([0.4, 0.9, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    mask = torch.full((1, 8, 8), 0.6)
    assert torch.allclose(unblend(painted(image, mask), image), mask, atol=1e-5)


@pytest.mark.parametrize("target", MASK_TARGETS)
def test_what_is_drawn_is_read_again(target):
    image, mask = scene()
    pixels = drawn(mask, image * 2 - 1, target)
    assert pixels.shape == image.shape and pixels.min() >= -1 and pixels.max() <= 1
    assert torch.allclose(masks_from_pixels(pixels, image, target), mask, atol=1e-5)
    other = drawn(mask, image.flip(-1) * 2 - 1, target)
    assert torch.equal(pixels, other) != shows_photo(target)


def test_white_on_black_and_white_on_the_photo():
    image, mask = scene()
    assert torch.equal(drawn(mask, image * 2 - 1, "binary"), mask[:, None].expand(-1, 3, -1, -1) * 2 - 1)
    assert torch.allclose(drawn(mask, image * 2 - 1, "overlay"), painted(image, mask), atol=1e-6)
