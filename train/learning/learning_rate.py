"""The learning rate by step."""

import math

from train.settings.train_config import Optimizer


def learning_rate(step: int, steps: int, settings: Optimizer, peak: float | None = None) -> float:
    """Linear warm-up from 1/n of the rate, then decay to `final_lr_share` of it at the last step. peak: another rate than
    the settings'."""
    peak = settings.lr if peak is None else peak
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    done = min(1.0, (step - settings.warmup_steps) / max(1, steps - 1 - settings.warmup_steps))
    floor = settings.final_lr_share
    factor = {
        "constant": 1.0,
        "cosine": floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2,
        "exponential": floor**done,
    }[settings.decay]
    return peak * factor
