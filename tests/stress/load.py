"""Queue a thousand prompts in one ComfyUI: none may fail, memory and time must stay level.

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

PROMPTS, WARM = 1000, 50
MEMORY_GROWTH, SLOWER = 0.02, 0.05


def resident(process: psutil.Process) -> int:
    """Bytes of main memory that a ComfyUI and what it started hold."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def run_queue(client: Client, process: psutil.Process, graph: Graph, minutes: float) -> dict:
    """Submit PROMPTS prompts at once, take what comes back in order until the time is over."""
    until, memory, seconds, failed, coverage = time.monotonic() + 60 * minutes, [], [], 0, []
    queued = [client.submit(graph.change(SEGMENT, seed=number).prompt) for number in range(PROMPTS)]
    for prompt_id in queued:
        started = time.monotonic()
        try:
            coverage.append(coverage_of(client.wait(prompt_id)))
        except RunError as error:
            failed += 1
            print(error, flush=True)
        seconds.append(time.monotonic() - started)
        memory.append(resident(process))
        if time.monotonic() > until:
            client.post("/queue", {"clear": True})
            break
    return {"memory": memory, "seconds": seconds, "failed": failed, "empty": sum(share == 0 for share in coverage)}


def main() -> int:
    """Queue, measure, compare the end with the beginning."""
    arguments = options(__doc__, minutes=10)
    install, scene = dev.find_or_make_install(), demo.load_scenes()[0]
    present = next(entry["prompt"] for entry in scene.prompts if entry["mask"])
    graph = Graph(scene.image, present)
    with dev.running_host(install, "stress") as host, Client(host.url) as client:
        found = run_queue(client, psutil.Process(host.process.pid), graph, arguments.minutes)
    memory, seconds = np.array(found["memory"], float), np.array(found["seconds"])
    tenth = max(1, len(seconds) // 10)
    settled = memory[WARM:] if len(memory) > 2 * WARM else memory
    growth = float(settled[-tenth:].mean() / settled[:tenth].mean() - 1)
    slower = float(
        np.median(seconds[-tenth:]) / np.median(seconds[WARM : WARM + tenth] if len(seconds) > 2 * WARM else seconds) - 1
    )
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) if len(settled) > 2 else 0.0
    figures = {
        "prompts": len(seconds),
        "failed": found["failed"],
        "empty_masks": found["empty"],
        "median_seconds": round(float(np.median(seconds)), 3),
        "last_tenth_slower": round(slower, 4),
        "memory_growth": round(growth, 4),
        "memory_bytes_a_prompt": round(slope),
        "resident_mib": round(float(memory[-1]) / 2**20),
    }
    return report(arguments, figures, good=found["failed"] == 0 and growth < MEMORY_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
