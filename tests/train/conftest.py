"""Fixtures of the trainer's tests: a tiny random base and a tiny folder data set, made once."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.train.helpers import folder_dataset, tiny_base, write_config

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _new_accelerator():
    """Accelerate keeps the first Accelerator's precision for the rest of the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return folder_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config_file(tmp_path, base, data) -> Path:
    """A configuration of a few steps; tests add overrides."""
    return write_config(tmp_path / "config.yaml", base, data, base.parent / "cache", steps=12, every=3, images=2)
