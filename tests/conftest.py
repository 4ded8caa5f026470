"""What the tests share: one real ComfyUI for the session, a client for it, and the rule that CI skips nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dev  # noqa: E402
from tests.node_packs import packs_in  # noqa: E402
from tools.api import Client  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated session still shuts its ComfyUI down


@pytest.fixture(scope="session")
def lacking() -> Callable[[str], None]:
    """Call it with a reason to skip what this machine cannot run; in CI that is a failure."""

    def report(reason: str) -> None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must not lack this: {reason}")
        pytest.skip(reason)

    return report


@pytest.fixture(scope="session")
def archived(lacking) -> set[str]:
    """Files of this checkout that .comfyignore lets into the registry's archive."""
    if not (dev.ROOT / ".git").exists():
        lacking("no git checkout")

    def listed(*arguments: str) -> set[str]:
        command = ["git", "ls-files", "-z", *arguments]
        found = subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True, check=True).stdout
        return {name for name in found.split("\0") if name and (dev.ROOT / name).is_file()}

    return listed("-c", "-o", "--exclude-standard") - listed("-c", "-o", "-i", "--exclude-from=.comfyignore")


@pytest.fixture(scope="session")
def install() -> dev.Install:
    return dev.find_or_make_install()


@pytest.fixture(scope="session")
def process() -> str:
    """What tells this process's files from those of the other test processes: "" where there is one."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return f"-{worker}" if worker else ""


@pytest.fixture(scope="session")
def standins(tmp_path_factory) -> list[str]:
    """Options of a ComfyUI that make it load tests/standins."""
    return packs_in(ROOT / "tests" / "standins", tmp_path_factory.mktemp("standins") / "paths.yaml")


@pytest.fixture(scope="session")
def host(install, process, standins):
    """A running ComfyUI with the pack, the bundled models, the demo photos and tests/standins; one for each test process."""
    with dev.running_host(install, f"test{process}", extra=standins) as running:
        yield running


@pytest.fixture
def client(host):
    with Client(host.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def object_info(host) -> dict:
    with Client(host.url) as connected:
        return connected.object_info()
