"""The subgraph of subgraphs/ in the real page: found by its name, wired, run, and equal to the nodes that it holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from playwright.sync_api import Page, TimeoutError

import dev
from tools.api import Client, to_prompt
from tools.demo import node_of
from tools.graphs import SCENE, THINGS
from tools.shots import FIT, picture, run

NAME = "DiGSeg text to mask"
EMPTY = {"nodes": [], "links": [], "groups": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4}
ADDED = "name => app.graph.nodes.some(node => node.title === name)"
SOCKETS = """name => {
    const node = app.graph.nodes.find(node => node.title === name), names = list => (list ?? []).map(entry => entry.name);
    return [names(node.inputs), names(node.outputs), names(node.widgets)];
}"""
WIRE = """([name, image, text]) => {
    const added = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
    const subgraph = app.graph.nodes.find(node => node.title === name);
    const photo = added('LoadImage'), mask = added('MaskPreview'), overlay = added('PreviewImage');
    [photo, mask, overlay].forEach((node, number) => { node.pos = [number ? 500 : -400, number * 350 - 350]; });
    subgraph.pos = [0, 0];
    photo.widgets.find(widget => widget.name === 'image').value = image;
    subgraph.widgets.find(widget => widget.name === 'text').value = text;
    photo.connect(0, subgraph, 0);
    subgraph.connect(0, mask, 0);
    subgraph.connect(1, overlay, 0);
    return [String(mask.id), String(overlay.id)];
}"""


def open_search(page: Page, tries: int = 6) -> None:
    """Double click until the node search has the cursor: a page short of time takes two late clicks for two single ones."""
    for _ in range(tries):
        page.mouse.dblclick(900, 600)
        try:
            page.wait_for_function("() => document.activeElement.tagName === 'INPUT'", timeout=20_000)
            return
        except TimeoutError:
            continue
    pytest.fail(f"no node search after {tries} double clicks")


@pytest.fixture
def placed(tab) -> list[str]:
    """The blueprint alone on the canvas, as people add it: double click, its name, a click on it. Ids of the nodes that show."""
    page = tab.page
    page.evaluate("graph => app.loadGraphData(graph)", EMPTY)
    open_search(page)
    page.keyboard.type(NAME)
    page.get_by_role("option").filter(has_text=NAME).click()  # Enter would take the list from before the last letters
    page.wait_for_function(ADDED, arg=NAME)
    assert page.evaluate(SOCKETS, NAME) == [["image", "text", "checkpoint"], ["mask", "overlay", "masks"], ["text", "checkpoint"]]
    return page.evaluate(WIRE, [NAME, SCENE, THINGS[0]])


def test_blueprint_finds_what_its_nodes_find(tab, placed, screenshots):
    shown = run(tab.page)
    tab.page.evaluate(FIT)
    tab.page.screenshot(path=screenshots / f"blueprint_{tab.frontend}.png")
    mask, overlay = (np.asarray(picture(tab.page, shown[node]["images"][0])).astype(int) for node in placed)
    with Client(tab.url) as client:
        graph = json.loads((dev.ROOT / "workflows" / "text_to_mask.json").read_text(encoding="utf-8"))
        prompt = to_prompt(graph, client.object_info())
        prompt[node_of(prompt, "DiGSegSegment")]["inputs"]["text"] = THINGS[0]
        plain = client.run(prompt).outputs
    expected, photo_with_mask = (
        np.asarray(picture(tab.page, plain[node_of(prompt, kind)]["images"][0])).astype(int)
        for kind in ("DiGSegPickMask", "DiGSegSegment")
    )
    assert 0 < (mask > 127).mean() < 0.3 and np.array_equal(mask, expected)
    assert np.array_equal(overlay, photo_with_mask)
