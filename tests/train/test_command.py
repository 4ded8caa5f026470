"""What all commands share."""

import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from train.settings.command import run


def test_letters_that_a_console_lacks_are_written_as_escapes(monkeypatch):
    bytes_out = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(bytes_out, encoding="cp1252"))
    run("x", lambda: print("été 圆", flush=True))
    assert bytes_out.getvalue().strip() == b"\xe9t\xe9 \\u5706"


def test_nothing_is_said_about_packages_that_nobody_needs():
    pytest.importorskip("bitsandbytes")
    line = [sys.executable, "-c", "import train.networks.lora, bitsandbytes.optim"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=True)
    assert "kernels" not in done.stderr + done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_who_has_had_enough_ends_a_command_without_a_word():
    action = "lambda: [print('x' * 1000) for _ in range(1000)]"
    line = [sys.executable, "-c", f"from train.settings.command import run; run('x', {action})"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 1)


def test_processes_started_together_part_at_the_end():
    """Otherwise one that has done its work may still end with SIGABRT."""
    action = "from accelerate import PartialState\ndef work():\n PartialState(cpu=True).wait_for_everyone()"
    after = "import torch.distributed as d\nrun('x', work)\nprint(f'parted: {not d.is_initialized()}')  # in one piece"
    code = f"from train.settings.command import run\n{action}\n{after}"
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([*line, sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("parted: True")) == (0, 2), done.stderr


def test_another_broken_pipe_is_not_taken_for_the_readers():
    def broken():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run("x", broken)
