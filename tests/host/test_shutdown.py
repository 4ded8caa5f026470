"""No ComfyUI outlives the command that started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

import dev
from tools.api import Client, RunError


def hear_ctrl_c() -> None:
    """Background jobs of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals; on Windows the process tree is ended by taskkill")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_serve_stops_comfyui(how):
    serve = subprocess.Popen(
        [sys.executable, str(dev.ROOT / "dev.py"), "serve", "--no-browser"],
        cwd=dev.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        url = next(found[0] for line in serve.stdout if (found := re.findall(r"up at (http://\S+)", line)))
        assert dev.get_json(f"{url}/system_stats")
        serve.send_signal(how)
        assert serve.wait(30) == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
        assert dev.get_json(f"{url}/system_stats") is None
    finally:
        serve.terminate()  # not kill: nothing could shut its ComfyUI down then
        serve.wait(30)


def test_a_client_hears_of_the_end_of_comfyui_at_once(install):
    with dev.running_host(install, "gone") as host, Client(host.url) as client:
        host.process.kill()
        with pytest.raises(RunError, match="ComfyUI closed the connection"):
            client.wait("a graph", timeout=60)


def test_error_while_comfyui_runs_stops_it_and_removes_its_folder(install):
    with pytest.raises(ZeroDivisionError), dev.running_host(install, "crash") as host:
        assert host.base.is_dir() and dev.get_json(f"{host.url}/system_stats")
        raise ZeroDivisionError
    assert dev.get_json(f"{host.url}/system_stats") is None
    assert not host.base.exists()
