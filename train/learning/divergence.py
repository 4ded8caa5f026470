"""Noticing that a training has diverged before its weights, averages, states or exports take anything in."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn.utils import get_total_norm

from digseg_nodes.core.checkpoint import not_finite

MOST_SKIPPED = 20
"""Steps in a row that fp16's loss scaler may skip while it looks for its scale; from 2^16 to 1 takes 16."""


class DivergedError(RuntimeError):
    """A run whose loss, gradients or weights are no longer numbers; the message says where, what is left and what to change."""


@dataclass
class DivergenceGuard:
    """Checks every step of one run. last_state: tells its newest state; precision: its mixed_precision.

    scaled: whether fp16's loss scaler may skip steps by itself, which is no divergence unless it goes on.
    """

    last_state: Callable[[], Path | None]
    precision: str
    scaled: bool
    skipped: int = 0

    def check_step(self, step: int, loss: float, norm: float, lr: float) -> None:
        """Before the optimizer moves: mean loss and gradient norm of step number `step` (counted from 1), unscaled."""
        skips = self.scaled and math.isfinite(loss) and not math.isfinite(norm)
        self.skipped = self.skipped + 1 if skips else 0
        if (math.isfinite(loss) and math.isfinite(norm)) or 0 < self.skipped <= MOST_SKIPPED:
            return
        what = f"loss {loss:g}, gradient norm {norm:g}"
        what += f", {self.skipped} steps in a row that fp16 could not take" if self.skipped else ""
        raise self._error(step, what, lr)

    def check_weights(self, step: int, weights: Iterable[Tensor], lr: float) -> None:
        """After the optimizer moved in step number `step`, before anything else takes the weights in."""
        if not math.isfinite(get_total_norm(weight.detach() for weight in weights)):
            raise self._error(step, "weights that are no numbers any more, or beyond 1e19", lr)

    def _error(self, step: int, what: str, lr: float) -> DivergedError:
        state = self.last_state()
        left = f"The last good state is {state}." if state else "No state had been saved yet."
        precision = "" if self.precision == "no" else f", mixed_precision: {'bf16 or no' if self.precision == 'fp16' else 'no'}"
        return DivergedError(
            f"The training has diverged at step {step}: {what} (learning rate {lr:g}, mixed_precision {self.precision}). Nothing "
            f"of this step was kept. {left} Try a lower optimizer.lr (3e-5 is usual), more optimizer.warmup_steps{precision}, an "
            "optimizer.max_grad_norm of 1 or less, in a new `output:` folder; and look at the photos and masks with "
            "check_data.py."
        )


def refuse_not_finite(tensors: dict[str, Tensor], what: str, advice: str) -> None:
    """DivergedError where a file (`what`) holds, or would hold, tensors with NaN or infinite values."""
    if names := not_finite(tensors):
        found = f"{len(names)} of {len(tensors)} tensors hold NaN or infinite values, e.g. {names[0]}"
        raise DivergedError(f"{what}: {found}. {advice}")
