"""Fill a latent cache with a small data set, slowly, as one of several processes: BASE DATA CACHE GO [PAUSE].

It says "ready", waits for the file GO, and rests PAUSE seconds after every batch.
"""

import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from train.data.build import open_split
from train.data.config import load_data
from train.latents.latent_cache import LatentCache
from train.networks.bases import load_networks


class SlowCache(LatentCache):
    """A cache that rests after every batch, so that several processes meet in it."""

    def __init__(self, *arguments, pause: float, **settings):
        super().__init__(*arguments, **settings)
        self.pause = pause

    def _remember(self, entries) -> None:
        super()._remember(entries)
        time.sleep(self.pause)


def main() -> None:
    """As one process."""
    torch.set_num_threads(1)
    base, data, cache, go = (Path(word) for word in sys.argv[1:5])
    filled = SlowCache(cache, load_networks(base).vae, 64, batch=2, pause=float(sys.argv[5]))
    (source, _) = open_split(load_data(data), "train")[0]
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.01)
    filled.fill(source)


if __name__ == "__main__":
    main()
