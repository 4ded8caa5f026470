"""Fixtures of the trainer's tests: a tiny random base and a tiny folder data set, made once."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.train.helpers import folder_dataset, tiny_base

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
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""base: {base}
data: {data}
output: {tmp_path / "run"}
cache: {base.parent / "cache"}
resolution: 64
steps: 12
batch_size: 2
log_every: 1
optimizer: {{lr: 1.0e-3, warmup_steps: 2}}
validation: {{every: 100, images: 2}}
checkpoints: {{every: 3}}
export: {{dtype: fp32}}
""",
        encoding="utf-8",
    )
    return path
