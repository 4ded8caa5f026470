"""AdamW in eight bits: close to AdamW, smaller, and refused in words where it cannot run."""

import sys

import pytest
import torch

from train.learning.loop import Trainer
from train.learning.optimizer import check_optimizer
from train.learning.resume import optimizer_tensors
from train.settings.train_config import Optimizer, load_config
from train.settings.yaml_config import ConfigError


def test_eight_bits_train_like_adamw_with_smaller_moments(config_file):
    pytest.importorskip("bitsandbytes")

    def train(kind: str):
        trainer = Trainer(load_config(config_file, [f"optimizer.kind={kind}", f"output={config_file.parent / kind}"]))
        start = [weight.detach().clone() for weight in trainer.trained.parameters()]
        for step in range(6):
            trainer.step(trainer.batches[step])
        moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(trainer.trained.parameters(), start, strict=True)])
        return moved, sum(tensor.nbytes for tensor in optimizer_tensors(trainer.trained.optimizer)[0].values())

    (exact, full), (coarse, small) = train("adamw"), train("adamw_8bit")
    assert torch.cosine_similarity(exact, coarse, dim=0) > 0.95
    assert small < 0.5 * full  # a quarter, but for weights of under 4096 numbers


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"pip install bitsandbytes.*kind: adamw"):
        check_optimizer(Optimizer(kind="adamw_8bit"), torch.device("cpu"))


def test_a_release_that_cannot_run_here_is_named(monkeypatch):
    optim = pytest.importorskip("bitsandbytes.optim")

    class CudaOnly(optim.AdamW8bit):
        def step(self, closure=None):
            raise NotImplementedError("no CPU")

    monkeypatch.setattr(optim, "AdamW8bit", CudaOnly)
    with pytest.raises(ConfigError, match=r"cannot run adamw_8bit on cpu .*no CPU.*newer bitsandbytes"):
        check_optimizer(Optimizer(kind="adamw_8bit"), torch.device("cpu"))
