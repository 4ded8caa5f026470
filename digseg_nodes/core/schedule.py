"""Noise schedules of diffusers scheduler configs, and the timesteps and sigmas a DDIM run visits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ALPHA_FLOOR = 1e-12
"""ā at a zero-terminal-SNR end is 0, sigma would be infinite; this keeps sigma finite and DDIM exact to rounding."""
BETA_SCHEDULES = ("linear", "scaled_linear")
STABLE_DIFFUSION = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": False,
    "clip_sample": False,
}
"""The noise schedule of Stable Diffusion 1.x and 2.x as diffusers writes it, without the prediction type."""
SPACINGS = ("trailing", "leading", "linspace")


def check_scheduler(config: dict) -> None:
    """Raises ValueError for a diffusers scheduler config this package would sample differently, naming the setting."""
    kind, spacing = config.get("beta_schedule", "scaled_linear"), config.get("timestep_spacing", "trailing")
    if kind not in BETA_SCHEDULES and config.get("trained_betas") is None:
        raise ValueError(f"its beta_schedule is {kind!r}; {', '.join(BETA_SCHEDULES)} and trained_betas are known.")
    if spacing not in SPACINGS:
        raise ValueError(f"its timestep_spacing is {spacing!r}; {', '.join(SPACINGS)} are known.")
    if config.get("thresholding"):
        raise ValueError("it asks for dynamic thresholding, which is meant for pixels and not for latents.")


def alphas_cumprod(config: dict) -> Tensor:
    """ā_t of a diffusers scheduler config: [T] float64 in [0, 1]; the last is 0 with zero-terminal-SNR betas."""
    total = int(config.get("num_train_timesteps", 1000))
    bars = torch.cumprod(1.0 - _betas(config, total), 0)
    return _zero_terminal_snr(bars) if config.get("rescale_betas_zero_snr") else bars


def _betas(config: dict, total: int) -> Tensor:
    check_scheduler(config)
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    if config.get("beta_schedule", "scaled_linear") == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, total, dtype=torch.float64) ** 2
    return torch.linspace(start, end, total, dtype=torch.float64)


def _zero_terminal_snr(bars: Tensor) -> Tensor:
    """Shift and scale sqrt(ā) so that ā_T = 0 and ā_0 stays (Lin et al. 2024, algorithm 1)."""
    root = bars.sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return root**2


def trailing_timesteps(steps: int, train_timesteps: int = 1000) -> list[int]:
    """`steps` timesteps from T-1 downwards, evenly spaced, the last one above 0 (trailing spacing)."""
    _check_steps(steps, train_timesteps)
    return [round(train_timesteps - i * train_timesteps / steps) - 1 for i in range(steps)]


def _check_steps(steps: int, train_timesteps: int) -> None:
    if not 1 <= steps <= train_timesteps:
        raise ValueError(f"steps is {steps}; it must be from 1 to {train_timesteps}.")


def timesteps_of(config: dict, steps: int) -> list[int]:
    """The timesteps of a run as diffusers' DDIMScheduler spaces them; trailing (3.7) where the config does not say."""
    total = int(config.get("num_train_timesteps", 1000))
    spacing = config.get("timestep_spacing", "trailing")
    if spacing == "trailing":
        return trailing_timesteps(steps, total)
    _check_steps(steps, total)
    if spacing == "leading":
        return [i * (total // steps) + int(config.get("steps_offset", 0)) for i in reversed(range(steps))]
    return [round(i * (total - 1) / max(1, steps - 1)) for i in reversed(range(steps))]


@dataclass(frozen=True)
class DDIMSchedule:
    """The noise levels of a DDIM run: step i goes from sigmas[i] to prev_sigmas[i].

    timesteps: n integers. sigmas, prev_sigmas: [n] float64, sigma = sqrt((1-ā)/ā). clip: x0 is clamped to [-clip, clip]
    in every step (a scheduler's clip_sample); None, as in all Stable Diffusion schedulers, leaves it alone.
    """

    timesteps: list[int]
    sigmas: Tensor
    prev_sigmas: Tensor
    clip: float | None = None

    def __len__(self) -> int:
        return len(self.timesteps)


def sigmas_of(bars: Tensor) -> Tensor:
    """sigma = sqrt((1-ā)/ā), float64, with ā floored at ALPHA_FLOOR."""
    bars = bars.double().clamp(min=ALPHA_FLOOR)
    return ((1.0 - bars) / bars).sqrt()


def ddim_schedule(config: dict, steps: int) -> DDIMSchedule:
    """The DDIM run of `steps` steps on a diffusers scheduler config (3.7, same schedule as in training)."""
    sigmas = sigmas_of(alphas_cumprod(config))
    times = timesteps_of(config, steps)
    final = 0.0 if config.get("set_alpha_to_one", True) else float(sigmas[0])
    stride = len(sigmas) // steps
    previous = [float(sigmas[t - stride]) if t >= stride else final for t in times]
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
    return DDIMSchedule(times, sigmas[times], torch.tensor(previous, dtype=torch.float64), clip)
