"""The arrows of the house: nodes -> host -> core <- train; one module touches ComfyUI, nothing imports the tools."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("digseg_nodes/nodes", "digseg_nodes/core", "digseg_nodes", "train", "tools", "tests", "benchmarks")
MAY = {
    "digseg_nodes/core": {"digseg_nodes/core"},
    "digseg_nodes": {"digseg_nodes", "digseg_nodes/core"},
    "digseg_nodes/nodes": {"digseg_nodes/nodes", "digseg_nodes", "digseg_nodes/core"},
    "train": {"train", "digseg_nodes/core"},
}
"""Which rooms a room may import; `digseg_nodes` itself is host.py."""
HOST_PACKAGES = {"comfy", "comfy_extras", "folder_paths", "node_helpers", "nodes", "server", "execution"}
TRAINING_PACKAGES = {"diffusers", "transformers", "accelerate", "peft", "pydantic", "yaml"}


def room_of(path: str) -> str | None:
    return next((room for room in ROOMS if path == room or path.startswith(f"{room}/")), None)


def imports(text: str, path: str) -> set[str]:
    """Dotted names that a file imports, lazily or not, relative ones resolved against its place in the repository."""
    package, found = path.split("/")[:-1], set()
    for part in ast.walk(ast.parse(text)):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            base = package[: len(package) - part.level + 1] if part.level else []
            module = ".".join([*base, *([part.module] if part.module else [])])
            found |= {f"{module}.{alias.name}" for alias in part.names}
    return found


def faults(text: str, path: str) -> list[str]:
    """Imports of a file that go against the arrows."""
    room, wrong = room_of(path), []
    for name in imports(text, path):
        top, target = name.split(".")[0], room_of(name.replace(".", "/"))
        if room in MAY and target is not None and target not in MAY[room]:
            wrong.append(f"{path} imports {name}")
        if top in HOST_PACKAGES and room in MAY and path != "digseg_nodes/host.py":
            wrong.append(f"{path} touches the host: {name}")
        if top in TRAINING_PACKAGES and room in MAY and room != "train":
            wrong.append(f"{path} needs what only training has: {name}")
    return wrong


def test_imports_follow_the_arrows():
    files = [file for room in ("digseg_nodes", "train") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 80
    assert [fault for file in files for fault in faults(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("digseg_nodes/core/masks.py", "from .. import host"),
        ("digseg_nodes/core/masks.py", "from ..nodes.types import CATEGORY"),
        ("digseg_nodes/core/masks.py", "def f():\n    import comfy.utils"),
        ("digseg_nodes/core/masks.py", "import diffusers"),
        ("digseg_nodes/core/masks.py", "from train.data import base"),
        ("digseg_nodes/nodes/load.py", "import folder_paths"),
        ("digseg_nodes/host.py", "from .nodes import types"),
        ("train/predict.py", "from digseg_nodes import host"),
        ("train/predict.py", "from digseg_nodes.nodes.types import CATEGORY"),
        ("train/predict.py", "from tools.demo import SCENES"),
    ],
)
def test_an_import_against_the_arrows_is_seen(path, text):
    assert faults(text, path)


def test_the_map_names_every_room_and_every_command():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    map_of_the_house = text[text.index("## The map of the house") : text.index("## How a photo becomes a mask")]
    tracked = [path.relative_to(ROOT) for room in ("train", "tests", "digseg_nodes") for path in (ROOT / room).rglob("*.py")]
    rooms = {path.parts[:2] for path in tracked if len(path.parts) > 2}
    shown = {f"`{top}/{room}/`" if top != "tests" else f"`{room}/`" for top, room in rooms}
    assert [room for room in sorted(shown) if room not in map_of_the_house] == []
    named = re.findall(r"`(\w+/\w[\w/]*/)`", map_of_the_house)
    assert named and [name for name in named if not (ROOT / name).is_dir() and not (ROOT / "digseg_nodes" / name).is_dir()] == []
    commands = {path.stem for path in tracked if path.parent == Path("train")} - {"__init__"}
    assert [command for command in sorted(commands) if f"`{command}`" not in map_of_the_house] == []
