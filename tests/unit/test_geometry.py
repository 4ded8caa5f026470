"""Any image fits the network, and its mask comes back on the right pixels."""

from __future__ import annotations

import pytest
import torch

from digseg_nodes.core.geometry import fit, plan_geometry, unfit

SIZES = [
    (64, 64),
    (65, 97),
    (97, 65),
    (127, 129),
    (128, 128),
    (100, 333),
    (333, 100),
    (255, 511),
    (480, 640),
    (641, 479),
    (512, 512),
    (719, 1281),
    (768, 1024),
    (1000, 1001),
    (64, 2048),
    (1536, 999),
    (2047, 1023),
    (2160, 3840),
    (4096, 64),
    (4096, 4093),
]
RESOLUTIONS = (128, 512)


def box_image(height: int, width: int) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
    """A white box on black, [1,H,W,3], and its edges: top, bottom, left, right."""
    edges = (round(0.21 * height), round(0.63 * height), round(0.34 * width), round(0.87 * width))
    image = torch.zeros(1, height, width, 3)
    image[:, edges[0] : edges[1], edges[2] : edges[3]] = 1
    return image, edges


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_edges_land_on_the_right_pixels(size, resolution):
    image, edges = box_image(*size)
    geometry = plan_geometry(*size, resolution)
    seen = fit(image, geometry)
    assert seen.shape == (1, 3, *geometry.padded)
    mask = unfit(seen.mean(1), geometry) > 0.5
    assert mask.shape == (1, *size)
    found = torch.stack([f for axis in (2, 1) for f in _ends(mask.any(axis)[0])])
    step = max(1.0, max(size) / resolution)  # one pixel of the smaller of the two pictures
    assert (found - torch.tensor(edges)).abs().max() <= step


def _ends(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    where = line.nonzero()[:, 0]
    return where[0], where[-1] + 1


@pytest.mark.parametrize("size", SIZES)
def test_fitted_sides(size):
    geometry = plan_geometry(*size, 512)
    assert max(geometry.resized) == 512
    assert all(
        side % 8 == 0 and side >= 64 and 0 <= side - inner < 64
        for side, inner in zip(geometry.padded, geometry.resized, strict=True)
    )
    aspect = [side / original for side, original in zip(geometry.resized, size, strict=True)]
    assert abs(aspect[0] - aspect[1]) * min(size) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_tiny_images_survive(size):
    geometry = plan_geometry(*size, 128)
    seen = fit(torch.rand(2, *size, 3), geometry)
    assert seen.shape == (2, 3, *geometry.padded) and torch.isfinite(seen).all()
    assert unfit(torch.rand(5, *geometry.padded), geometry).shape == (5, *size)


def test_alpha_is_dropped_and_grey_repeated():
    image = torch.rand(1, 40, 60, 4)
    geometry = plan_geometry(40, 60, 128)
    assert torch.equal(fit(image, geometry), fit(image[..., :3], geometry))
    grey = fit(image[..., :1], geometry)
    assert grey.shape[1] == 3 and torch.equal(grey[:, 0], grey[:, 2])


def test_padding_repeats_the_edge():
    geometry = plan_geometry(30, 100, 100)
    seen = fit(torch.rand(1, 30, 100, 3), geometry)
    assert torch.equal(seen[:, :, 29:30].expand(-1, -1, 34, -1), seen[:, :, 30:])
