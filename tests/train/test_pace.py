"""What log.jsonl says about speed and memory."""

import json
import math
from datetime import datetime

import pytest
import torch

from train.learning.loop import Trainer
from train.learning.pace import Pace, peak_bytes
from train.learning.run_log import TIMING, RunLog, read_log, scalars
from train.settings.train_config import load_config

CPU = torch.device("cpu")


class Clock:
    """A clock that goes only when told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, seconds: float, count: int):
        """Batches that take their time to come."""
        for number in range(count):
            self.now += seconds
            yield number


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    monkeypatch.setattr("train.learning.pace.time", one)
    return one


def test_waiting_and_working_are_told_apart_and_validation_does_not_count(clock):
    pace = Pace(samples=8, device=CPU)
    for _ in pace.batches(clock.slow(3, 4)):
        clock.now += 1
        pace.stepped()
        clock.now += 50  # a validation
    figures = pace.figures()
    assert (figures["seconds_per_step"], figures["samples_per_second"], figures["data_wait"]) == (4, 2, 0.75)


def test_figures_are_of_the_steps_since_the_last_ones(clock):
    pace, seconds = Pace(samples=1, device=CPU), []
    for step in pace.batches(clock.slow(0, 2)):
        clock.now += 1 + step
        pace.stepped()
        seconds.append(pace.figures()["seconds_per_step"])
    assert seconds == [1, 2]


def test_the_peak_goes_up_with_what_is_held():
    before = peak_bytes(CPU)
    held = bytearray(b"x") * 2**28
    size, peak = len(held), peak_bytes(CPU)
    assert peak >= before and peak > size
    del held
    assert peak_bytes(CPU) > peak - size // 2, "what was given back counts all the same"


def test_every_line_of_a_run_has_its_time_and_every_step_its_pace(config_file):
    trainer = Trainer(load_config(config_file, ["steps=4", "log_every=2", "validation.every=4"]))
    trainer.run()
    lines = read_log(trainer.config.output / "log.jsonl")
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times) and all(one.utcoffset() is not None for one in times)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4]
    assert all(set(TIMING) < set(line) and 0 <= line["data_wait"] <= 1 for line in steps)
    assert all(line["peak_mib"] > 50 for line in steps)
    bare = read_log(trainer.config.output / "log.jsonl", timing=False)
    assert not any(set(TIMING) & set(line) for line in bare)
    assert set(bare[0]) == {"step", "loss", "lr", "grad_norm", "padding"}


def test_a_step_that_fp16_skipped_is_valid_json_without_a_norm(config_file):
    trainer = Trainer(load_config(config_file, ["steps=1"]))
    trainer.resume()
    next(trainer.pace.batches([0]))
    trainer.pace.stepped()
    trainer.grad_norm = math.inf
    trainer._record(torch.tensor(0.5))
    line = json.loads((trainer.config.output / "log.jsonl").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert line["grad_norm"] is None


def test_curves_elsewhere_get_numbers_only(tmp_path):
    told = []
    log = RunLog(tmp_path / "log.jsonl", True, lambda values, step: told.append((step, values)))
    log.write(3, {"loss": 0.5, "grad_norm": None, "validation": {"miou": 0.25, "classes": {"a": 1.0}}})
    assert told == [(3, {"loss": 0.5, "validation/miou": 0.25})]
    assert scalars({"time": "now", "x": 1}) == {"x": 1.0}
