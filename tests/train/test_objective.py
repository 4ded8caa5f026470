"""The objectives: the clean latent comes back from the target, ignored places leave the loss."""

import pytest
import torch

from digseg_nodes.core.ddim import predict_x0
from digseg_nodes.core.schedule import alphas_cumprod
from tests.train.helpers import EPSILON_SCHEDULER, V_SCHEDULER
from train.latents.batches import Batch
from train.learning.loss import diffusion_loss, end_to_end_loss, make_loss
from train.learning.objective import add_noise, diffusion_target, draw_timesteps, min_snr_weights, weighted_mse

SCHEDULERS = {"epsilon": EPSILON_SCHEDULER, "v_prediction": V_SCHEDULER}


def latents(seed: int, count: int = 3) -> torch.Tensor:
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def batch(timesteps: torch.Tensor, noise: torch.Tensor) -> Batch:
    return Batch(image=latents(1), mask=latents(2), noise=noise, text=torch.zeros(3, 77, 16), timesteps=timesteps)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_clean_latent_is_recovered_from_the_target(kind):
    clean, noise = latents(0), latents(1)
    for bar in (0.999, 0.5, 0.01):
        bars = torch.full((3,), bar)
        noisy = add_noise(clean, noise, bars)
        recovered = predict_x0(diffusion_target(clean, noise, bars, kind), noisy, bar, kind)
        assert torch.allclose(recovered, clean, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_that_outputs_the_target_has_no_loss(kind):
    bars = alphas_cumprod(SCHEDULERS[kind]).float()
    one = batch(torch.tensor([0, 500, 999]), latents(3))
    target = diffusion_target(one.mask, one.noise, bars[one.timesteps], kind)

    def unet(x, t, encoder_hidden_states, return_dict):
        assert torch.equal(x[:, :4], one.image)  # the on-disk order: image first
        return (target,)

    assert diffusion_loss(unet, one, alpha_bar=bars, prediction_type=kind, gamma=None) == 0


def test_end_to_end_asks_for_minus_the_mask_latent_at_zero_terminal_snr():
    one = batch(torch.full((3,), 999), torch.zeros(3, 4, 8, 8))

    def unet(x, t, encoder_hidden_states, return_dict):
        assert (t == 999).all()
        assert not x[:, 4:].any()
        return (-one.mask,)

    settings = {"vae": None, "alpha_bar": 0.0, "prediction_type": "v_prediction", "kind": "latent", "pixel_weight": 1.0}
    assert end_to_end_loss(unet, one, **settings) == 0


def test_end_to_end_refuses_epsilon_with_zero_terminal_snr(config_file):
    from train.settings.train_config import load_config

    config = load_config(config_file, ["objective=end_to_end"])
    with pytest.raises(ValueError, match="v-prediction base"):
        make_loss(config, None, alphas_cumprod(V_SCHEDULER), "epsilon")


def test_unlabelled_places_leave_the_loss():
    target, valid = latents(0), torch.ones(3, 1, 8, 8)
    output = target.clone()
    output[:, :, :4] += 100
    valid[:, :, :4] = 0
    assert weighted_mse(output, target, valid=valid) == 0
    output[:, :, 4:] += 2
    assert weighted_mse(output, target, valid=valid) == pytest.approx(4)


def test_min_snr_weights_keep_the_terminal_timestep_of_v():
    bars = torch.tensor([0.0, 0.5, 0.99])
    assert torch.allclose(min_snr_weights(bars, 5.0, "v_prediction"), torch.tensor([1.0, 0.5, 5 / 100]), atol=1e-4)
    assert torch.allclose(min_snr_weights(bars[1:], 5.0, "epsilon"), torch.tensor([1.0, 5 / 99]), atol=1e-4)


def test_high_timesteps_get_their_share():
    drawn = draw_timesteps(20000, 1000, torch.Generator().manual_seed(0), high_share=0.5, high_from=900)
    assert (drawn >= 900).float().mean() == pytest.approx(0.55, abs=0.02)
    assert drawn.min() >= 0
    assert drawn.max() <= 999
