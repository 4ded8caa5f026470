"""Masks at the training size: exact shares, small things stay, and what is lost is counted."""

import numpy as np
import pytest

from tests.train.helpers import folder_dataset
from train import check_data
from train.data.area import Lost, count_lost, covered_share, soft_mask
from train.data.build import open_split
from train.data.config import load_data


def by_hand(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shares by counting the points of a fine grid."""
    fine = np.kron(mask, np.ones(size, bool))  # [H*h, W*w]
    return fine.reshape(size[0], mask.shape[0], size[1], mask.shape[1]).mean((1, 3))


@pytest.mark.parametrize("size", [(5, 7), (13, 17), (4, 30), (1, 1), (11, 8)])
def test_shares_are_exact_at_any_ratio(size):
    mask = np.random.default_rng(0).random((13, 17)) < 0.4
    assert covered_share(mask, size) == pytest.approx(by_hand(mask, size), abs=1e-6)


def test_what_is_at_least_a_pixel_large_keeps_its_area():
    mask = np.zeros((300, 400), bool)
    mask[60:150, 80:200] = True
    taught = soft_mask(mask, (75, 100))
    assert taught.sum() * 16 == pytest.approx(mask.sum(), rel=1e-5)
    assert taught.max() == 1 and taught.min() == 0


@pytest.mark.parametrize("at", [(10, 10), (11, 13), (14, 15)])
def test_a_thing_smaller_than_a_pixel_is_still_there(at):
    mask = np.zeros((768, 1024), bool)
    mask[at[0] : at[0] + 3, at[1] : at[1] + 3] = True
    taught = soft_mask(mask, (96, 128))
    assert taught.max() == 1
    assert 1 <= (taught > 0.5).sum() <= 4


def test_a_wire_stays_in_one_piece():
    mask = np.zeros((256, 256), bool)
    mask[np.arange(256), np.arange(256) // 2] = True  # one pixel wide, at a quarter of the size
    taught = soft_mask(mask, (64, 64)) > 0.5
    assert taught.any(1).all()


def test_an_empty_mask_stays_empty():
    assert not soft_mask(np.zeros((30, 40), bool), (8, 8)).any()


def test_losses_are_counted_by_class(tmp_path):
    [(source, _)] = open_split(load_data(folder_dataset(tmp_path)), "train")
    at_64, at_32 = {}, {}
    for index in range(4):
        count_lost(at_64, source.sample(index), 64)
        count_lost(at_32, source.sample(index), 32)
    assert {name: one.masks for name, one in at_64.items()} == {"box": 2, "disc": 2}
    assert all(one.vanished == 0 and one.ceiling == 1 for one in at_64.values())
    assert all(one.masks == 2 and 0 < one.ceiling < 1 for one in at_32.values()) and at_32.keys() == at_64.keys()


def test_the_ceiling_falls_with_what_cannot_be_shown():
    dot, disc = np.zeros((512, 512), bool), np.zeros((512, 512), bool)
    dot[202:205, 202:205] = True  # on the corner of four pixels
    disc[100:300, 100:300] = True
    small, large = Lost(), Lost()
    small.add(dot, 128)
    large.add(disc, 128)
    assert (small.vanished, large.vanished) == (1, 0)
    assert small.ceiling < 0.7 < 0.97 < large.ceiling


def test_check_data_says_what_a_resolution_loses(tmp_path, capsys):
    path = folder_dataset(tmp_path, size=(256, 128))
    check_data.main([str(path), "--resolution", "32"])
    lines = capsys.readouterr().out.splitlines()
    [head] = [number for number, line in enumerate(lines) if "at 32 pixels" in line]
    rows = {line.split()[0]: line.split()[1:] for line in lines[head + 1 :]}
    assert set(rows) == {"box", "disc"}
    assert all(int(masks) == 6 and 0 < float(ceiling) < 0.95 for masks, _, ceiling in rows.values())
    with pytest.raises(SystemExit):
        check_data.main([str(path), "--resolution", "7"])
