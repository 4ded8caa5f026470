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
