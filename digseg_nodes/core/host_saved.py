"""A checkpoint's metadata as a tensor, for files that ComfyUI's own save nodes write: they drop metadata that is not theirs."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from .errors import CheckpointError
from .untrusted import parse_json

METADATA_TENSOR = "digseg.metadata"
"""Name of the tensor in such a file: JSON in UTF-8, one byte a number."""
LARGEST = 2**20
"""Bytes; a config takes about 5,000."""


def metadata_tensor(metadata: dict[str, str]) -> Tensor:
    """{name: text} → uint8 [n]."""
    return torch.tensor(list(json.dumps(metadata).encode("utf-8")), dtype=torch.uint8)


def metadata_of(tensor: Tensor, name: str) -> dict[str, str]:
    """uint8 [n] → {name: text}; CheckpointError naming the file `name` when it holds anything else."""
    try:
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or len(tensor) > LARGEST:
            raise ValueError(f"it is {tensor.dtype} {tuple(tensor.shape)}")
        found = parse_json(bytes(tensor.tolist()).decode("utf-8"))
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise ValueError("it is no table of texts")
    except ValueError as error:
        raise CheckpointError(
            f"{name}: the tensor {METADATA_TENSOR}, which says what the checkpoint is, cannot be read ({error}). Save it again."
        ) from error
    return found
