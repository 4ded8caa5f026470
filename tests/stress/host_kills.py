"""Kill ComfyUI with a queue of prompts: it starts again each time, and a prompt gives the same mask as before.

python tests/stress/host_kills.py [--minutes 4] [--seed 0] [--report F]
"""

import random
import sys
import time
from contextlib import suppress
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dev
from tests.host.conftest import SEGMENT, Graph, coverage_of
from tests.stress.campaign import options, report
from tools import demo
from tools.api import Client, RunError

KILLS, QUEUE = 10, 20


def one_life(install: dev.Install, graph: Graph, rng: random.Random, kill: bool) -> dict:
    """Start ComfyUI, run one prompt, and queue QUEUE more; kill: SIGKILL it in the middle of them. What came of it."""
    with dev.running_host(install, "stress-kills", keep=True) as host, Client(host.url) as client:
        found = {"coverage": coverage_of(client.run(graph.prompt)), "finished": 0}
        if not kill:
            return found
        queued = [client.submit(graph.change(SEGMENT, seed=number).prompt) for number in range(1, QUEUE)]
        moment = time.monotonic() + rng.uniform(0, 3)
        while queued and time.monotonic() < moment:
            client.wait(queued.pop(0))
            found["finished"] += 1
        host.process.kill()
        host.process.wait()
        with suppress(RunError):  # a client hears of it
            client.wait(queued[0] if queued else "none", timeout=30)
        return found


def left_over(base: Path) -> list[str]:
    """Temporary files of ours in a base directory."""
    return [path.name for path in base.rglob("*.tmp") if path.is_file()]


def main() -> int:
    """Up to KILLS kills, as many as the time allows."""
    arguments = options(__doc__, minutes=4)
    rng, until = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes
    install, scene = dev.find_or_make_install(), demo.load_scenes()[0]
    graph = Graph(scene.image, next(entry["prompt"] for entry in scene.prompts if entry["mask"]))
    lives = []
    while len(lives) < KILLS and (not lives or time.monotonic() < until):
        lives.append(one_life(install, graph, rng, kill=True))
        print(lives[-1], flush=True)
    last = one_life(install, graph, rng, kill=False)
    same = {life["coverage"] for life in lives} == {last["coverage"]}
    left = left_over(dev.CACHE / "stress-kills")
    dev.remove_base(dev.CACHE / "stress-kills")
    finished = sum(life["finished"] for life in lives)
    figures = {"kills": len(lives), "prompts_finished": finished, "same_mask": same, "left_over": left}
    return report(arguments, figures, good=same and last["coverage"] > 0 and not left)


if __name__ == "__main__":
    sys.exit(main())
