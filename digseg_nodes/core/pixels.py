"""Pixels as bytes and as numbers from 0 to 1."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def from_bytes(values: np.ndarray | Tensor) -> Tensor:
    """uint8 of any shape → a new float32 tensor of that shape in [0,1]."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, np.uint8))
    return tensor.float() / 255


def to_bytes(values: np.ndarray | Tensor) -> np.ndarray:
    """Numbers (or booleans) of any shape → uint8 of that shape: [0,1] becomes 0 to 255, rounded; what lies outside is clipped."""
    numbers = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
    return (numbers.clip(0, 1) * 255).round().astype(np.uint8)
