"""ComfyUI imported into the test process, without a server: the host's own classes beside diffusers'."""

import importlib
import sys

import pytest
import torch

import dev


@pytest.fixture(scope="session")
def host():
    """digseg_nodes.host inside an imported ComfyUI on the CPU."""
    path = str(dev.find_host() or dev.unpack_host())
    if path not in sys.path:
        sys.path.append(path)  # last, so that none of ComfyUI's top-level modules hides one of ours
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = True
    return importlib.import_module("digseg_nodes.host")


@pytest.fixture(autouse=True)
def _as_in_the_host():
    """ComfyUI executes nodes in inference mode; one thread keeps results repeatable on busy machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)
