"""The campaigns of tests/stress leave a machine as they found it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress import campaign
from tests.stress.campaign import small_disk

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.stress.campaign import small_disk
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)
with small_disk(Path({folder!r}), 100_000) as mounted:
    print(mounted, flush=True)
    time.sleep(60)
"""


def hear_ctrl_c() -> None:
    """Background jobs of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def mounts(folder: Path) -> bool:
    return str(folder) in Path("/proc/mounts").read_text(encoding="utf-8") if sys.platform == "linux" else os.path.ismount(folder)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_a_small_disk_is_unmounted_when_the_campaign_is_stopped(tmp_path, sent):
    """Where nobody may mount, there is nothing to unmount: see the test below."""
    code = HOLD.format(root=str(ROOT), folder=str(tmp_path / "disk"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    mounted = process.stdout.readline().strip()
    assert mounted in ("True", "False")
    assert mounts(tmp_path / "disk") == (mounted == "True")
    process.send_signal(getattr(signal, sent))
    process.wait(30)
    assert not mounts(tmp_path / "disk")


def test_a_small_disk_is_unmounted_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), small_disk(tmp_path / "disk", 100_000):
        raise RuntimeError
    assert not mounts(tmp_path / "disk")


def test_what_is_mounted_is_unmounted_whatever_the_user_may_do(tmp_path, monkeypatch):
    """With a mount that never took place, for users who may not mount."""
    commands = []

    def run(command: list[str], **_options) -> subprocess.CompletedProcess:
        commands.append(command[0])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(campaign.subprocess, "run", run)
    monkeypatch.setattr(campaign.os.path, "ismount", lambda folder: Path(folder) == tmp_path / "disk")
    with pytest.raises(RuntimeError), small_disk(tmp_path / "disk", 100_000) as mounted:
        assert mounted
        raise RuntimeError
    assert commands == ["mount", "umount"]
