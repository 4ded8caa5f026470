"""How fast a run goes: seconds a step, time spent waiting for data, the memory it took."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

MIB = 2**20
Parts = TypeVar("Parts")


class Pace:
    """Clock of the steps since it was last asked. samples: how many a step has, over all processes, unless `stepped` says.

    Validation, states and exports do not count; the clock stands still between `stepped` and the next batch.
    """

    def __init__(self, samples: int, device: torch.device):
        self.samples, self.device = samples, device
        self._reset()

    def _reset(self) -> None:
        self.waited, self.worked, self.steps, self.seen = 0.0, 0.0, 0, 0

    def batches(self, loader: Iterable[Parts]) -> Iterator[Parts]:
        """What the loader gives, with the time it took to come."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            try:
                parts = next(batches)
            except StopIteration:
                return
            self.started = time.perf_counter()
            self.waited += self.started - asked
            yield parts

    def stepped(self, samples: int | None = None) -> None:
        """The step on the newest batch is done. samples: how many it had, where steps differ."""
        self.worked += time.perf_counter() - self.started
        self.steps += 1
        self.seen += self.samples if samples is None else samples

    def figures(self) -> dict[str, float]:
        """Means over the steps since the last call, and the peak of memory so far; starts anew."""
        seconds = max(self.waited + self.worked, 1e-9)
        figures = {
            "seconds_per_step": round(seconds / self.steps, 5),
            "samples_per_second": round(self.seen / seconds, 3),
            "data_wait": round(self.waited / seconds, 4),
            "peak_mib": round(peak_bytes(self.device) / MIB, 1),
        }
        self._reset()
        return figures


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held so far: tensors on a CUDA device, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident()


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent held before it started us
        line = next(line for line in status.read_text(encoding="ascii", errors="replace").splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
