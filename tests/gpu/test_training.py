"""Training on the device: every precision, pinned batches, going on after a stop, speed and memory."""

import json
import math

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import gpu
from train.learning.loop import Trainer
from train.learning.resume import latest_state, load_state
from train.settings.train_config import load_config


@pytest.mark.parametrize(("precision", "cached"), [("fp32", "true"), ("bf16", "true"), ("fp16", "false")])
def test_every_precision_trains(device, config_file, precision, cached):
    if precision not in gpu.Scale.of(device).precisions:  # accelerate trains in fp16 on GPUs alone
        precision = "bf16"
    trainer = Trainer(load_config(config_file, [f"mixed_precision={gpu.PRECISIONS[precision]}", f"cache_latents={cached}"]))
    assert trainer.accelerator.device.type == device.type
    trainer.run()
    lines = [json.loads(line) for line in (trainer.config.output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    assert (trainer.config.output / "digseg.safetensors").is_file()


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(device, config_file, tmp_path):
    straight = load_config(config_file, [f"output={tmp_path / 'straight'}"])
    Trainer(straight).run()
    stopped = load_config(config_file, [f"output={tmp_path / 'stopped'}"])
    first = Trainer(stopped)
    for step in range(2):
        first.step(first.batches[step])
    first.save()
    Trainer(stopped).run()
    (one, _), (other, _) = (load_state(latest_state(run.output / "checkpoints")) for run in (straight, stopped))
    worst = max((one[name].float() - other[name].float()).abs().max().item() for name in one)
    print(f"largest difference after going on, {device.type}: {worst:.1e}")
    assert worst == 0 if device.type == "cpu" else worst <= 1e-3  # cuDNN adds up in an order of its own


def test_batches_come_in_pinned_memory(device, config_file):
    trainer = Trainer(load_config(config_file))
    pinned = device.type == "cuda"
    ((part,),) = DataLoader(trainer.batches, batch_size=None, sampler=[0], pin_memory=pinned)
    assert part.image.is_pinned() is pinned
    assert part.to(device).image.device.type == device.type


def test_speed_and_memory_are_measured(device, config_file):
    found = gpu.in_own_process(config_file, 1, device)
    assert found["step"][0] > 0 and found["bare"][0] > 0
    assert found["peak_bytes"] > 1 and found["estimated_bytes"] > 1
    assert torch.isfinite(torch.tensor(found["step"])).all()
