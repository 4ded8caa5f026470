"""The optimizer of a configuration: torch's AdamW, or bitsandbytes' with moments of eight bits."""

import torch
from torch.nn import Parameter

from train.settings.train_config import Optimizer
from train.settings.yaml_config import ConfigError


def make_optimizer(groups: list[dict], settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW over groups of `params` with their own `lr`, all on one device, as check_optimizer has found possible."""
    options = {"lr": settings.lr, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, **options, fused=settings.fused)
    return _adamw_8bit()(groups, **options)


def check_optimizer(settings: Optimizer, device: torch.device) -> None:
    """Raise ConfigError where eight bits are asked for and cannot be had on `device`: before anything long begins."""
    if settings.kind == "adamw_8bit":
        _try_out(_adamw_8bit(), device)


def _adamw_8bit():
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:  # the package loads a native library
        raise ConfigError(
            f"optimizer.kind: adamw_8bit needs bitsandbytes, which cannot be imported here ({error}). "
            "Install it (pip install bitsandbytes) or use optimizer.kind: adamw."
        ) from error
    return AdamW8bit


def _try_out(adamw_8bit, device: torch.device) -> None:
    """One step of a throw-away weight, large enough to get eight-bit moments: older releases know CUDA alone."""
    weight = Parameter(torch.zeros(64, 64, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        adamw_8bit([weight], lr=1.0).step()
        moved = bool((weight < 0).all())
    except (RuntimeError, NotImplementedError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(_cannot_run(device, repr(error))) from error
    if not moved:
        raise ConfigError(_cannot_run(device, "a trial step changed nothing"))


def _cannot_run(device: torch.device, reason: str) -> str:
    return (
        f"optimizer.kind: the installed bitsandbytes cannot run adamw_8bit on {device} ({reason}). "
        "Use a CUDA GPU, a newer bitsandbytes, or optimizer.kind: adamw."
    )
