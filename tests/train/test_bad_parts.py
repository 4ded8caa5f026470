"""A checkpoint whose parts cannot be built, or whose tensors do not fit them, is refused in one line of words."""

from pathlib import Path

import pytest
import torch

from digseg_nodes.core.checkpoint import CheckpointError
from tests.bad_parts import UNFIT, UNFIT_TRAINED, spoiled
from tests.train.helpers import tiny_base
from train.networks.bases import load_networks

ROWS = UNFIT + UNFIT_TRAINED


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A tiny DiGSeg checkpoint."""
    return tiny_base(tmp_path_factory.mktemp("good") / "good.safetensors", in_channels=8)


@pytest.mark.parametrize(("fields", "tensors", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_part_that_does_not_fit_is_named(good, tmp_path, fields, tensors, words):
    path = spoiled(good, tmp_path / "bad.safetensors", fields, tensors)
    with pytest.raises(CheckpointError, match=words) as refused:
        load_networks(path)
    assert "bad.safetensors" in str(refused.value) or "The checkpoint's" in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_the_good_file_loads_and_so_does_fp8(good, tmp_path):
    """Otherwise the table would show nothing."""
    assert load_networks(good).unet.config.in_channels == 8
    name = "embeddings.token_embedding.weight"
    half = spoiled(good, tmp_path / "half.safetensors", {}, {name: lambda t: t.to(torch.float8_e4m3fn)})
    assert load_networks(half).text_encoder.dtype == torch.float32
