"""Whatever a file holds, opening it ends in a mask model or in words, soon, and in no other error."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from digseg_nodes.core.lora_names import adapter_settings, to_kohya
from tests.bad_files import BAD, folder, mutated, mutated_folder, our_file

CASES = int(os.environ.get("DIGSEG_FUZZ_CASES", "300"))
SOON = 2.0
NOBODY = 65534
"""Seconds."""


def test_the_good_file_and_folder_are_good(tmp_path):
    """Otherwise the tables below would show nothing."""
    (tmp_path / "a.safetensors").write_bytes(our_file())
    assert open_checkpoint(tmp_path / "a.safetensors").config.threshold == 0.5
    assert open_checkpoint(folder(tmp_path / "folder")).config.unet["in_channels"] == 8


@pytest.mark.parametrize(("make", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_file_is_refused_in_words(make, words, tmp_path):
    path = make(tmp_path)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=words) as refused:
        open_checkpoint(path)
    assert time.monotonic() - started < SOON
    text = str(refused.value)
    assert len(text) < 1000 and text.endswith((".", "/.")) and "\n" not in text


def test_the_table_has_no_row_twice():
    assert len({row[0] for row in BAD}) == len(BAD) > 120


def test_mutated_files_open_or_are_refused(tmp_path):
    rng, opened = random.Random(0), 0
    for number in range(CASES):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content := mutated(rng))
        started = time.monotonic()
        try:
            checkpoint = open_checkpoint(path)
            for component in checkpoint.components:
                checkpoint.state_dict(component)
            opened += 1
        except CheckpointError:
            pass
        except Exception as error:
            (tmp_path / f"kept-{number}").write_bytes(content)
            pytest.fail(f"case {number} ended in {error!r}: {content[:3000]!r}")
        assert time.monotonic() - started < SOON
    assert 0 < opened < CASES


def test_mutated_folders_open_or_are_refused(tmp_path):
    rng, opened = random.Random(1), 0
    for number in range(CASES // 3):
        path = mutated_folder(tmp_path / "model", rng)
        try:
            open_checkpoint(path)
            opened += 1
        except CheckpointError:
            pass
        except Exception as error:
            pytest.fail(f"case {number} ended in {error!r}")
        shutil.rmtree(path)
    assert 0 < opened < CASES // 3


def test_a_flood_of_tensors_takes_no_more_memory_than_twice_the_file(tmp_path):
    name, make, _ = next(row for row in BAD if row[0] == "200,000 empty tensors")
    path = make(tmp_path)
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * path.stat().st_size, name


@pytest.fixture
def open_folder():
    """A folder in which whom permissions bind may read and write; root is somebody else as long as it is there."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        yield Path(path)
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("name", ["a.safetensors", "folder/unet/config.json", "folder"])
def test_what_may_not_be_read_is_named(name, open_folder):
    (open_folder / "a.safetensors").write_bytes(our_file())
    folder(open_folder / "folder")
    opened = open_folder / name.split("/")[0]
    assert open_checkpoint(opened).parts
    (open_folder / name).chmod(0)
    with pytest.raises(CheckpointError, match=r"who may read|cannot be read|cannot be opened"):
        open_checkpoint(opened)
    (open_folder / name).chmod(stat.S_IRWXU)


def test_a_snapshot_of_hugging_faces_cache_opens_through_its_links(tmp_path):
    """Its files are links into blobs/ beside snapshots/; a link further out is refused (table above)."""
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    folder(snapshot)
    weights = snapshot / "unet/diffusion_pytorch_model.safetensors"
    (tmp_path / "models--a--b/blobs").mkdir()
    weights.rename(tmp_path / "models--a--b/blobs/abc")
    (snapshot / "unet/part-1.safetensors").symlink_to("../../../blobs/abc")
    index = {"weight_map": {"conv_in.weight": "part-1.safetensors"}}
    (snapshot / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert open_checkpoint(snapshot).state_dict("unet")["conv_in.weight"].shape == (32, 8, 3, 3)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 10**5, "3", '{"unet.lora_alpha": ' + "9" * 5000 + "}"])
def test_a_loras_own_settings_are_read_in_words_or_not_at_all(text):
    with pytest.raises(CheckpointError, match="lora_adapter_metadata"):
        to_kohya({}, {"lora_adapter_metadata": text})


def test_peft_settings_that_are_no_table_are_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("[]")
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json.*JSON object is expected"):
        adapter_settings(tmp_path / "adapter_model.safetensors")
