"""A data set of DiGSeg Save Training Pair is checked and trained on as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digseg_nodes.core.training_pairs import DATA_FILE, Pair, save_pairs
from train.data.config import load_data
from train.data.folder import FolderSource

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path) -> Path:
    """Four photos: a disc on three, none on the last; the class has a name that no folder may have."""
    rng, pairs = np.random.default_rng(0), []
    y, x = np.mgrid[:64, :64]
    for number in range(4):
        mask = (y - 32) ** 2 + (x - 24 - 4 * number) ** 2 < 150 if number < 3 else np.zeros((64, 64), bool)
        photo = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        photo[mask] = (220, 40, 40)
        pairs.append(Pair(photo, {"red disc / spot": mask}))
    save_pairs(tmp_path / "set", pairs)
    return tmp_path / "set" / DATA_FILE


def test_the_trainer_reads_what_was_saved(data):
    [config] = load_data(data).split("train")
    source = FolderSource(config)
    samples = [source.sample(number) for number in range(len(source))]
    queries = [query for sample in samples for query in sample.queries]
    assert len(queries) == 4 and {query.name for query in queries if query.mask is not None} == {source.class_names[0]}
    assert source.plain_prompt(source.class_names[0]) == "red disc / spot"
    assert sum(query.mask is None for query in queries) == 1, "an empty mask: it is not there"


def test_check_data_and_two_steps_of_training_take_it_as_it_is(data):
    check = subprocess.run([sys.executable, ROOT / "train/check_data.py", data], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
    overrides = ["steps=2", "batch_size=2", f"output={data.parent.parent / 'run'}", "augment.variants=1"]
    command = [sys.executable, ROOT / "train/finetune.py", "--config", ROOT / "train/configs/lora_example.yaml", f"data={data}"]
    trained = subprocess.run(
        [*command, *overrides, f"cache={data.parent.parent / 'cache'}"], capture_output=True, text=True, cwd=ROOT
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (data.parent.parent / "run/digseg-lora.safetensors").is_file()
