"""Queue a thousand prompts in one ComfyUI: none may fail, memory and time must stay level.

A hundred more run in turn with a ComfyUI that has just started, so that whatever else the machine does slows both down; their
processor seconds are compared. The last hundred of the queue against its first also tell of the machine: shown, not judged.

python tests/stress/load.py [--minutes 10] [--seed 0] [--report F]
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import psutil

import dev
from tests.host.conftest import SEGMENT, Graph, coverage_of
from tests.stress.campaign import options, report
from tools import demo
from tools.api import Client, RunError

PROMPTS, WARM, BLOCK = 1000, 50, 100
MEMORY_GROWTH, SLOWER = 0.02, 0.05


@dataclass
class Watched:
    """A ComfyUI, and what its prompts took: resident bytes after each, seconds, processor seconds; how many failed, and how many
    masks were empty."""

    client: Client
    process: psutil.Process
    memory: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    failed: int = 0
    empty: int = 0

    def busy(self) -> float:
        """Processor seconds used so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def take(self, prompt_id: str) -> None:
        """Wait for a queued prompt and write down what it took."""
        started, before = time.monotonic(), self.busy()
        try:
            self.empty += coverage_of(self.client.wait(prompt_id)) == 0
        except RunError as error:
            self.failed += 1
            print(error, flush=True)
        self.seconds.append(time.monotonic() - started)
        self.processor.append(self.busy() - before)
        self.memory.append(sum(one.memory_info().rss for one in (self.process, *self.process.children(recursive=True))))


def run_queue(old: Watched, graph: Graph, minutes: float) -> None:
    """Submit PROMPTS prompts at once, take what comes back in order until the time is over."""
    until = time.monotonic() + 60 * minutes
    queued = [old.client.submit(graph.change(SEGMENT, seed=number).prompt) for number in range(PROMPTS)]
    for prompt_id in queued:
        old.take(prompt_id)
        if time.monotonic() > until:
            old.client.post("/queue", {"clear": True})
            break


def in_turn(old: Watched, fresh: Watched, graph: Graph, count: int) -> float:
    """How much more processor time `count` prompts take in the old ComfyUI than in the fresh one, prompt by prompt in turn."""
    for one in (old, fresh):  # loads the model; the queue's last prompt may still be running
        one.take(one.client.submit(graph.change(SEGMENT, seed=PROMPTS).prompt))
    for number in range(count):
        for one in (old, fresh):
            one.take(one.client.submit(graph.change(SEGMENT, seed=PROMPTS + 1 + number).prompt))
    return float(np.median(old.processor[-count:]) / np.median(fresh.processor[-count:]) - 1)


def settled(values: list[float]) -> np.ndarray:
    """Without the first WARM, or without half of fewer."""
    return np.array(values[min(WARM, len(values) // 2) :], float)


def grown(values: list[float], count: int) -> float:
    """By what share the mean of the last `count` lies above that of the first `count` settled ones."""
    behind = settled(values)
    return float(behind[-count:].mean() / behind[:count].mean() - 1)


def main() -> int:
    """Queue, measure, compare the end with a beginning."""
    arguments = options(__doc__, minutes=10)
    install, scene = dev.find_or_make_install(), demo.load_scenes()[0]
    present = next(entry["prompt"] for entry in scene.prompts if entry["mask"])
    graph = Graph(scene.image, present)
    with dev.running_host(install, "stress") as host, Client(host.url) as client:
        old = Watched(client, psutil.Process(host.process.pid))
        run_queue(old, graph, 0.7 * arguments.minutes)
        queued = len(old.seconds)
        count = min(BLOCK, max(1, queued // 4))
        with dev.running_host(install, "stress-fresh") as second, Client(second.url) as other:
            slower = in_turn(old, Watched(other, psutil.Process(second.process.pid)), graph, count)
    memory, growth = settled(old.memory[:queued]), grown(old.memory[:queued], count)
    later = {"processor": grown(old.processor[:queued], count), "clock": grown(old.seconds[:queued], count)}
    figures = {
        "prompts": len(old.seconds),
        "queued_at_once": queued,
        "failed": old.failed,
        "empty_masks": old.empty,
        "median_seconds": round(float(np.median(old.seconds)), 3),
        "processor_seconds_a_prompt": round(float(np.mean(old.processor)), 3),
        "last_hundred_slower_than_first_processor": round(later["processor"], 4),
        "last_hundred_slower_than_first_clock": round(later["clock"], 4),
        "slower_than_a_fresh_one": round(slower, 4),
        "memory_growth": round(growth, 4),
        "memory_bytes_a_prompt": round(float(np.polyfit(np.arange(len(memory)), memory, 1)[0])) if len(memory) > 2 else 0,
        "resident_mib": round(old.memory[-1] / 2**20),
    }
    level = growth < MEMORY_GROWTH and (count < BLOCK or slower < SLOWER)
    return report(arguments, figures, good=old.failed == 0 and level)


if __name__ == "__main__":
    sys.exit(main())
