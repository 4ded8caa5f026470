"""Deterministic DDIM for mask latents: initial noise, prediction types, and the sampling loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .schedule import DDIMSchedule

Denoiser = Callable[[Tensor, float], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]


def initial_noise(seed: int, member: int, shape: tuple[int, ...], kind: str = "gaussian") -> Tensor:
    """z_T of one ensemble member, CPU float32 of `shape` (3.7).

    Depends on seed and member alone, so that a mask never depends on which other prompts, frames or members were asked
    for. kind: `gaussian`, or `zero` for one-step checkpoints.
    """
    if kind == "zero":
        return torch.zeros(shape)
    mixed = (int(seed) + 0x9E3779B97F4A7C15 * member) % 2**63
    return torch.randn(shape, generator=torch.Generator().manual_seed(mixed))


def predict_x0(output: Tensor, x: Tensor, alpha_bar: float, prediction_type: str) -> Tensor:
    """x0 from a raw U-Net output at a variance-preserving x (same shapes); epsilon needs alpha_bar > 0."""
    a, s = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
    if prediction_type == "v_prediction":
        return a * x - s * output
    return (x - s * output) / max(a, 1e-6)


def ddim_sample(denoise: Denoiser, noise: Tensor, schedule: DDIMSchedule, callback: Callback | None = None) -> Tensor:
    """DDIM, eta 0 (Song et al. 2021, eq. 12), carried in variance-preserving space.

    denoise(x * sqrt(1 + sigma^2), sigma) returns x0, as k-diffusion style models do; noise: z_T [N,4,h,w] of unit
    variance (or zeros). callback(i, x0, x) after every call of denoise. Returns z_0 [N,4,h,w], variance preserving.
    """
    x = noise
    for i, (sigma, previous) in enumerate(zip(schedule.sigmas.tolist(), schedule.prev_sigmas.tolist(), strict=True)):
        x_scaled = x * (1.0 + sigma**2) ** 0.5
        x0 = denoise(x_scaled, sigma)
        epsilon = (x_scaled - x0) / sigma
        if callback is not None:
            callback(i, x0, x_scaled)
        if schedule.clip is not None:
            x0 = x0.clamp(-schedule.clip, schedule.clip)
        x = (x0 + previous * epsilon) / (1.0 + previous**2) ** 0.5
    return x
