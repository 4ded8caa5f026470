"""What the U-Net learns: the paper's diffusion objective (section 3.3) and the one-step end-to-end objective."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Forward process: sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise. clean, noise [B,C,H,W]; alpha_bar [B]."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def diffusion_target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """The U-Net target: noise ("epsilon") or sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean ("v_prediction")."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha_bar = alpha_bar.view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    raise ValueError(f'The base predicts "{prediction_type}"; only "epsilon" and "v_prediction" can be trained.')


def min_snr_weights(alpha_bar: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Loss weights of "Efficient Diffusion Training via Min-SNR Weighting": [B] -> [B].

    min(snr, gamma) / snr for epsilon and min(snr, gamma) / (snr + 1) for v, the latter never zero at snr = 0:
    there the v target is the clean latent itself and keeps the weight 1.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-12)
    if prediction_type == "epsilon":
        return snr.clamp(max=gamma) / snr.clamp(min=1e-12)
    return torch.where(snr > 0, snr.clamp(max=gamma) / (snr + 1), torch.ones_like(snr))


def draw_timesteps(
    count: int, train_timesteps: int, generator: torch.Generator, high_share: float = 0.0, high_from: int = 900
) -> Tensor:
    """Timesteps [count], uniform over 0..T-1; with probability `high_share` uniform over high_from..T-1 instead."""
    uniform = torch.randint(0, train_timesteps, (count,), generator=generator)
    high = torch.randint(high_from, train_timesteps, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < high_share, high, uniform)


def weighted_mse(output: Tensor, target: Tensor, sample_weights: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
    """Mean squared error in float32 -> scalar.

    output, target [B,C,H,W]; sample_weights [B]; valid [B,1,H,W] with 0 where the label is unknown: such places
    leave the sum and the count, so that a partly labelled sample counts by what it shows.
    """
    error = F.mse_loss(output.float(), target.float(), reduction="none")
    if sample_weights is not None:
        error = error * sample_weights.view(-1, 1, 1, 1)
    if valid is None:
        return error.mean()
    return (error * valid).sum() / (valid.sum() * error.shape[1]).clamp(min=1)
