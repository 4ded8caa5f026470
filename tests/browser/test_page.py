"""What a person clicks through: the template browser, Run, a node's help. The tests of this file share a page, in order."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

import dev
from tools.api import Client, to_prompt
from tools.shots import FIT

NODE = "type => app.graph.nodes.find(node => node.type === type)"
SHOWN = f"type => (({NODE})(type).imgs ?? []).map(image => [image.src, image.naturalWidth, image.naturalHeight])"
TITLE = f"""type => {{
    const node = ({NODE})(type), box = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] - 12]);
    return [x + box.left, y + box.top];
}}"""
LARGE_RESULT = """() => [...document.querySelectorAll('img')].some(image =>
    image.src.includes('/view') && image.naturalWidth > 0 && image.getBoundingClientRect().width > 300)"""
GRAPHS = sorted(path.stem for path in (dev.ROOT / "workflows").glob("*.json"))


def graph(name: str) -> dict:
    return json.loads((dev.ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GRAPHS)
def test_prompt_of_the_demo_is_the_one_the_page_makes(tab, object_info, name):
    made = tab.page.evaluate(
        "async graph => { await app.loadGraphData(graph); return (await app.graphToPrompt()).output; }", graph(name)
    )
    theirs = {node: {"class_type": content["class_type"], "inputs": content["inputs"]} for node, content in made.items()}
    ours = to_prompt(graph(name), object_info)
    for node, content in ours.items():  # newer pages add widgets of their own to some core nodes
        assert theirs[node]["class_type"] == content["class_type"]
        assert content["inputs"].items() <= theirs[node]["inputs"].items(), (name, node)


def test_template_opens_from_the_template_browser(tab):
    page = tab.page
    page.get_by_role("button", name="Templates").click()
    templates = page.get_by_role("dialog").filter(has_text="All Templates")
    templates.get_by_text(dev.PACK_NAME, exact=True).click()
    templates.get_by_text("text_to_mask", exact=True).click()
    expect(templates).to_be_hidden()
    page.wait_for_function("() => app.graph.nodes.some(node => node.type === 'DiGSegPickMask')")
    opened = page.evaluate("() => app.graph.nodes.map(node => node.type)")
    assert sorted(opened) == sorted(node["type"] for node in graph("text_to_mask")["nodes"])
    expect(page.get_by_text("Missing Node", exact=False)).to_have_count(0)


@pytest.fixture(scope="module")
def earlier(tab) -> set[str]:
    """Ids of what other tests ran before, some of it wrong on purpose."""
    with Client(tab.url) as client:
        return set(client.get("/history"))


def test_the_template_is_an_app_that_shows_what_came_out(tab, earlier, screenshots):
    """Its graph says so (extra.linearMode): widgets and notes on one side, the result on the other."""
    page = tab.page
    run, tour = page.get_by_role("button", name="Run", exact=True), page.get_by_role("button", name="Skip", exact=True)
    expect(run.or_(tour).first).to_be_visible()
    if tour.is_visible():  # newer pages offer a tour of their apps first
        tour.click()
    run.click()
    page.wait_for_function(LARGE_RESULT)
    page.screenshot(path=screenshots / f"text_to_mask_app_{tab.frontend}.png")


def test_run_shows_the_masks(tab, earlier, screenshots):
    page = tab.page
    page.evaluate("graph => app.loadGraphData(graph)", {**graph("text_to_mask"), "extra": {}})
    page.evaluate(FIT)
    page.get_by_role("button", name="Run", exact=True).click()
    for kind in ("DiGSegPickMask", "MaskPreview"):
        page.wait_for_function(f"type => ({SHOWN})(type).some(([src, width]) => src.includes('/view') && width > 0)", arg=kind)
    [[_, width, height]] = page.evaluate(SHOWN, "DiGSegPickMask")
    [[_, *photo]] = page.evaluate(SHOWN, "LoadImage")
    assert [width, height] == photo
    page.screenshot(path=screenshots / f"text_to_mask_{tab.frontend}.png")


def test_history_has_no_error(tab, earlier):
    with Client(tab.url) as client:
        runs = [run for number, run in client.get("/history").items() if number not in earlier]
    failed = [run["status"]["messages"] for run in runs if run["status"]["status_str"] != "success"]
    assert runs and not failed, failed


def test_help_page_opens(tab, screenshots):
    page = tab.page
    page.mouse.click(*page.evaluate(TITLE, "DiGSegSegment"))
    page.get_by_test_id("info-button").click()
    help_page = page.locator(".node-help-content")
    expect(help_page).to_contain_text("DiGSeg Segment")
    expect(help_page.get_by_role("heading", name="Inputs")).to_be_visible()
    page.screenshot(path=screenshots / f"help_{tab.frontend}.png")


def test_page_never_complained_about_the_pack(tab):
    assert tab.of_the_pack() == []
