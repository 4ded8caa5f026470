# ruff: noqa: E501 - tables with a row a line
"""What the pack and the trainer never do: run code from files or texts, start processes, or use the network."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "subprocess", "pty", "multiprocessing.managers", "socket", "socketserver",
    "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser", "ctypes",
    "code", "codeop", "runpy", "huggingface_hub",
}  # fmt: skip
HARMLESS = ("urllib.parse",)
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
METHODS = {
    ("os", "system"), ("os", "popen"), ("os", "fork"), ("os", "execv"), ("os", "spawnl"), ("torch", "load"), ("yaml", "load"),
    ("yaml", "unsafe_load"), ("yaml", "full_load"), ("importlib", "import_module"), ("tempfile", "mktemp"),
}  # fmt: skip
ALLOWED = {
    ("train/experiments/trials.py", "import_module"),  # this repository's own commands, named in the source
    ("train/demo/runtime.py", "load"),  # states that the demo's maker wrote itself, weights only
    ("train/demo/vae.py", "load"),
    ("train/learning/run_lock.py", "socket"),  # the machine's name
    ("train/data/registry.py", "import_module"),  # this repository's own adapters, by the registry's list
}
REMOTE = "from_pretrained"
"""A method that may download: only with `local_files_only=True`."""


def faults(text: str) -> list[str]:
    """What a file does that it must not, in the order it stands there."""
    found = []
    for part in ast.walk(ast.parse(text)):
        names = []
        if isinstance(part, ast.Import):
            names = [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom) and not part.level:
            names = [part.module or ""] + [f"{part.module}.{alias.name}" for alias in part.names]
        found += [name for name in names if _is_below(name, MODULES) and not _is_below(name, HARMLESS)]
        found += [name.rpartition(".")[2] for name in names if tuple(name.rsplit(".", 1)) in METHODS]
        if isinstance(part, ast.Call):
            found += _call(part)
    return found


def _is_below(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _call(part: ast.Call) -> list[str]:
    function = part.func
    words = [word.arg for word in part.keywords if word.arg in ("shell", "trust_remote_code", "allow_pickle")]
    if isinstance(function, ast.Name):
        return words + [function.id] * (function.id in CALLS)
    if not isinstance(function, ast.Attribute):
        return words
    local = any(word.arg == "local_files_only" and getattr(word.value, "value", None) is True for word in part.keywords)
    if function.attr == REMOTE and not local:
        return [REMOTE]
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    return words + [function.attr] * ((owner, function.attr) in METHODS)


@pytest.mark.parametrize("room", ["digseg_nodes", "train"])
def test_no_code_from_files_no_processes_no_network(room):
    files = sorted((ROOT / room).rglob("*.py"))
    found = {(file.relative_to(ROOT).as_posix(), fault) for file in files for fault in faults(file.read_text("utf-8"))}
    assert len(files) > 30 and found - ALLOWED == set()


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "exec(x)", "import pickle", "from pickle import loads", "import subprocess", "import urllib.request",
        "from urllib import request", "import torch\ntorch.load(p)", "import yaml\nyaml.load(t)", "from yaml import unsafe_load",
        "import os\nos.system(c)", "__import__('os')", "f(allow_pickle=True)", "M.from_pretrained(p)",
        "M.from_pretrained(p, local_files_only=False)", "import socket", "from huggingface_hub import hf_hub_download", "run(x, shell=True)",
    ],
)  # fmt: skip
def test_each_of_them_would_be_seen(text):
    assert faults(text)
