"""A mask decoder trained along with the U-Net, and its loss going back into it."""

import json

import numpy as np
import pytest
import torch

from digseg_nodes.core.checkpoint import open_checkpoint
from train.latents.guides import Guides, draw_view
from train.learning.forecast import estimate
from train.learning.loop import Trainer
from train.learning.resume import latest_state, load_state
from train.networks.engine import open_segmenter
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError

JOINT = ["objective=end_to_end", "mask_decoder={lr: 1.0e-3}", "steps=4", "validation.every=4"]
MASK = [*JOINT, "end_to_end.loss=mask"]


def trainer(config_file, *overrides: str) -> Trainer:
    return Trainer(load_config(config_file, list(overrides)))


def gradients(config_file, *overrides: str) -> dict[str, torch.Tensor]:
    """The U-Net's gradients of the first batch."""
    one = trainer(config_file, *overrides)
    one._forward(one.batches[0][0]).backward()
    return {name: weight.grad.clone() for name, weight in one.networks.unet.named_parameters()}


@pytest.mark.timeout(300)
def test_masks_train_the_unet_only_when_asked_to(config_file):
    alone = gradients(config_file, "objective=end_to_end")
    beside = gradients(config_file, *JOINT)
    through = gradients(config_file, *MASK)
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
    assert not torch.allclose(alone["conv_in.weight"], through["conv_in.weight"], rtol=1e-2)
    focal = gradients(config_file, *MASK, "mask_decoder.focal=2")
    assert not torch.allclose(focal["conv_in.weight"], through["conv_in.weight"], rtol=1e-2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cached", ["true", "false"])
def test_decoder_learns_and_is_exported_with_its_average(config_file, cached):
    one = trainer(config_file, *MASK, f"cache_latents={cached}", "mask_decoder.guide=2", "ema=0.5")
    before = {name: weight.clone() for name, weight in one.networks.mask_decoder.state_dict().items()}
    one.run()
    made = one.config.output / "digseg.safetensors"
    checkpoint = open_checkpoint(made)
    assert checkpoint.config.mask_decoder["guide"] == 2
    with one.trained.averaged():
        found, expected = checkpoint.mask_decoder().state_dict(), one.networks.mask_decoder.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(not torch.equal(before[name], weight) for name, weight in expected.items())
    assert open_segmenter(made, device="cpu").engine.mask_decoder.guide == 2


@pytest.mark.timeout(300)
def test_continued_run_equals_a_straight_one(config_file, tmp_path):
    straight = trainer(config_file, *MASK, f"output={tmp_path / 'straight'}", "checkpoints.every=2")
    straight.run()
    stopped = trainer(config_file, *MASK, f"output={tmp_path / 'stopped'}", "checkpoints.every=2")
    stopped.run()
    latest_state(tmp_path / "stopped" / "checkpoints").unlink()
    continued = trainer(config_file, *MASK, f"output={tmp_path / 'stopped'}", "checkpoints.every=2")
    continued.run()
    first, second = (load_state(latest_state(tmp_path / name / "checkpoints"))[0] for name in ("straight", "stopped"))
    assert any(name.startswith("mask_decoder.") for name in first)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.timeout(300)
def test_next_run_goes_on_with_the_bases_decoder(config_file, tmp_path):
    trainer(config_file, *JOINT, f"output={tmp_path / 'first'}", "steps=1").run()
    base = tmp_path / "first" / "digseg.safetensors"
    second = trainer(config_file, *JOINT, f"output={tmp_path / 'second'}", f"base={base}", "mask_decoder.guide=3")
    found, expected = second.networks.mask_decoder, open_checkpoint(base).mask_decoder()
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in expected.state_dict().items())
    assert (found.config.guide, second.networks.config.mask_decoder["guide"]) == (3, 3)
    second.run()
    trained = open_checkpoint(tmp_path / "second" / "digseg.safetensors").mask_decoder().state_dict()
    assert not all(torch.equal(trained[name], weight) for name, weight in expected.state_dict().items())
    smaller = ["mask_decoder.widths=[4, 8, 8, 12]", "mask_decoder.blocks=1", f"base={base}", f"output={tmp_path / 'smaller'}"]
    trainer(config_file, *JOINT, *smaller, "steps=1").run()
    exported = open_checkpoint(tmp_path / "smaller" / "digseg.safetensors").mask_decoder()
    assert (exported.config.widths, exported.config.blocks) == ((4, 8, 8, 12), 1)
    lora = ["lora={rank: 2}", f"base={base}", f"output={tmp_path / 'third'}", "steps=1"]
    trainer(config_file, *JOINT, *lora).run()
    adapters = tmp_path / "third" / "digseg-lora.safetensors"
    its_own = open_segmenter(base, lora=adapters, device="cpu").engine.networks.mask_decoder.state_dict()
    assert not all(torch.equal(its_own[name], weight) for name, weight in expected.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mask_decoder={}"], "objective: end_to_end"),
        (["objective=end_to_end", "end_to_end.loss=mask"], "add `mask_decoder"),
        (["objective=end_to_end", "mask_decoder.guide=9"], "guide"),
        (["objective=end_to_end", "mask_decoder.widths=[8, 8]"], "widths"),
        (["objective=end_to_end", "mask_decoder.widths=[8, 8, 8, 1]"], "widths"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_words(config_file, overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_config(config_file, overrides)


def test_pictures_are_those_of_the_sample_whatever_the_view(config_file):
    one = trainer(config_file, *JOINT, "mask_decoder={guide: 3, colour: 0}")
    guides: Guides = one.batches.guides
    sizes = set()
    for step in range(12):
        sample = guides.sample(0, 0)
        seen = guides.seen(sample)
        view = guides.view(step, 0, seen.latent)
        photo, truth, known = guides.picture(sample, seen, view, step, 0)
        sizes.add((view.scale, photo.shape[-1]))
        assert photo.shape[-2:] == truth.shape == known.shape == tuple(8 * view.scale * side for side in view.window[2:])
        assert ((photo[0] > 0.5) == truth.bool()).float().mean() > 0.95
    assert len(sizes) > 1


def test_windows_lie_inside_and_are_all_of_the_latent_at_the_unets_resolution():
    views = [draw_view(np.random.default_rng(seed), (16, 24), 4) for seed in range(200)]
    assert {view.scale for view in views} == {1, 2, 3, 4}
    for view in views:
        top, left, height, width = view.window
        assert 0 <= top <= 16 - height and 0 <= left <= 24 - width
        assert (height, width) == ((16, 24) if view.scale == 1 else (max(6, -(-16 // view.scale)), 24 // view.scale))


def test_memory_estimate_counts_the_decoder(config_file):
    with_it, without = (
        estimate(load_config(config_file, overrides), trainer(config_file, "objective=end_to_end").networks.config)
        for overrides in (JOINT, ["objective=end_to_end"])
    )
    weights = sum(weight.numel() for weight in trainer(config_file, *JOINT).networks.mask_decoder.parameters())
    assert with_it.trained - without.trained == weights
    assert with_it.step > without.step and with_it.flops > without.flops


def test_log_and_validation_come_as_ever(config_file):
    one = trainer(config_file, *JOINT)
    one.run()
    log = [json.loads(line) for line in (one.config.output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log[-1]["validation"]["prompts"] == log[-1]["validation_vae"]["prompts"] > 0
    assert log[-1]["validation"]["mean_iou"] != log[-1]["validation_vae"]["mean_iou"]
    assert "Decoded by the VAE instead" in (one.config.output / "report.html").read_text(encoding="utf-8")
    assert all(line["loss"] > 0 for line in log if "loss" in line)


def test_a_base_whose_decoder_stays_as_it_is_is_named(config_file, tmp_path, capsys):
    one = trainer(config_file, *JOINT)
    one.run()
    assert "it stays as it is" not in capsys.readouterr().out
    base = f"base={one.config.output / 'digseg.safetensors'}"
    trainer(config_file, base, "objective=end_to_end", "steps=1", f"output={tmp_path / 'next'}").run()
    assert "mask_decoder: {}` trains it along" in capsys.readouterr().out
