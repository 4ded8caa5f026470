"""Every example graph in the real page: nothing missing, nothing overlapping; one is run there.

That the page converts each graph to the prompt which tests/host/test_workflows.py executes is tested in test_page.py.
"""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import dev
from tools.shots import FIT, OVERLAPS, picture, run

NAMES = sorted(path.stem for path in (dev.ROOT / "workflows").glob("*.json"))
UNKNOWN = "() => app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
LOOSE = """() => app.graph.nodes.flatMap(node => (node.inputs ?? [])
    .filter(input => input.link != null && !app.graph.links.get(input.link))
    .map(input => `${node.type}.${input.name}`))"""

DRAWN = """id => {
    const image = app.graph.getNodeById(id).imgs[0], canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL('image/png').split(',')[1];
}"""


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


def test_segment_goes_on_showing_its_overlay(tab):
    """A page keeps a node's last preview in the place of its result: here the two are the same picture."""
    graph = json.loads((dev.ROOT / "workflows" / "text_to_mask.json").read_text(encoding="utf-8"))
    tab.page.evaluate("graph => app.loadGraphData(graph)", {**graph, "extra": {}})  # as a graph: an app draws no nodes
    photo, segment = (next(n["id"] for n in graph["nodes"] if n["type"] == kind) for kind in ("LoadImage", "DiGSegSegment"))
    tab.page.evaluate("id => { app.graph.getNodeById(id).widgets.find(w => w.name === 'seed').value = 11; }", segment)
    shown = run(tab.page)
    [overlay] = shown[str(segment)]["images"]
    drawn = Image.open(io.BytesIO(base64.b64decode(tab.page.evaluate(DRAWN, segment)))).convert("RGB")
    wanted = np.asarray(picture(tab.page, overlay).resize(drawn.size, Image.Resampling.BILINEAR)).astype(int)
    plain = {"filename": graph["nodes"][photo - 1]["widgets_values"][0], "type": "input"}
    without = np.asarray(picture(tab.page, plain).resize(drawn.size, Image.Resampling.BILINEAR)).astype(int)
    tinted = np.abs(wanted - without).max(-1) > 40
    assert tinted.mean() > 0.02, "the overlay shows no mask"
    assert np.abs(np.asarray(drawn) - wanted).mean() < 4, "a JPEG of the overlay"
    assert np.abs(np.asarray(drawn) - without)[tinted].mean() > 40, "the photo without its masks"


def test_page_never_complained_about_the_pack(tab):
    assert tab.of_the_pack() == []
