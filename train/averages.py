"""The averaged weights (EMA), swapped in for validation and export."""

import torch
from diffusers.training_utils import EMAModel


class Averaged:
    """Context in which `parameters` hold the averaged weights; without `ema` they stay as they are."""

    def __init__(self, ema: EMAModel | None, parameters: list[torch.nn.Parameter]):
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        if self.ema is not None:
            self.saved = [parameter.detach().clone() for parameter in self.parameters]
            self.ema.copy_to(self.parameters)

    def __exit__(self, *_) -> None:
        if self.ema is not None:
            with torch.no_grad():
                for parameter, saved in zip(self.parameters, self.saved, strict=True):
                    parameter.copy_(saved)
