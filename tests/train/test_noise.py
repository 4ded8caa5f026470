"""Annealed multi-scale noise: unit variance per sample, low frequencies only at large t (paper section 3.6)."""

from itertools import pairwise

import torch
import torch.nn.functional as F

from train.learning.noise import annealed_strength, multi_scale_noise, pyramid_shapes


def noise_at(timestep: int, count: int = 64) -> torch.Tensor:
    strength = annealed_strength(torch.full((count,), timestep), 0.9, 1000)
    return multi_scale_noise((count, 4, 16, 16), strength, torch.Generator().manual_seed(0))


def low_frequency_power(noise: torch.Tensor) -> float:
    """Variance of 4x4 block means; 1/16 for white noise."""
    return F.avg_pool2d(noise, 4).var().item()


def test_every_sample_has_unit_variance_whatever_its_timestep():
    strength = annealed_strength(torch.linspace(0, 999, 32), 0.9, 1000)
    noise = multi_scale_noise((32, 4, 16, 16), strength, torch.Generator().manual_seed(1))
    assert torch.allclose(noise.var(dim=(1, 2, 3), unbiased=False), torch.ones(32), atol=1e-5)


def test_small_timesteps_are_white_and_large_ones_are_not():
    assert abs(low_frequency_power(noise_at(0)) - 1 / 16) < 0.005
    assert low_frequency_power(noise_at(999)) > 3 / 16


def test_low_frequencies_grow_with_the_timestep():
    powers = [low_frequency_power(noise_at(t)) for t in (0, 300, 600, 999)]
    assert all(more > 1.1 * less for less, more in pairwise(powers))


def test_pyramid_halves_down_to_one():
    assert pyramid_shapes(16, 12) == [(8, 6), (4, 3), (2, 2), (1, 1)]
    assert pyramid_shapes(1, 7) == []
