"""Two trainings on one run folder: the second is refused and told about the first; the dead are no hindrance."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.train.test_finetune import ENVIRONMENT, ROOT, command, finetune
from train.finetune import main
from train.learning import run_lock
from train.learning.run_lock import RunInUseError, sole_training
from train.settings.train_config import load_config

HOLD = """
import sys, time
from pathlib import Path
from train.learning.run_lock import sole_training
with sole_training(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(200)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in `tmp_path`, as far as the lock can tell."""
    line = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(line, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


@pytest.fixture
def hurried(monkeypatch):
    """Signs of life come quickly."""
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    monkeypatch.setattr(run_lock, "ORPHANS", 0.2)


def left_behind(folder: Path, **changes) -> Path:
    path = folder / "running.json"
    found = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "2026-01-01T00:00:00+00:00", **changes}
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def test_the_second_is_refused_and_names_the_first(tmp_path, holder):
    found = json.loads((tmp_path / "running.json").read_text(encoding="utf-8"))
    who = rf"process {holder.pid} on {socket.gethostname()} since {found['since'][:13]}.*another `output:`"
    with pytest.raises(RunInUseError, match=who), sole_training(tmp_path):
        pytest.fail("two at once")
    assert json.loads((tmp_path / "running.json").read_text(encoding="utf-8")) == found


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_a_killed_training_left_behind_is_taken_over_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with sole_training(tmp_path):
        assert json.loads((tmp_path / "running.json").read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert time.monotonic() - started < run_lock.BEAT
    assert not (tmp_path / "running.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x"}', "\0"])
def test_an_unreadable_file_is_no_hindrance(tmp_path, content):
    (tmp_path / "running.json").write_text(content, encoding="utf-8")
    with sole_training(tmp_path):
        assert json.loads((tmp_path / "running.json").read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_a_living_training_on_another_machine_is_respected(tmp_path, hurried):
    path, ended = left_behind(tmp_path, host="elsewhere", pid=7), threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunInUseError, match="process 7 on elsewhere since 2026-01-01"), sole_training(tmp_path):
            pytest.fail("two at once")
    finally:
        ended.set()
        thread.join()


def test_a_dead_training_on_another_machine_is_not(tmp_path, hurried):
    left_behind(tmp_path, host="elsewhere")
    with sole_training(tmp_path):
        assert json.loads((tmp_path / "running.json").read_text(encoding="utf-8"))["host"] == socket.gethostname()


def test_signs_of_life_are_given(tmp_path, hurried):
    with sole_training(tmp_path):
        assert run_lock._is_touched(tmp_path / "running.json")
    assert not run_lock._is_touched(tmp_path / "running.json")


def test_an_error_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), sole_training(tmp_path):
        raise KeyError
    with sole_training(tmp_path):
        pass


def test_the_command_refuses_before_it_loads_anything(config_file):
    config = load_config(config_file)
    config.output.mkdir(parents=True)
    with sole_training(config.output), pytest.raises(SystemExit, match=rf"going on in .*run already: process {os.getpid()} on"):
        main(["--config", str(config_file)])
    assert not (config.output / "log.jsonl").exists()


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_training_with_workers_goes_on(config_file, tmp_path):
    settings = ["workers=1", "steps=100000", "cache_latents=false"]
    line, log = command("finetune.py", "--config", config_file, *settings), tmp_path / "run/log.jsonl"
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (log.is_file() and log.stat().st_size):
            time.sleep(0.05)
        second = finetune(config_file, *settings)
        assert (second.returncode, f"process {process.pid} on" in second.stderr) == (1, True), second.stderr
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = finetune(config_file, "workers=1", "cache_latents=false", "steps=12")
    assert done.returncode == 0, done.stderr
