"""What ComfyUI knows about the pack once it has started."""

from __future__ import annotations

import json
import re

import pytest

import dev
from tools.graphs import GRAPHS

NODES = {
    *("DiGSegCheckpointLoader", "DiGSegUNETLoader", "DiGSegLoraLoader", "DiGSegBaseLoader"),
    *("DiGSegPrompts", "DiGSegEncodeImage", "DiGSegSampler", "DiGSegDecodeMasks", "DiGSegSegment"),
    *("DiGSegListMasks", "DiGSegSplitObjects", "DiGSegSavePair"),
    *("DiGSegPickMask", "DiGSegSemanticMap", "DiGSegUncertainty", "DiGSegCompareMasks"),
    *("DiGSegConditioning", "DiGSegSigmas"),
}


@pytest.fixture(scope="session")
def ours(object_info) -> dict:
    return {name: info for name, info in object_info.items() if info["python_module"].endswith(dev.PACK_NAME)}


def test_pack_loads_without_errors(host):
    log = host.log.read_text(encoding="utf-8")
    lines = [line for line in log.splitlines() if f"custom_nodes/{dev.PACK_NAME}" in line.replace("\\", "/")]
    assert any(re.search(r"\d seconds: ", line) for line in lines), "the pack is not in the list of import times"
    assert not [line for line in lines if "FAILED" in line or "Cannot import" in line]


def test_nodes_are_registered(ours):
    assert set(ours) == NODES


def test_nodes_explain_themselves(ours):
    for name, info in ours.items():
        assert info["description"], name
        assert info["category"].startswith("DiGSeg"), name
        assert all(info["output_tooltips"]), name
        inputs = info["input"].get("required", {}) | info["input"].get("optional", {})
        assert not [key for key, (_, options) in inputs.items() if len(options.get("tooltip", "")) < 10], name


def test_bundled_checkpoints_are_listed(ours):
    bundled = {path.name for path in (dev.ROOT / "digseg_nodes" / "models").glob("*.safetensors")}
    listed = ours["DiGSegCheckpointLoader"]["input"]["required"]["checkpoint"][1]["options"]
    assert bundled and bundled <= set(listed)


def test_example_workflows_are_offered(client):
    graphs = {path.stem for path in (dev.ROOT / "workflows").glob("*.json")}
    assert graphs == set(GRAPHS)
    assert set(client.get("/workflow_templates")[dev.PACK_NAME]) == graphs


def test_example_workflows_name_only_nodes_and_files_that_are_there(object_info, host):
    for path in (dev.ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            assert node["type"] in object_info or node["type"] in ("Note", "MarkdownNote"), (path.name, node["type"])
            if node["type"] == "LoadImage":
                assert (host.base / "input" / node["widgets_values"][0]).is_file(), path.name


def test_every_node_has_a_help_page(client, ours):
    for name in ours:
        page = client.get_bytes(f"/extensions/{dev.PACK_NAME}/docs/{name}.md").decode()
        assert page.startswith("#") and len(page) > 200, name
        assert "![" in page and "▶" in page, f"{name} has no picture or no small graph"
