"""What ComfyUI serves to browsers from workflows/, and the commands that documentation names for the tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.graphs import BIG, GRAPHS

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


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_says_where_its_nodes_and_files_come_from(name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    for node in graph["nodes"]:
        if node["type"] != "MarkdownNote":
            assert node["properties"]["cnr_id"] == ("digseg-nodes" if node["type"].startswith("DiGSeg") else "comfy-core")
            assert node["properties"]["ver"]
    files = [file for node in graph["nodes"] for file in node["properties"].get("models", [])]
    loaders = [n for n in graph["nodes"] if "Loader" in n["type"] and not n["type"].startswith("DiGSeg")]
    named = {value for node in loaders for value in node["widgets_values"] if str(value).endswith((".safetensors", ".ckpt"))}
    assert {file["name"] for file in files} == named
    assert all(file["url"].endswith(f"/{file['name']}") and file["directory"] for file in files)
    assert (name in BIG) == bool(files)


@pytest.mark.parametrize("name", ["text_to_mask", "semantic_map", "cutout", "inpaint_demo"])
def test_a_graph_that_opens_as_an_app_names_widgets_and_results_that_are_there(name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    nodes, extra = {node["id"]: node for node in graph["nodes"]}, graph["extra"]
    assert extra["linearMode"] is True and extra["linearData"]["inputs"] and extra["linearData"]["outputs"]
    for number, widget in extra["linearData"]["inputs"]:
        slots = {slot["name"]: slot for slot in nodes[number]["inputs"]}
        assert "widget" in slots[widget] and slots[widget]["link"] is None
    assert set(extra["linearData"]["outputs"]) <= set(nodes)


def test_every_graph_has_its_section_its_row_and_its_picture():
    page = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
    for name in GRAPHS:
        assert f"\n| [{name}](#" in page and f"](img/workflows/{name}.jpg)" in page, name
        assert (ROOT / "docs" / "img" / "workflows" / f"{name}.jpg").is_file()
