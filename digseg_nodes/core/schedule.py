"""Noise schedules of diffusers scheduler configs, and the timesteps and sigmas a DDIM run visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ALPHA_FLOOR = 1e-12
"""ā at a zero-terminal-SNR end is 0, sigma would be infinite; this keeps sigma finite and DDIM exact to rounding."""


def alphas_cumprod(config: dict) -> Tensor:
    """ā_t of a diffusers scheduler config: [T] float64 in [0, 1]; the last is 0 with zero-terminal-SNR betas."""
    total = int(config.get("num_train_timesteps", 1000))
    bars = torch.cumprod(1.0 - _betas(config, total), 0)
    return _zero_terminal_snr(bars) if config.get("rescale_betas_zero_snr") else bars


def _betas(config: dict, total: int) -> Tensor:
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, total, dtype=torch.float64) ** 2
    if kind == "linear":
        return torch.linspace(start, end, total, dtype=torch.float64)
    raise ValueError(f"The scheduler's beta_schedule is {kind!r}; linear, scaled_linear and trained_betas are known.")


def _zero_terminal_snr(bars: Tensor) -> Tensor:
    """Shift and scale sqrt(ā) so that ā_T = 0 and ā_0 stays (Lin et al. 2024, algorithm 1)."""
    root = bars.sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return root**2


def trailing_timesteps(steps: int, train_timesteps: int = 1000) -> list[int]:
    """`steps` timesteps from T-1 downwards, evenly spaced, the last one above 0 (trailing spacing)."""
    if not 1 <= steps <= train_timesteps:
        raise ValueError(f"steps is {steps}; it must be from 1 to {train_timesteps}.")
    return [round(train_timesteps - i * train_timesteps / steps) - 1 for i in range(steps)]


@dataclass(frozen=True)
class DDIMSchedule:
    """The noise levels of a DDIM run: step i goes from sigmas[i] to prev_sigmas[i].

    timesteps: n integers. sigmas, prev_sigmas: [n] float64, sigma = sqrt((1-ā)/ā).
    """

    timesteps: list[int]
    sigmas: Tensor
    prev_sigmas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def sigmas_of(bars: Tensor) -> Tensor:
    """sigma = sqrt((1-ā)/ā), float64, with ā floored at ALPHA_FLOOR."""
    bars = bars.double().clamp(min=ALPHA_FLOOR)
    return ((1.0 - bars) / bars).sqrt()


def ddim_schedule(config: dict, steps: int) -> DDIMSchedule:
    """The DDIM run of `steps` trailing steps on a diffusers scheduler config (3.7, same schedule as in training)."""
    sigmas = sigmas_of(alphas_cumprod(config))
    times = trailing_timesteps(steps, len(sigmas))
    final = 0.0 if config.get("set_alpha_to_one", True) else float(sigmas[0])
    stride = len(sigmas) // steps
    previous = [float(sigmas[t - stride]) if t >= stride else final for t in times]
    return DDIMSchedule(times, sigmas[times], torch.tensor(previous, dtype=torch.float64))
