"""Which samples a step trains on: a pure function of (seed, step), so a resumed run sees what it would have seen."""

import numpy as np

from train.latents.latent_cache import SampleTable


class Sampler:
    """Draws (sample, text row) pairs with class balance and a set share of absent prompts.

    balance 0 keeps the classes as frequent as they are, 1 draws every class equally often. absent is the share of
    prompts whose object is not in the image, hard_absent the share of hard ones among them (where the data tells).
    """

    def __init__(self, table: SampleTable, seed: int, absent: float, hard_absent: float, balance: float):
        self.table, self.seed = table, seed
        chances = np.zeros(len(table))
        parts = {0: 1 - absent, 1: absent * hard_absent, 2: absent * (1 - hard_absent)}
        for kind, share in _available(parts, table.absent).items():
            at = np.flatnonzero(table.absent == kind)
            chances[at] = share * _balanced(table.weight[at], table.class_id[at], balance)
        self.cumulative = np.cumsum(chances)

    def draw(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and text rows of one step, both int64 [count]."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, step], np.uint64)))
        at = np.searchsorted(self.cumulative, rng.random(count) * self.cumulative[-1], side="right")
        at = np.minimum(at, len(self.table) - 1)
        phrase = (rng.random(count) * self.table.count[at]).astype(np.int64)
        return at, self.table.phrases[self.table.first[at] + phrase]


def _available(parts: dict[int, float], absent: np.ndarray) -> dict[int, float]:
    """Shares of the kinds the data has; the share of a missing kind of absent prompt goes to the other kind."""
    present = {kind for kind in parts if (absent == kind).any()}
    total = parts[1] + parts[2]
    if 1 in present and 2 not in present:
        parts = {**parts, 1: total, 2: 0.0}
    if 2 in present and 1 not in present:
        parts = {**parts, 2: total, 1: 0.0}
    return {kind: share for kind, share in parts.items() if kind in present}


def _balanced(weight: np.ndarray, class_id: np.ndarray, balance: float) -> np.ndarray:
    """Weights times (class total)**-balance, summing to one."""
    totals = np.bincount(class_id, weight)
    chances = weight * totals[class_id] ** -balance
    return chances / chances.sum()
