"""`dev.py bench speed`: quotients of paired rounds, and where the report has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import dev
from benchmarks import speed
from train.networks.bases import load_networks

DEMO = Path(__file__).resolve().parents[2] / "digseg_nodes/models/digseg-demo.safetensors"


def test_a_ratio_is_of_rounds_that_belong_together():
    found = speed.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0], "what", scale=2.0)
    assert found == {"median": 6.0, "min": 4.0, "max": 8.0, "what": "what"}


def test_works_take_turns_and_the_first_round_does_not_count():
    calls = []
    seconds = speed.timed({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("guided", [True, False])
def test_a_training_step_reaches_the_decoder_only_where_it_is_trained_along(guided, monkeypatch):
    monkeypatch.setattr(speed, "SIDE", 64)
    networks, reached = load_networks(DEMO), set()
    for name in ("unet", "mask_decoder"):
        first = next(getattr(networks, name).requires_grad_(True).parameters())
        first.register_hook(lambda _, name=name: reached.add(name))
    speed.training_step(networks, guided)()
    assert reached == ({"unet", "mask_decoder"} if guided else {"unet"})


def stand_in(monkeypatch, output, child) -> None:
    """Let dev.py write below `output`, and `child` run in the place of benchmarks."""
    for name, replacement in {
        "OUTPUT": output,
        "run_child": child,
        "find_or_make_install": lambda: None,
        "everything_python": lambda _install: "python",
    }.items():
        monkeypatch.setattr(dev, name, replacement)


def test_the_report_has_machine_and_ratios_on_top(tmp_path, monkeypatch):
    def child(command: list) -> int:
        made = {"machine": {"cores": 2}, "ratios": {"x": {"median": 1.0}}} if command[1].stem == "speed" else {"figure": 3}
        command[3].write_text(json.dumps(made), "utf-8")
        return 0

    stand_in(monkeypatch, tmp_path, child)
    dev.bench(SimpleNamespace(), ["speed", "precisions"])
    report = json.loads((tmp_path / "bench" / "report.json").read_text("utf-8"))
    assert report == {"machine": {"cores": 2}, "ratios": {"x": {"median": 1.0}}, "precisions": {"figure": 3}}


def test_options_go_to_the_benchmark(tmp_path, monkeypatch):
    asked = []

    def child(command: list) -> int:
        asked.append(command[1:])
        command[3].write_text("{}", "utf-8")
        return 0

    stand_in(monkeypatch, tmp_path, child)
    dev.bench(SimpleNamespace(), ["gpu", "--cpu"])
    script = dev.ROOT / "benchmarks" / "gpu.py"
    assert asked == [[script, "--report", tmp_path / "bench" / "gpu.json", "--cpu"]]
