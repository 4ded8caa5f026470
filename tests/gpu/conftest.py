"""Tests for a CUDA GPU. DIGSEG_GPU_TESTS=cpu runs every one of them on the CPU, small; so does CI where there is no GPU."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.train.helpers import folder_dataset, tiny_base, write_config

ASKED = "DIGSEG_GPU_TESTS"


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    """What the tests run on."""
    if torch.cuda.is_available() and os.environ.get(ASKED) != "cpu":
        yield torch.device("cuda")
        return
    if os.environ.get(ASKED) != "cpu" and not os.environ.get("CI"):
        pytest.skip(f"no CUDA GPU; {ASKED}=cpu runs these tests on the CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield torch.device("cpu")


@pytest.fixture(autouse=True)
def _new_accelerator():
    """Accelerate keeps the first Accelerator's device and precision for the rest of the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture
def config_file(tmp_path, base) -> Path:
    """A configuration of a few steps; tests add overrides."""
    return write_config(
        tmp_path / "config.yaml", base, folder_dataset(tmp_path / "data"), tmp_path / "cache", 4, every=2, images=1
    )
