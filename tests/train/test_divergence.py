"""A training that diverges ends in words; nothing that is no number reaches weights, averages, states or exports."""

import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from train.data.base import Query
from train.finetune import main as finetune
from train.learning.divergence import MOST_SKIPPED, DivergedError, DivergenceGuard
from train.learning.loop import Trainer
from train.learning.resume import latest_state
from train.networks.bases import load_networks
from train.predict import main as predict
from train.scoring.scores import score
from train.settings.train_config import load_config


@pytest.mark.parametrize(
    "more", [[], ["validation.every=1"], ["ema=0", "gradient_accumulation=2"], ["optimizer.max_grad_norm=null"]]
)
@pytest.mark.parametrize("lr", ["1e30", "1e38"])
def test_a_diverged_run_ends_in_words_and_leaves_no_file(config_file, lr, more):
    line = [
        "--config",
        str(config_file),
        "steps=6",
        f"optimizer.lr={lr}",
        "optimizer.warmup_steps=0",
        "checkpoints.every=1",
        *more,
    ]
    with pytest.raises(SystemExit) as end:
        finetune(line)
    message = str(end.value)
    assert "has diverged at step" in message and "Try a lower optimizer.lr" in message and "learning rate 1e+3" in message
    output = load_config(config_file).output
    assert not (output / "digseg.safetensors").exists()
    for file in output.rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values()), file


def test_the_last_good_state_is_named_and_whole(config_file):
    finetune(["--config", str(config_file), "steps=3", "checkpoints.every=1"])
    good = latest_state(load_config(config_file).output / "checkpoints")
    trainer = Trainer(load_config(config_file, ["steps=5", "checkpoints.every=1"]))
    before = {name: weight.clone() for name, weight in load_file(good).items()}
    loss = trainer.loss
    trainer.loss = lambda networks, batch: loss(networks, batch) * math.nan
    with pytest.raises(DivergedError, match=f"at step 4: loss nan.*The last good state is .*{good.name}"):
        trainer.run()
    kept = load_file(latest_state(trainer.config.output / "checkpoints"))
    assert latest_state(trainer.config.output / "checkpoints") == good
    assert all(torch.equal(before[name], kept[name]) for name in before)


def test_a_finite_loss_with_gradients_that_are_none_stops_before_the_weights_move(config_file):
    trainer = Trainer(load_config(config_file, ["steps=2"]))
    weights = [weight.clone() for weight in trainer.trained.parameters()]
    poisoned = next(iter(trainer.trained.parameters()))
    poisoned.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    with pytest.raises(DivergedError, match="gradient norm inf"):
        trainer.step(trainer.batches[0])
    assert all(torch.equal(old, new) for old, new in zip(weights, trainer.trained.parameters(), strict=True))


def test_the_log_has_the_gradient_norm(config_file):
    finetune(["--config", str(config_file), "steps=2", "log_every=1"])
    lines = [json.loads(line) for line in (load_config(config_file).output / "log.jsonl").read_text().splitlines()]
    norms = [line["grad_norm"] for line in lines if "loss" in line]
    fresh = Trainer(load_config(config_file, ["steps=2", f"output={config_file.parent / 'by hand'}"]))
    fresh._forward(fresh.batches[0][0]).backward()
    expected = math.hypot(*(float(weight.grad.norm()) for weight in fresh.trained.parameters()))
    assert len(norms) == 2 and norms[0] == pytest.approx(expected, rel=1e-4), "before it is bounded"
    assert norms[1] > 0 and norms[1] != norms[0]


def test_steps_that_fp16_skips_are_no_divergence_until_they_go_on():
    guard = DivergenceGuard(lambda: None, "fp16", scaled=True)
    for step in range(1, MOST_SKIPPED + 1):
        guard.check_step(step, 0.5, math.inf, 1e-4)
    guard.check_step(MOST_SKIPPED + 1, 0.5, 1.0, 1e-4)
    assert guard.skipped == 0
    with pytest.raises(DivergedError, match=rf"{MOST_SKIPPED + 1} steps in a row.*No state had been saved yet.*bf16 or no"):
        for step in range(1, MOST_SKIPPED + 2):
            guard.check_step(step, 0.5, math.inf, 1e-4)
    with pytest.raises(DivergedError, match="loss nan"):
        guard.check_step(1, math.nan, math.inf, 1e-4)


def test_a_state_that_is_no_number_is_not_gone_on_from(config_file):
    finetune(["--config", str(config_file), "steps=2", "checkpoints.every=1"])
    state = latest_state(load_config(config_file).output / "checkpoints")
    tensors = load_file(state)
    name = next(name for name in tensors if name.startswith("unet."))
    tensors[name][...] = math.nan
    with safe_open(str(state), "pt") as file:
        values = file.metadata()
    save_file(tensors, state, metadata=values)
    with pytest.raises(SystemExit, match=r"hold NaN or infinite values, e.g. unet"):
        finetune(["--config", str(config_file), "steps=4"])


def test_weights_too_large_for_the_exports_precision_are_not_written(config_file):
    trainer = Trainer(load_config(config_file, ["steps=1", "export.dtype=fp16"]))
    trainer.run()
    (trainer.config.output / "digseg.safetensors").unlink()
    with torch.no_grad():
        next(iter(trainer.trained.parameters())).fill_(1e6)
    trainer.trained.ema = None
    with pytest.raises(DivergedError, match=r"digseg.safetensors was not written: 1 of .*do not fit export.dtype: fp16"):
        trainer.checkpointer.export_last(1)
    assert not (trainer.config.output / "digseg.safetensors").exists()


@pytest.fixture
def broken(base, tmp_path):
    """A checkpoint one of whose U-Net tensors has become NaN."""
    path = shutil.copy(base, tmp_path / "broken.safetensors")
    tensors = load_file(path)
    tensors["unet.conv_in.weight"][0] = math.nan
    save_file(tensors, path, metadata=open_checkpoint(base, in_channels=4).metadata)
    return path


def test_a_checkpoint_of_no_numbers_is_refused_by_name(broken, data, tmp_path):
    with pytest.raises(CheckpointError, match=r"The unet of .*broken.safetensors holds NaN.*unet|conv_in"):
        load_networks(broken)
    line = ["--checkpoint", broken, "--images", data.parent / "images", "--prompts", "disc", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit, match="holds NaN or infinite values in 1 of"):
        predict([*map(str, line)])
    assert not (tmp_path / "out").exists()


def test_a_mask_that_is_no_number_is_not_scored():
    soft, flags = torch.full((8, 8), math.nan), torch.ones(8, 8, dtype=torch.bool)
    with pytest.raises(CheckpointError, match="The mask of 'a cat' on image 3 holds NaN"):
        score(3, Query("cat", ("a cat",), flags.numpy()), soft, flags, flags, 0.5)
