"""Several processes fill one latent cache; killed ones, damaged and cut rows leave nothing wrong behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.helpers import folder_dataset
from train.data.base import DataError, Query, Sample
from train.data.build import open_split
from train.data.config import load_data
from train.latents import row_store
from train.latents.latent_cache import LatentCache
from train.latents.row_store import Part, Rows, RowStore, digest
from train.latents.sharing import SharedWork
from train.latents.tally import Tally
from train.networks.bases import load_networks

IMAGES, BATCH = 16, 2
SCRIPT = Path(__file__).with_name("fill_cache.py")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return folder_dataset(tmp_path_factory.mktemp("many"), count=IMAGES)


@pytest.fixture(scope="module")
def vae(base):
    return load_networks(base).vae


@pytest.fixture(scope="module")
def source(many):
    return open_split(load_data(many), "train")[0][0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, vae, source) -> dict:
    """What one process makes."""
    cache = LatentCache(tmp_path_factory.mktemp("alone"), vae, 64, BATCH)
    cache.fill(source, progress=False)
    return content(cache, source)


def content(cache: LatentCache, source) -> dict:
    """Every row of a filled cache by its key, and the entries."""
    entries, stores = cache.add(source, progress=False), cache.stores((64, 64))
    found = {"entries": entries}
    for name in ("images", "masks", "bits", "valid"):
        store, rows = getattr(stores, name), getattr(stores, name).rows()
        found[name] = {key: rows.read([at]).numpy().tobytes() for key, at in store.index.items()}
    return found


def start(base: Path, many: Path, cache: Path, go: Path, pause: float) -> subprocess.Popen:
    line = [sys.executable, str(SCRIPT), *map(str, (base, many, cache, go, pause))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(cache: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in cache.glob("*/samples-*.jsonl"))


def test_two_processes_make_what_one_makes(tmp_path, base, many, vae, source, alone):
    cache, go = tmp_path / "cache", tmp_path / "go"
    processes = [start(base, many, cache, go, 0.2) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()
    go.touch()
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    shares = [int(printed.removeprefix("encoded ").split()[0]) for printed, _ in said]
    assert sum(shares) == IMAGES and min(shares) > 0
    for (printed, _), other in zip(said, reversed(shares), strict=True):
        assert f"(other processes: {other})" in printed
    filled = LatentCache(cache, vae, 64, BATCH)
    assert lines(cache) == IMAGES
    assert content(filled, source) == alone
    assert not list(filled.folder.glob("work/*"))


def test_what_a_killed_process_was_at_is_done_by_the_other(tmp_path, base, many, vae, source, alone):
    cache, go = tmp_path / "cache", tmp_path / "go"
    go.touch()
    killed = start(base, many, cache, go, 0.5)
    while lines(cache) < 2 * BATCH:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    there = lines(cache)
    assert 2 * BATCH <= there < IMAGES
    filled = LatentCache(cache, vae, 64, BATCH)
    assert len(filled.entries) == there  # nothing that was written is lost
    assert content(filled, source) == alone


def test_a_batch_held_by_another_process_is_waited_for(tmp_path):
    done = set()
    first, second = (SharedWork(tmp_path, list("abcd"), 2, done.__contains__, lambda: None) for _ in range(2))
    with first, second:
        assert next(first.taken([0, 1])) == 0
        assert list(second.taken([0, 1])) == [1]
        second.give_back(1)
        done.update("cd")
        assert list(second.taken([0, 1])) == []
        first.give_back(0)  # not done: it failed
        assert list(next(second.rounds())) == [0]
        done.update("ab")
    assert second.open() == []


def test_a_batch_that_was_done_between_two_looks_is_not_done_again(tmp_path):
    done = set()
    with SharedWork(tmp_path, list("ab"), 2, done.__contains__, lambda: done.update("ab")) as work:
        assert list(work.taken([0])) == [] and not work.held


def filled_cache(folder: Path, vae, source) -> LatentCache:
    cache = LatentCache(folder, vae, 64, BATCH)
    cache.fill(source, progress=False)
    return cache


@pytest.mark.parametrize("name", ["images", "masks", "bits"])
def test_a_damaged_row_is_named_and_encoded_again(tmp_path, vae, source, alone, name):
    cache = filled_cache(tmp_path, vae, source)
    store = getattr(cache.stores((64, 64)), name)
    content_of_file = bytearray((cache.folder / f"{name}.rows").read_bytes())
    content_of_file[3 * store.row_bytes + 5] ^= 4
    (cache.folder / f"{name}.rows").write_bytes(content_of_file)
    rows = store.rows()
    rows.read([0, 1, 2, 4])  # the others are as they were
    with pytest.raises(DataError, match=rf"{name}\.rows: row 3 \(.*\) does not have its checksum.*start the same command again"):
        rows.read([2, 3])
    again = LatentCache(tmp_path, vae, 64, BATCH)
    assert len(again.entries) < IMAGES
    assert content(again, source) == alone


@pytest.mark.parametrize("name", ["images", "masks", "bits"])
def test_rows_that_are_cut_off_are_named_and_encoded_again(tmp_path, vae, source, alone, name, capsys):
    cache = filled_cache(tmp_path, vae, source)
    store, file = getattr(cache.stores((64, 64)), name), cache.folder / f"{name}.rows"
    rows, count = store.rows(), len(store)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - store.row_bytes - 1)
    with pytest.raises(DataError, match=f"row {count - 1} .* is cut short"):
        rows.read([count - 1])
    again = LatentCache(tmp_path, vae, 64, BATCH)
    assert f"{name}.rows was cut short: 2 rows are missing" in capsys.readouterr().out
    assert content(again, source) == alone


def test_a_cache_of_before_checksums_is_gone_on_with(tmp_path, vae, source, alone, monkeypatch, capsys):
    cache = filled_cache(tmp_path, vae, source)
    for file in cache.folder.glob("*.sums"):
        file.unlink()
    monkeypatch.setattr("train.latents.encoder.encode_pixels", None)
    assert content(LatentCache(tmp_path, vae, 64, BATCH), source) == alone
    assert "images.rows is of an earlier version: its 16 rows get checksums" in capsys.readouterr().out


def test_a_cut_list_of_keys_never_gives_a_key_another_row(tmp_path, vae, source):
    cache = filled_cache(tmp_path, vae, source)
    store, file = cache.stores((64, 64)).images, cache.folder / "images.rows"
    keys = list(store.index)
    with file.open("r+b") as opened:
        opened.truncate(2 * store.row_bytes)
    again = LatentCache(tmp_path, vae, 64, BATCH).stores((64, 64)).images
    again.append([keys[9]], np.ones((1, *store.shape), np.float32))
    assert list(LatentCache(tmp_path, vae, 64, BATCH).stores((64, 64)).images.index) == [*keys[:2], keys[9]]


def test_a_row_that_two_processes_wrote_counts_where_it_comes_first(tmp_path):
    keys, rows = [digest("a"), digest("b")], np.arange(4, dtype=np.float16).reshape(2, 2)
    for number, order in ((1, [1, 0]), (0, [0, 1])):  # the later part first
        Part(tmp_path, "x", number, 4).append([keys[at] for at in order], [rows[at].tobytes() for at in order])
    store = RowStore(tmp_path, "x", (2,))
    assert store.index == {keys[0]: 0, keys[1]: 1}
    late = RowStore(tmp_path / "late", "x", (2,))
    for number in (1, 0):  # the first part is seen after the second
        Part(tmp_path / "late", "x", number, 4).append(keys, [row.tobytes() for row in rows])
        late.refresh()
    assert late.index == {keys[0]: 0, keys[1]: 1}


@pytest.mark.parametrize("stops_at", [".rows", ".sums"])
def test_a_key_never_stands_beside_anothers_row_when_the_writer_is_killed(tmp_path, monkeypatch, stops_at):
    keys = [digest(letter) for letter in "abc"]
    part = Part(tmp_path, "x", 0, 4)
    part.append(keys, [letter * 4 for letter in (b"a", b"b", b"c")])
    with part.rows_file.open("r+b") as opened:
        opened.truncate(4)  # two rows are lost, their keys are not
    write = row_store._write_at

    def killed(file: Path, position: int, content: bytes) -> None:
        write(file, position, content)
        if file.suffix == stops_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(row_store, "_write_at", killed)
    with pytest.raises(KeyboardInterrupt):
        part.append([digest("d")], [b"dddd"])
    assert list(RowStore(tmp_path, "x", (2,)).index) == keys[:1]


def test_another_process_that_failed_in_its_first_write_holds_nobody_up(tmp_path, monkeypatch):
    store, key = RowStore(tmp_path, "x", (2,)), digest("a")

    def full(file: Path, position: int, content: bytes) -> None:
        write(file, position, content)
        if file.suffix == ".rows":
            raise OSError(28, "No space left on device")

    write = row_store._write_at
    with monkeypatch.context() as patch:
        patch.setattr(row_store, "_write_at", full)
        with pytest.raises(OSError, match="No space left"):
            RowStore(tmp_path, "x", (2,)).append([key], np.ones((1, 2), np.float16))
    store.append([key], np.ones((1, 2), np.float16))
    assert store.index == {key: 0}


def test_rows_are_read_in_another_process_too(tmp_path, vae, source):
    import pickle

    rows = filled_cache(tmp_path, vae, source).stores((64, 64)).images.rows()
    there = pickle.loads(pickle.dumps(rows))  # noqa: S301 (our own, as a DataLoader's worker gets it)
    assert isinstance(there, Rows)
    assert torch.equal(there.read([5, 1]), rows.read([5, 1]))


class Absent:
    """Two photos, each asked for a thing that is there and one that is not."""

    class_names = ("thing", "other")

    def __len__(self) -> int:
        return 2

    def identity(self, index: int) -> str:
        return f"absent {index}"

    def sample(self, index: int) -> Sample:
        image = np.full((64, 64, 3), 60 * index + 20, np.uint8)
        mask = np.zeros((64, 64), bool)
        mask[8:40, 8 : 20 + index] = True
        return Sample(image, (Query("thing", ("thing",), mask), Query("other", ("other",), None, "absent_random")))


@pytest.mark.parametrize(("target", "rows", "asked"), [("binary", 3, 5), ("overlay", 2, 4)])
def test_what_is_absent_is_encoded_once_for_all_photos(tmp_path, vae, target, rows, asked):
    cache = LatentCache(tmp_path, vae, 64, BATCH, target=target)
    tally = Tally(shown=False, missing=2)
    with tally, SharedWork(tmp_path / "work", ["absent 0", "absent 1"], 1, cache.entries.__contains__, cache.refresh) as work:
        cache._encode_batches(Absent(), work, work.taken(work.batches()), tally)
    entries = cache.add(Absent())
    assert (len(cache.stores((64, 64)).masks), tally.encodes) == (rows, asked)
    image, target_row, _, _ = cache.rows_of(entries[1], 1)
    stores = cache.stores((64, 64))
    if target == "overlay":  # nothing is painted on the photo
        assert target_row == -1
    else:
        assert target_row == cache.rows_of(entries[0], 1)[1]
        assert not torch.equal(stores.masks.rows().read([target_row]), stores.images.rows().read([image]))


@pytest.mark.parametrize(("waited", "limit"), [(6.0, "reading limits it"), (1.0, "the encoder limits it")])
def test_the_line_at_the_end_says_what_limits(waited, limit):
    tally = Tally(shown=True, missing=30)
    tally.images, tally.encodes, tally.waited, tally.worked = 20, 100, waited, 10.0 - waited
    assert tally.line().startswith("encoded 20 images in 10.0 s (other processes: 10): 2.00 images/s, 10.00 encodes/s, ")
    assert f"{waited / 10:.0%} of the time waiting for reading; {limit}" in tally.line()


def test_every_precision_has_rows_of_its_own_and_a_cache_in_float32_is_gone_on_with(tmp_path, vae, source):
    own = LatentCache(tmp_path / "new", vae, 64, BATCH, precision="bf16")
    assert (own.folder.name.endswith("-64-bf16"), own.encoder.precision) == (True, "bf16")
    plain = filled_cache(tmp_path / "old", vae, source)
    going_on = LatentCache(tmp_path / "old", vae, 64, BATCH, precision="bf16")
    assert (going_on.folder, going_on.encoder.precision) == (plain.folder, "no")
    assert len(going_on.entries) == IMAGES
