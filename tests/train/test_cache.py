"""The row stores: nothing is encoded twice, and a killed writer leaves nothing wrong behind."""

import numpy as np
import pytest
import torch

from train.data.build import open_split
from train.data.config import load_data
from train.latents.latent_cache import LatentCache
from train.latents.row_store import RowStore, digest, fill
from train.latents.table import build_table
from train.networks.bases import load_networks
from train.networks.text_encoding import TextCache


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None] * np.ones((1, 3), np.float32)


def all_rows(store: RowStore) -> torch.Tensor:
    """The first number of every row, in the order of their numbers."""
    return store.rows().read(sorted(store.index.values()))[:, 0]


def test_rows_come_back_and_duplicates_are_kept_once(tmp_path):
    store = RowStore(tmp_path, "x", (3,))
    keys = [digest(name) for name in "aba"]
    store.append(keys, rows(1, 2, 1))
    assert len(store) == 2
    again = RowStore(tmp_path, "x", (3,))
    assert again.rows().read([again.index[key] for key in keys])[:, 0].tolist() == [1, 2, 1]


@pytest.mark.parametrize("torn", ["rows", "keys"])
def test_a_torn_tail_is_dropped(tmp_path, torn):
    RowStore(tmp_path, "x", (3,)).append([digest("a")], rows(1))
    with (tmp_path / f"x.{torn}").open("ab") as file:
        file.write(b"\1\2\3")
    store = RowStore(tmp_path, "x", (3,))
    assert len(store) == 1
    store.append([digest("b")], rows(2))
    assert all_rows(RowStore(tmp_path, "x", (3,))).tolist() == [1, 2]


def test_keys_without_their_rows_do_not_count(tmp_path):
    RowStore(tmp_path, "x", (3,)).append([digest("a")], rows(1))
    with (tmp_path / "x.keys").open("ab") as file:
        file.write(digest("b"))
    store = RowStore(tmp_path, "x", (3,))
    assert digest("b") not in store
    store.append([digest("c")], rows(3))
    assert RowStore(tmp_path, "x", (3,)).index == {digest("a"): 0, digest("c"): 1}


def test_fill_encodes_only_what_is_missing(tmp_path):
    store, asked = RowStore(tmp_path, "x", (3,)), []

    def encode(positions):
        asked.extend(positions)
        return torch.ones(len(positions), 3)

    fill(store, [digest("a"), digest("b")], encode, batch=1)
    fill(store, [digest("b"), digest("c")], encode, batch=1)
    assert asked == [0, 1, 1]


def test_a_second_run_encodes_nothing(tmp_path, base, data, monkeypatch):
    networks, sources = load_networks(base), open_split(load_data(data), "train")

    def table():
        latents, texts = LatentCache(tmp_path, networks.vae, 64), TextCache(tmp_path, networks.text_encoder)
        return build_table(sources, latents, texts)

    first = table()
    monkeypatch.setattr("train.latents.encoder.encode_pixels", None)
    monkeypatch.setattr("train.networks.text_encoding.encode_texts", None)
    second = table()
    assert np.array_equal(first.rows, second.rows)
    assert np.array_equal(first.phrases, second.phrases)


def test_an_interrupted_run_keeps_what_was_encoded(tmp_path, base, data, monkeypatch):
    networks, (source, _) = load_networks(base), open_split(load_data(data), "train")[0]
    cache = LatentCache(tmp_path, networks.vae, 64, batch=1)
    monkeypatch.setattr(cache, "_remember", _fail_after(cache._remember, 2))
    with pytest.raises(KeyboardInterrupt):
        cache.add(source, progress=False)
    assert len(LatentCache(tmp_path, networks.vae, 64).entries) == 2
    assert len(LatentCache(tmp_path, networks.vae, 64).add(source, progress=False)) == 4


def _fail_after(function, times: int):
    calls = iter(range(times))

    def wrapped(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped
