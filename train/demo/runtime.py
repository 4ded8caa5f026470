"""What the stages of the demo stack share: resumable state, an exponential moving average, a learning-rate curve."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from tqdm import tqdm

from digseg_nodes.core.files import written_atomically


class EMA:
    """Exponential moving average of a module's parameters, with a warm-up of the decay."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours, theirs = list(self.module.parameters()), [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)


class Clock:
    """Progress through a stage in [0, 1], by seconds of training or by steps, whichever limit is given."""

    def __init__(self, seconds: float | None, steps: int | None):
        if (seconds is None) == (steps is None):
            raise ValueError("give a stage either seconds or steps, not both")
        self.seconds, self.steps = seconds, steps
        self.spent, self.step, self.started = 0.0, 0, time.monotonic()

    def tick(self) -> None:
        """Count a step; with several processes all take the first one's time, so that they stop together."""
        now = time.monotonic()
        self.spent, self.started = self.spent + now - self.started, now
        self.step += 1
        if distributed.is_initialized():
            shared = torch.tensor(self.spent, dtype=torch.float64)
            distributed.broadcast(shared, 0)
            self.spent = shared.item()

    @property
    def progress(self) -> float:
        return min(1.0, self.spent / self.seconds if self.steps is None else self.step / self.steps)

    def state_dict(self) -> dict:
        return {"spent": self.spent, "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.spent, self.step, self.started = state["spent"], state["step"], time.monotonic()


def learning_rate(peak: float, clock: Clock, warmup: int = 50) -> float:
    """Linear warm-up over ``warmup`` steps, then a half cosine down to 2 % of the peak at the end of the stage."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * clock.progress))
    return peak * min(1.0, (clock.step + 1) / warmup) * cosine


def average_gradients(module: nn.Module) -> None:
    """Mean of the gradients over the processes, in one message; nothing to do in a single process."""
    if not distributed.is_initialized():
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view(g.shape))


def save_state(path: Path, **parts) -> None:
    """Write a stage's state atomically."""
    with written_atomically(path) as temporary:
        torch.save(parts, temporary)


def _descend(modules: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_norm: float) -> None:
    """One optimizer step on the gradients averaged over the processes and clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(modules)
    nn.utils.clip_grad_norm_(modules.parameters(), max_norm)
    optimizer.step()


def _restore(path: Path, modules: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    """Put a stage back to where its state file left it; nothing happens without one."""
    if not path.exists():
        return
    state = torch.load(path, weights_only=True)
    modules.load_state_dict(state["modules"])
    ema.module.load_state_dict(state["ema"])
    ema.updates = state["updates"]
    optimizer.load_state_dict(state["optimizer"])
    clock.load_state_dict(state["clock"])


def train_stage(
    name: str,
    folder: Path,
    clock: Clock,
    modules: nn.Module,
    loss_of: Callable[[torch.Generator, float], tuple[torch.Tensor, str]],
    *,
    peak: float,
    decay: float,
    seed: int,
    save_every: float = 60.0,
    frozen_norm: float = 1.0,
) -> EMA:
    """Run a stage to the end of its clock, resuming from ``folder/name.pt``; returns the EMA of ``modules``.

    ``loss_of(generator, progress)`` draws a batch with the generator and returns the loss and a text for the bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / f"{name}.pt", folder / f"{name}.log"
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    generator = torch.Generator()
    ema = EMA(modules, decay)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True)
    _restore(path, modules, ema, optimizer, clock)

    def save() -> None:
        save_state(
            path, modules=modules.state_dict(), ema=ema.module.state_dict(), updates=ema.updates,
            optimizer=optimizer.state_dict(), clock=clock.state_dict(),
        )  # fmt: skip

    saved, bar = time.monotonic(), tqdm(desc=name, initial=clock.step, total=clock.steps, mininterval=5, disable=rank > 0)
    while clock.progress < 1:
        generator.manual_seed((seed * 1_000_003 + clock.step) * 64 + rank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, clock)
        loss, text = loss_of(generator, clock.progress)
        _descend(modules, optimizer, loss, frozen_norm)
        ema.update(modules)
        clock.tick()
        bar.update()
        if rank > 0:
            continue
        if clock.step % 50 == 0:
            line = f"{name} step {clock.step} seconds {clock.spent:.0f} {text}"
            bar.set_postfix_str(text)
            with log.open("a") as file:
                file.write(line + "\n")
        if time.monotonic() - saved > save_every:
            save()
            saved = time.monotonic()
    bar.close()
    if rank == 0:
        save()
    return ema
