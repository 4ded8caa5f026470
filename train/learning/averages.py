"""The averaged weights (EMA), swapped in for validation and export."""

import torch
from diffusers.training_utils import EMAModel


class Averaged:
    """Context in which `parameters` hold the averaged weights; without `ema` they stay as they are.

    Storages change hands, so nothing is copied.
    """

    def __init__(self, ema: EMAModel | None, parameters: list[torch.nn.Parameter]):
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_) -> None:
        self._swap()

    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.ema.shadow_params if self.ema else [], strict=False):
            parameter.data, average.data = average.data, parameter.data
