"""Which samples a step trains on: a pure function of (seed, step), so a resumed run sees what it would have seen.

A micro-batch holds one shape. Its first sample is drawn from all; it settles the shape, and the others are drawn from the
samples of that shape by the same chances. So every sample is as likely as without shapes, and balance and the share of absent
prompts stay what they were set to.
"""

import numpy as np

from train.latents.table import SampleTable


class Sampler:
    """Draws (sample, text row) pairs with class balance and a set share of absent prompts.

    balance 0 keeps the classes as frequent as they are, 1 draws every class equally often. absent is the share of
    prompts whose object is not in the image, hard_absent the share of hard ones among them (where the data tells).
    """

    def __init__(self, table: SampleTable, seed: int, absent: float, hard_absent: float, balance: float):
        self.table, self.seed = table, seed
        chances = np.zeros(len(table))
        parts = {0: 1 - absent, 1: absent * hard_absent, 2: absent * (1 - hard_absent)}
        for kind, share in _available(parts, table.rows["absent"]).items():
            at = np.flatnonzero(table.rows["absent"] == kind)
            chances[at] = share * _balanced(table.rows["weight"][at], table.rows["class_id"][at], balance)
        self.cumulative = np.cumsum(chances)
        members = [np.flatnonzero(table.rows["shape"] == shape) for shape in range(len(table.shapes))]
        self.members = [(at, np.cumsum(chances[at])) for at in members]

    def draw(self, step: int, count: int, group: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and text rows of one step, both int64 [count]; every `group` samples in a row have one shape."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed % 2**64, step], np.uint64)))
        luck = rng.random(count)
        at = _drawn(self.cumulative, luck)
        if len(self.members) > 1:
            for first in range(0, count, group):
                one_shape, cumulative = self.members[self.table.rows["shape"][at[first]]]
                at[first + 1 : first + group] = one_shape[_drawn(cumulative, luck[first + 1 : first + group])]
        phrase = (rng.random(count) * self.table.rows["count"][at]).astype(np.int64)
        return at, self.table.phrases[self.table.rows["first"][at] + phrase]


def _drawn(cumulative: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """Numbers of the chances that `luck` in [0, 1) falls into."""
    return np.minimum(np.searchsorted(cumulative, luck * cumulative[-1], side="right"), len(cumulative) - 1)


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
