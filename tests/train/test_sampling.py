"""Which samples are drawn: shares, balance, and the same ones for the same (seed, step)."""

import numpy as np
import pytest

from train.data.build import open_split
from train.data.config import load_data
from train.latents.fresh import FreshSamples
from train.latents.sampler import Sampler
from train.latents.table import ROW, SampleTable, build_table
from train.networks.bases import load_networks
from train.networks.text_encoding import TextCache


def table(shapes: int = 1) -> SampleTable:
    """90 x class 0, 10 x class 1, 10 hard and 10 random absent prompts, in turn of `shapes` shapes."""
    rows, numbers = np.zeros(120, ROW), np.arange(120)
    for name in ("place", "image", "mask", "bits", "first"):
        rows[name] = numbers
    rows["valid"], rows["count"], rows["weight"] = -1, 1, 1 / 120
    rows["absent"], rows["shape"] = np.repeat([0, 1, 2], [100, 10, 10]), numbers % shapes
    rows["class_id"][90:100] = 1
    return SampleTable(rows, numbers, ["a", "b"], [(64, 64 + 8 * number) for number in range(shapes)])


def shares(absent: float = 0.2, hard: float = 0.7, balance: float = 0.0, shapes: int = 1) -> tuple[np.ndarray, float]:
    sampler = Sampler(table(shapes), 0, absent, hard, balance)
    at = np.concatenate([sampler.draw(step, 500, 4)[0] for step in range(20)])
    kinds = np.bincount(sampler.table.rows["absent"][at], minlength=3) / len(at)
    present = at[sampler.table.rows["absent"][at] == 0]
    return kinds, float((sampler.table.rows["class_id"][present] == 1).mean())


def test_absent_prompts_have_their_shares():
    kinds, _ = shares(absent=0.2, hard=0.7)
    assert kinds == pytest.approx([0.8, 0.14, 0.06], abs=0.015)


@pytest.mark.parametrize(("balance", "rare"), [(0.0, 0.1), (1.0, 0.5)])
def test_balance_moves_from_natural_to_equal_frequencies(balance, rare):
    assert shares(balance=balance)[1] == pytest.approx(rare, abs=0.02)


def test_shapes_change_no_share():
    kinds, _ = shares(absent=0.2, hard=0.7, shapes=3)
    assert kinds == pytest.approx([0.8, 0.14, 0.06], abs=0.025)
    assert shares(balance=1.0, shapes=3)[1] == pytest.approx(0.5, abs=0.04)


def test_a_micro_batch_holds_one_shape_and_every_shape_comes_up():
    sampler = Sampler(table(3), 0, 0.2, 0.5, 0.5)
    shapes = np.stack([sampler.table.rows["shape"][sampler.draw(step, 12, 4)[0]].reshape(3, 4) for step in range(20)])
    assert (shapes == shapes[..., :1]).all() and set(shapes.flat) == {0, 1, 2}


def test_a_draw_depends_on_seed_and_step_alone():
    wordy = table()
    wordy.rows["first"], wordy.rows["count"] = 0, 100  # which sample, and which of its phrases
    first, second = Sampler(wordy, 5, 0.2, 0.5, 0.5), Sampler(wordy, 5, 0.2, 0.5, 0.5)
    first.draw(1, 8)
    expected, others = first.draw(7, 8), (first.draw(8, 8), Sampler(wordy, 6, 0.2, 0.5, 0.5).draw(7, 8))
    for part, again in zip(expected, second.draw(7, 8), strict=True):
        assert np.array_equal(part, again)
    for other in others:
        assert not np.array_equal(expected[0], other[0])
        assert not np.array_equal(expected[1], other[1])


def test_sources_of_a_mix_are_drawn_by_their_weights(base, data, tmp_path):
    """Three times the weight is three times as often, however many images a source has."""
    part = f"type: folder, images: {data.parent / 'images'}, masks: {data.parent / 'masks'}"
    (tmp_path / "mix.yaml").write_text(
        f"train:\n  - {{{part}, weight: 3, limit: 2, classes: [box]}}\n  - {{{part}, weight: 1}}\n", encoding="utf-8"
    )
    sources = open_split(load_data(tmp_path / "mix.yaml"), "train")
    texts = TextCache(tmp_path, load_networks(base).text_encoder)
    mixed = build_table(sources, FreshSamples(tmp_path, 64), texts)
    from_first = mixed.rows["place"] < len(sources[0][0])
    assert mixed.rows["weight"][from_first].sum() == pytest.approx(0.75)
    sampler = Sampler(mixed, 0, absent=0.0, hard_absent=0.0, balance=0.0)
    at = np.concatenate([sampler.draw(step, 500)[0] for step in range(8)])
    present = mixed.rows["absent"] == 0
    expected = mixed.rows["weight"][present & from_first].sum() / mixed.rows["weight"][present].sum()
    assert from_first[at].mean() == pytest.approx(expected, abs=0.03)
