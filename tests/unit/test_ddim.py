"""The DDIM loop against diffusers' DDIMScheduler with a stand-in denoiser, and the noise's independence."""

import pytest
import torch
from diffusers import DDIMScheduler

from digseg_nodes.core.ddim import ddim_sample, initial_noise, predict_x0
from digseg_nodes.core.schedule import alphas_cumprod, ddim_schedule

BASE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": False,
}
V = {**BASE, "prediction_type": "v_prediction"}
CONFIGS = {
    "epsilon": BASE,
    "v": V,
    "v_zero_snr": {**V, "rescale_betas_zero_snr": True},
    "clipped": {**V, "clip_sample": True, "clip_sample_range": 0.5},
    "leading": {**V, "timestep_spacing": "leading", "steps_offset": 1},
}
SHAPE = (2, 4, 6, 5)


def network(x, t):
    """Any smooth function of x and t serves as the network's raw output."""
    return torch.tanh(x.flip(-1) + 0.001 * float(t))


def ours(config, noise, steps):
    schedule, bars = ddim_schedule(config, steps), alphas_cumprod(config)
    by_sigma = dict(zip(schedule.sigmas.tolist(), schedule.timesteps, strict=True))

    def denoise(x_scaled, sigma):
        x = x_scaled / (1.0 + sigma**2) ** 0.5
        t = by_sigma[sigma]
        return predict_x0(network(x, t), x, float(bars[t]), config.get("prediction_type", "epsilon"))

    return ddim_sample(denoise, noise, schedule)


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 50])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_diffusers(name, steps):
    config, noise = CONFIGS[name], initial_noise(3, 0, SHAPE)
    reference = DDIMScheduler(**config)
    reference.set_timesteps(steps)
    x = noise.clone()
    for t in reference.timesteps:
        x = reference.step(network(x, t), t, x).prev_sample
    error = (ours(config, noise, steps) - x).abs().max() / x.abs().max().clamp(min=1.0)
    assert error < 5e-5


def test_callback_sees_every_step():
    seen = []
    schedule = ddim_schedule(V, 4)
    ddim_sample(lambda x, sigma: x * 0, torch.ones(SHAPE), schedule, lambda i, x0, x: seen.append((i, x0.sum().item())))
    assert seen == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)]


def test_noise_depends_on_seed_and_member_alone():
    first = initial_noise(3, 0, SHAPE)
    torch.manual_seed(99)
    assert torch.equal(first, initial_noise(3, 0, SHAPE))
    assert not torch.equal(first, initial_noise(4, 0, SHAPE))
    members = [initial_noise(3, m, SHAPE) for m in range(20)]
    assert len({m.sum().item() for m in members}) == 20
    assert initial_noise(2**64 - 1, 0, SHAPE).isfinite().all()


def test_noise_has_unit_variance_and_zero_kind_is_zero():
    assert initial_noise(0, 0, (1, 4, 64, 64)).std() == pytest.approx(1.0, abs=0.02)
    assert not initial_noise(0, 0, SHAPE, "zero").any()
