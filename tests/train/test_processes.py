"""Two processes do what one does with twice the batch, and end together."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from PIL import Image

from tests.train.helpers import folder_dataset
from train.learning.loop import Trainer
from train.learning.resume import latest_state, load_state
from train.settings.train_config import load_config

ROOT = Path(__file__).resolve().parents[2]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train/finetune.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.mark.timeout(900)  # three starts of the trainer
def test_two_processes_equal_one_with_twice_the_batch(config_file, tmp_path):
    settings = ["steps=3", "validation.every=3", "validation.images=3", "optimizer.max_grad_norm=null"]
    one = Trainer(load_config(config_file, [*settings, "batch_size=4", f"output={tmp_path / 'one'}"]))
    one.run()
    line = [*TWO, "--config", str(config_file), *settings, "batch_size=2"]
    line += [f"output={tmp_path / 'two'}", f"cache={tmp_path / 'cache'}"]  # which both fill
    result = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (first, _), (second, _) = (load_state(latest_state(tmp_path / run / "checkpoints")) for run in ("one", "two"))
    moved = torch.cat([(first[name] - second[name]).abs().flatten() for name in first if name.startswith("unet.")])
    print(f"weights differ by {moved.mean():.1e} on average, {moved.max():.1e} at most")
    assert moved.mean() < 1e-5  # Adam turns rounding of a gradient near zero into a whole step of a few weights
    logs = [(tmp_path / run / "log.jsonl").read_text(encoding="utf-8").splitlines() for run in ("one", "two")]
    assert [json.loads(line)["loss"] for line in logs[1][:3]] == pytest.approx(
        [json.loads(line)["loss"] for line in logs[0][:3]], rel=1e-3
    )
    assert [json.loads(log[3])["validation"]["prompts"] for log in logs] == [6, 6]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_a_signal_to_one_process_ends_all_after_the_same_step(config_file, tmp_path):
    line = [*TWO, "--config", str(config_file), "steps=100000", f"output={tmp_path / 'run'}"]
    log, output = tmp_path / "run/log.jsonl", tmp_path / "printed.txt"
    with output.open("w") as file:
        agent = subprocess.Popen(line, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)
    started = psutil.Process(agent.pid)
    try:
        while agent.poll() is None and not (log.is_file() and len(log.read_text(encoding="utf-8").splitlines()) > 3):
            time.sleep(0.1)
        workers = [child for child in started.children() if "finetune.py" in " ".join(child.cmdline())]
        assert len(workers) == 2, output.read_text()
        workers[1].terminate()
        assert agent.wait(timeout=200) == 0, output.read_text()
    finally:
        for process in [*started.children(recursive=True), started] if agent.poll() is None else []:
            process.kill()
    _, values = load_state(latest_state(tmp_path / "run/checkpoints"))
    assert f"stopped after step {values['progress']['step']};" in output.read_text()


@pytest.mark.timeout(600)
def test_a_validation_that_fails_in_one_process_ends_all_and_loses_no_steps(config_file, tmp_path):
    data = folder_dataset(tmp_path / "data")
    (tmp_path / "data/broken").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64)).save(tmp_path / f"data/broken/photo-{number}.png")
    (tmp_path / "data/broken/photo-1.png").write_bytes(b"no image")  # the second process's share
    for name in ("box", "disc"):
        shutil.copytree(tmp_path / "data/masks" / name, tmp_path / "data/broken masks" / name)
        Image.new("L", (64, 64)).save(tmp_path / "data/broken masks" / name / "photo-0.png")
    values = yaml.safe_load(data.read_text(encoding="utf-8"))
    values["validation"] = {**values["train"], "images": "broken", "masks": "broken masks"}
    data.write_text(yaml.safe_dump(values), encoding="utf-8")
    settings = ["steps=6", "validation.every=4", "checkpoints.every=100", f"data={data}", f"output={tmp_path / 'run'}"]
    line = [*TWO, "--config", str(config_file), *settings]
    result = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode != 0
    assert "photo-1.png cannot be read as an image" in result.stderr + result.stdout
    assert latest_state(tmp_path / "run/checkpoints").name.startswith("step-00000004")
