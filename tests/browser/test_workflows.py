"""Every example graph in the real page: nothing missing, nothing overlapping; one is run there.

That the page converts each graph to the prompt which tests/host/test_workflows.py executes is tested in test_page.py.
"""

from __future__ import annotations

import json

import pytest

import dev
from workflows.shots import FIT, OVERLAPS, run

NAMES = sorted(path.stem for path in (dev.ROOT / "workflows").glob("*.json"))
UNKNOWN = "() => app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
LOOSE = """() => app.graph.nodes.flatMap(node => (node.inputs ?? [])
    .filter(input => input.link != null && !app.graph.links.get(input.link))
    .map(input => `${node.type}.${input.name}`))"""


@pytest.mark.parametrize("name", NAMES)
def test_graph_opens_complete_and_tidy(tab, name):
    graph = json.loads((dev.ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    tab.page.evaluate("graph => app.loadGraphData(graph)", graph)
    assert tab.page.evaluate("() => app.graph.nodes.length") == len(graph["nodes"])
    assert tab.page.evaluate("() => app.graph.groups.length") == len(graph["groups"])
    assert tab.page.evaluate("() => app.graph.links.size") == len(graph["links"])
    assert tab.page.evaluate(UNKNOWN) == [] and tab.page.evaluate(LOOSE) == []
    assert tab.page.evaluate(OVERLAPS) == []


def test_semantic_map_runs_from_the_page(tab, screenshots):
    graph = json.loads((dev.ROOT / "workflows" / "semantic_map.json").read_text(encoding="utf-8"))
    tab.page.evaluate("graph => app.loadGraphData(graph)", graph)
    tab.page.evaluate(FIT)
    shown = run(tab.page)
    tab.page.screenshot(path=screenshots / f"semantic_map_{tab.frontend}.png")
    kinds = {node["id"]: node["type"] for node in graph["nodes"]}
    assert {"DiGSegSemanticMap", "PreviewAny", "PreviewImage"} <= {kinds[int(node)] for node in shown}


def test_page_never_complained_about_the_pack(tab):
    assert tab.of_the_pack() == []
