"""The networks a run trains, by name: their weights, one optimizer over all of them, and their averages."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from train.learning.learning_rate import learning_rate
from train.learning.optimizer import make_optimizer
from train.learning.resume import optimizer_tensors, restore_optimizer
from train.networks.bases import Networks
from train.networks.lora import add_lora
from train.settings.train_config import TrainConfig
from train.settings.yaml_config import ConfigError


class Trained:
    """Everything that a run trains, saves and averages.

    modules: the networks by name, in the order of the optimizer's groups; the names are the prefixes of their tensors in states
    and checkpoints. called: the same as the accelerator wraps them and torch.compile translates them, which is what a loss
    calls; validation and export use `modules`. rates: a network's own learning rate; the others have `optimizer.lr`.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        modules: dict[str, nn.Module],
        rates: dict[str, float] | None = None,
    ):
        self.config, self.accelerator, self.modules = config, accelerator, modules
        self.rates = {name: (rates or {}).get(name, config.optimizer.lr) for name in modules}
        groups = [{"params": list(weights.values()), "lr": self.rates[name]} for name, weights in self.weights().items()]
        *called, self.optimizer = accelerator.prepare(*modules.values(), make_optimizer(groups, config.optimizer))
        self.called = dict(zip(modules, map(torch.compile, called) if config.compile else called, strict=True))
        self.ema = EMAModel(self.parameters(), decay=config.ema, foreach=True) if config.ema else None

    def weights(self) -> dict[str, dict[str, nn.Parameter]]:
        """The trained weights of every network by name: all of the U-Net's, or its adapters."""
        return {
            name: {key: weight for key, weight in module.named_parameters() if weight.requires_grad}
            for name, module in self.modules.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """The trained weights of all networks, in the order of the optimizer and of the averages."""
        return list(chain.from_iterable(weights.values() for weights in self.weights().values()))

    @property
    def learning_rate(self) -> float:
        """The first network's, of the step in work."""
        return self.optimizer.param_groups[0]["lr"]

    def set_learning_rates(self, step: int) -> None:
        """Those of step number `step`, counted from 0."""
        for group, peak in zip(self.optimizer.param_groups, self.rates.values(), strict=True):
            group["lr"] = learning_rate(step, self.config.steps, self.config.optimizer, peak)

    def clip_gradients(self) -> float:
        """Bound the norm of each network's gradients by itself; returns the norm of all of them before that, unscaled."""
        self.accelerator.unscale_gradients()
        limit = self.config.optimizer.max_grad_norm or math.inf
        norms = [nn.utils.clip_grad_norm_(weights.values(), limit) for weights in self.weights().values()]
        return math.hypot(*map(float, norms))

    def zero_grad(self) -> None:
        """Throw all gradients away."""
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)

    def average(self) -> None:
        """Take the weights of a step into the averages."""
        if self.ema is not None:
            self.ema.step(self.parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the networks hold the averaged weights; without `ema` they stay as they are."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Storages change hands, so nothing is copied."""
        for parameter, average in zip(self.parameters(), self.ema.shadow_params if self.ema else [], strict=False):
            parameter.data, average.data = average.data, parameter.data

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in which the networks hold the averaged weights and are in evaluation mode."""
        with self.averaged():
            self._each(nn.Module.eval)
            try:
                yield
            finally:
                self._each(nn.Module.train)

    def _each(self, change: Callable[[nn.Module], object]) -> None:
        for module in self.modules.values():
            change(module)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """What a state holds of them, as named tensors and JSON values: weights, moments, averages, fp16's scale."""
        tensors, values = optimizer_tensors(self.optimizer)
        for name, weights in self.weights().items():
            tensors |= {f"{name}.{key}": weight for key, weight in weights.items()}
        if self.ema is not None:
            tensors |= {f"ema.{number}": tensor for number, tensor in enumerate(self.ema.shadow_params)}
            values["ema_step"] = self.ema.optimization_step
        if self.accelerator.scaler is not None:
            values["scaler"] = self.accelerator.scaler.state_dict()
        return tensors, values

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Inverse of `state`."""
        for name, weights in self.weights().items():
            for key, weight in weights.items():
                weight.copy_(tensors[f"{name}.{key}"])
        restore_optimizer(self.optimizer, tensors, values)
        if self.ema is not None:
            for number, shadow in enumerate(self.ema.shadow_params):
                shadow.copy_(tensors[f"ema.{number}"])
            self.ema.optimization_step = values["ema_step"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])


def trained_modules(networks: Networks, config: TrainConfig, device: torch.device) -> dict[str, nn.Module]:
    """What a configuration trains, by name: the U-Net, and the mask decoder where it asks for one."""
    modules: dict[str, nn.Module] = {"unet": prepare_unet(networks.unet, config, device)}
    return modules | ({"mask_decoder": networks.mask_decoder.train().to(device)} if config.mask_decoder else {})


def own_rates(config: TrainConfig) -> dict[str, float]:
    """Learning rates of networks that do not have the U-Net's."""
    return {"mask_decoder": config.mask_decoder.lr} if config.mask_decoder else {}


def prepare_unet(unet: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The U-Net as it is trained: with adapters, recomputed activations and channels-last layout as configured."""
    unet.train()
    if config.lora:
        add_lora(unet, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.channels_last:
        unet.to(memory_format=torch.channels_last)
    return unet.to(device)


def check_compile(config: TrainConfig, device: torch.device) -> None:
    """Raise ConfigError where `compile: true` cannot be had on `device`: before anything long begins."""
    if not config.compile:
        return
    try:
        torch.compile(nn.Linear(2, 2).to(device))(torch.ones(1, 2, device=device)).sum().backward()
    except Exception as error:  # a missing compiler, driver or Triton, each with an exception class of its own
        reason = str(error).strip().splitlines() or [""]
        raise ConfigError(
            f"compile: torch.compile cannot run here ({type(error).__name__}: {reason[0]}). It needs a C++ compiler, and Triton "
            "on a GPU. Install them, or set `compile: false`."
        ) from error


def weights_of_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights and averages among a state's tensors, without the optimizer's."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")}
