"""Two processes do what one does with twice the batch, and end together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from train.config import load_config
from train.loop import Trainer
from train.resume import latest_state, load_state

ROOT = Path(__file__).resolve().parents[2]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train/finetune.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.mark.timeout(900)  # three starts of the trainer
def test_two_processes_equal_one_with_twice_the_batch(config_file, tmp_path):
    settings = ["steps=3", "validation.every=3", "validation.images=3", "optimizer.max_grad_norm=null"]
    one = Trainer(load_config(config_file, [*settings, "batch_size=4", f"output={tmp_path / 'one'}"]))
    one.run()
    line = [*TWO, "--config", str(config_file), *settings, "batch_size=2", f"output={tmp_path / 'two'}"]
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
    log = tmp_path / "run/log.jsonl"
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as agent:
        while agent.poll() is None and not (log.is_file() and len(log.read_text(encoding="utf-8").splitlines()) > 3):
            time.sleep(0.1)
        workers = [child for child in psutil.Process(agent.pid).children() if "finetune.py" in " ".join(child.cmdline())]
        assert len(workers) == 2
        workers[1].terminate()
        printed = agent.communicate(timeout=200)[0]
    assert agent.returncode == 0, printed
    _, values = load_state(latest_state(tmp_path / "run/checkpoints"))
    assert f"stopped after step {values['progress']['step']};" in printed
