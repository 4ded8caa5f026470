"""Noise schedules and timesteps against diffusers' DDIMScheduler."""

import pytest
import torch
from diffusers import DDIMScheduler

from digseg_nodes.core.schedule import alphas_cumprod, check_scheduler, ddim_schedule, trailing_timesteps

BASE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
BETAS = {
    "scaled_linear": BASE,
    "linear": {**BASE, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "zero_snr": {**BASE, "rescale_betas_zero_snr": True},
    "trained": {"num_train_timesteps": 20, "trained_betas": [0.01 * (i + 1) for i in range(20)]},
}


@pytest.mark.parametrize("name", BETAS)
def test_alphas_cumprod(name):
    ours, reference = alphas_cumprod(BETAS[name]), DDIMScheduler(**BETAS[name]).alphas_cumprod
    assert ours.dtype == torch.float64
    assert torch.allclose(ours.float(), reference, atol=2e-6)


def test_zero_snr_ends_at_exactly_zero():
    assert alphas_cumprod(BETAS["zero_snr"])[-1] == 0.0
    assert ddim_schedule(BETAS["zero_snr"], 1).sigmas.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 9, 10, 13, 30, 50, 999, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps(spacing, steps):
    if (spacing, steps) == ("linspace", 1):
        steps = 5  # one linspace step is t = 0, no noise at all: nobody samples so
    config = {**BASE, "timestep_spacing": spacing, "steps_offset": 1 if spacing == "leading" and steps < 999 else 0}
    reference = DDIMScheduler(**config)
    reference.set_timesteps(steps)
    expected = reference.timesteps.tolist()[:steps]  # for a few step counts diffusers adds one at -1
    assert ddim_schedule(config, steps).timesteps == expected


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; it must be from 1 to 1000"):
        trailing_timesteps(steps)


@pytest.mark.parametrize("to_one", [True, False])
def test_last_step_ends_where_diffusers_ends(to_one):
    config = {**BASE, "set_alpha_to_one": to_one}
    end = ddim_schedule(config, 10).prev_sigmas[-1].item()
    final = DDIMScheduler(**config).final_alpha_cumprod.item()
    assert end == pytest.approx(((1 - final) / final) ** 0.5, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing is 'karras'"),
        ({"thresholding": True}, "dynamic thresholding"),
    ],
)
def test_unknown_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        check_scheduler({**BASE, **setting})
