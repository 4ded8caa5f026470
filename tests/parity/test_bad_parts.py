"""A checkpoint whose parts cannot be built, or whose tensors do not fit them, is refused by the loaders in one line of words."""

from pathlib import Path

import pytest

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from tests.bad_parts import UNFIT, spoiled
from tests.train.helpers import tiny_base


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A tiny DiGSeg checkpoint."""
    return tiny_base(tmp_path_factory.mktemp("good") / "good.safetensors", in_channels=8)


def load(host, path: Path) -> tuple:
    """MODEL, CLIP and VAE, as Load DiGSeg Checkpoint does."""
    opened = open_checkpoint(path)
    return host.load_model(opened), host.load_clip(opened), host.load_vae(opened)


@pytest.mark.parametrize(("fields", "tensors", "words"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_a_part_that_does_not_fit_is_named(host, good, tmp_path, fields, tensors, words):
    path = spoiled(good, tmp_path / "bad.safetensors", fields, tensors)
    with pytest.raises(CheckpointError, match=words) as refused:
        load(host, path)
    assert "bad.safetensors" in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_the_good_file_loads(host, good):
    """Otherwise the table would show nothing."""
    assert all(load(host, good))
