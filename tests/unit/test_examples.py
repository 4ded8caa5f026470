"""What ComfyUI serves to browsers from workflows/, and the commands that documentation names for the tools."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.graphs import GRAPHS

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(
    {
        name
        for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tools/*.py"), ROOT / "dev.py")
        for name in re.findall(r"(?:-m |\")tools\.(\w+)", file.read_text("utf-8"))
    }
)


def test_workflows_hold_graphs_and_thumbnails_only():
    """ComfyUI serves every file of the folder to whoever asks."""
    found = {path.relative_to(ROOT / "workflows").as_posix() for path in (ROOT / "workflows").rglob("*") if path.is_file()}
    assert found == {f"{name}.{ending}" for name in GRAPHS for ending in ("json", "jpg")}


@pytest.mark.parametrize("name", COMMANDS)
def test_tools_named_in_the_documentation_start(name):
    if name == "shots":
        pytest.importorskip("playwright")
    help_text = subprocess.run(
        [sys.executable, "-m", f"tools.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"{name}.py" in help_text
