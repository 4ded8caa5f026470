"""Queue a thousand prompts in one ComfyUI: none may fail, memory and time must stay level.

Time is compared as processor seconds of ComfyUI, in units of a piece of work of this process that is always the same: on a
machine that others use as well, both become slower together. Seconds on the clock stand beside it.

python tests/stress/load.py [--minutes 10] [--seed 0] [--report F]
"""

import sys
import time
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


def resident(process: psutil.Process) -> int:
    """Bytes of main memory that a ComfyUI and what it started hold."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def busy(process: psutil.Process) -> float:
    """Processor seconds that a ComfyUI has used so far."""
    times = process.cpu_times()
    return times.user + times.system


def reference_work() -> float:
    """Processor seconds of a piece of work that is always the same."""
    values, started = np.ones((1500, 1500), np.float32), time.thread_time()
    for _ in range(3):
        values = np.sqrt(values * 1.5 + values.T)
    return time.thread_time() - started


def run_queue(client: Client, process: psutil.Process, graph: Graph, minutes: float) -> dict:
    """Submit PROMPTS prompts at once, take what comes back in order until the time is over."""
    until, failed, coverage = time.monotonic() + 60 * minutes, 0, []
    memory, clock, processor, reference = [], [time.monotonic()], [busy(process)], []
    queued = [client.submit(graph.change(SEGMENT, seed=number).prompt) for number in range(PROMPTS)]
    for prompt_id in queued:
        try:
            coverage.append(coverage_of(client.wait(prompt_id)))
        except RunError as error:
            failed += 1
            print(error, flush=True)
        memory.append(resident(process))
        clock.append(time.monotonic())
        processor.append(busy(process))
        reference.append(reference_work())
        if time.monotonic() > until:
            client.post("/queue", {"clear": True})
            break
    empty = sum(share == 0 for share in coverage)
    times = {"clock": np.diff(clock), "processor": np.diff(processor), "reference": np.array(reference)}
    return {"memory": memory, **times, "failed": failed, "empty": empty}


def grown(values: np.ndarray, warm: int) -> float:
    """How much more the last BLOCK of some values is than the BLOCK behind the first `warm`, on average, as a share; the blocks
    are tenths where there are too few."""
    block = min(BLOCK, max(1, len(values) // 10))
    settled = values[min(warm, len(values) // 2) :]
    return float(settled[-block:].mean() / settled[:block].mean() - 1)


def main() -> int:
    """Queue, measure, compare the end with the beginning."""
    arguments = options(__doc__, minutes=10)
    install, scene = dev.find_or_make_install(), demo.load_scenes()[0]
    present = next(entry["prompt"] for entry in scene.prompts if entry["mask"])
    graph = Graph(scene.image, present)
    with dev.running_host(install, "stress") as host, Client(host.url) as client:
        found = run_queue(client, psutil.Process(host.process.pid), graph, arguments.minutes)
    memory = np.array(found["memory"], float)
    settled = memory[min(WARM, len(memory) // 2) :]
    slower = (1 + grown(found["processor"], 1)) / (1 + grown(found["reference"], 1)) - 1
    figures = {
        "prompts": len(memory),
        "failed": found["failed"],
        "empty_masks": found["empty"],
        "median_seconds": round(float(np.median(found["clock"])), 3),
        "seconds_grown": round(grown(found["clock"], 1), 4),  # the first prompt loads the model
        "processor_seconds_a_prompt": round(float(np.mean(found["processor"])), 3),
        "processor_seconds_grown": round(grown(found["processor"], 1), 4),
        "reference_grown": round(grown(found["reference"], 1), 4),
        "slower": round(slower, 4),
        "memory_growth": round(grown(memory, WARM), 4),
        "memory_bytes_a_prompt": round(float(np.polyfit(np.arange(len(settled)), settled, 1)[0])) if len(settled) > 2 else 0,
        "resident_mib": round(float(memory[-1]) / 2**20),
    }
    level = figures["memory_growth"] < MEMORY_GROWTH and (len(memory) < 4 * BLOCK or slower < SLOWER)
    return report(arguments, figures, good=found["failed"] == 0 and level)


if __name__ == "__main__":
    sys.exit(main())
