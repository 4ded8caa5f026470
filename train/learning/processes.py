"""Several processes on one run (accelerate launch): setting up, asking each other, ending together."""

import signal
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from train.settings.train_config import TrainConfig

ENCODING_TIME = timedelta(days=1)
"""How long processes wait for each other: for the first to read all labels, for the last to end its share of encoding."""


def make_accelerator(config: TrainConfig) -> Accelerator:
    """This process's part in the run, with TensorBoard where it is asked for; sets whether CUDA may use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.allows_tf32
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation,
        mixed_precision=config.mixed_precision,
        log_with="tensorboard" if config.tensorboard else None,
        project_dir=config.output,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=ENCODING_TIME)],
    )
    if config.tensorboard:
        accelerator.init_trackers("tensorboard")
    return accelerator


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process; all have to ask at the same place."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


def fail_together(accelerator: Accelerator, failure: Exception | None, what: str) -> None:
    """Raise this process's failure, or say that `what` failed in another one: nobody waits for one that is gone."""
    if any_process(accelerator, failure is not None):
        raise failure or RuntimeError(f"{what} failed in another process; its message says why.")


class StopSignals:
    """Context in which Ctrl-C and SIGTERM set `stopping` and the step in work is finished; a second one ends at once.

    The handlers of before come back at the end.
    """

    def __init__(self):
        self.stopping = False

    def __enter__(self) -> "StopSignals":
        self.previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _stop(self, *_) -> None:
        self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
