"""Open the example graphs in ComfyUI's real page, run them, and take a screenshot of each.

    python -m tools.shots --url http://127.0.0.1:8188 --docs docs/img/workflows

Needs Playwright's Python package and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from .graphs import BIG, GRAPHS

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SIZE = {"width": 1920, "height": 1080}
LEFT, TOP, RIGHT, BOTTOM, AROUND = 90, 170, 30, 90, 14
"""Pixels that the page's own bars take from a screenshot's sides, and those kept around the graph."""
WIDEST = 1920
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.ColorPalette": "dark",
}
"""Of the page; the last two because ComfyUI keeps what an earlier call had set."""
READY = "() => !!(window.app && window.app.graph && window.LiteGraph && LiteGraph.registered_node_types['DiGSegSegment'])"
BOUNDS = """() => {
    const bounds = [Infinity, Infinity, -Infinity, -Infinity];
    for (const box of [...app.graph.nodes.map(n => n.boundingRect), ...app.graph.groups.map(g => g._bounding)]) {
        bounds[0] = Math.min(bounds[0], box[0]); bounds[1] = Math.min(bounds[1], box[1]);
        bounds[2] = Math.max(bounds[2], box[0] + box[2]); bounds[3] = Math.max(bounds[3], box[1] + box[3]);
    }
    return [bounds[0], bounds[1], bounds[2] - bounds[0], bounds[3] - bounds[1]];
}"""
FIT = f"""() => {{
    const [x, y, w, h] = ({BOUNDS})(), canvas = app.canvas;
    const view = {{x: 70, y: 150, w: innerWidth - 90, h: innerHeight - 210}};
    const scale = Math.min(view.w / w, view.h / h, 1.2);
    canvas.ds.scale = scale;
    canvas.ds.offset = [view.x / scale - x + (view.w / scale - w) / 2, view.y / scale - y];
    canvas.setDirty(true, true);
}}"""
PLACE = """offset => {
    app.canvas.ds.scale = 1; app.canvas.ds.offset = offset; app.canvas.setDirty(true, true);
}"""
OVERLAPS = """() => {
    const boxes = app.graph.nodes.map(n => [n.id, n.type, ...n.boundingRect]), found = [];
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
        const [a, at, ax, ay, aw, ah] = boxes[i], [b, bt, bx, by, bw, bh] = boxes[j];
        if (ax < bx + bw && bx < ax + aw && ay < by + bh && by < ay + ah) found.push(`${a} ${at} over ${b} ${bt}`);
    }
    return found;
}"""


SHORTEN = """() => {
    for (const widget of app.graph.nodes.flatMap(node => node.widgets ?? []))
        if (typeof widget.value === 'string') widget.value = widget.value.replace(/\\S*\\/(?=output\\/)/g, 'ComfyUI/');
}"""
"""Paths below the host's output folder as a reader has them, not as this machine does."""


def chromium() -> str | None:
    """A Chromium of the system; None for Playwright's own."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@contextmanager
def opened(url: str, settings: dict | None = None) -> Iterator[Page]:
    """ComfyUI's page in a headless Chromium, ready to load graphs; settings: of the page, by their names."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport=SIZE)
        page.route(lambda address: not address.startswith(url.rstrip("/")), lambda route: route.abort())  # no outside world
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page.set_default_timeout(180_000)
        page.request.post(f"{url.rstrip('/')}/settings", data=QUIET | (settings or {}))
        page.goto(url, wait_until="commit")
        page.wait_for_function(READY, timeout=120_000)
        try:
            yield page
        finally:
            browser.close()


def load(page: Page, graph: dict) -> None:
    """Open a graph in UI format, in the middle of the window and never as an app; no node shows what one of another graph has
    shown."""
    graph = {**graph, "extra": {}}
    page.evaluate("graph => { app.nodeOutputs = {}; app.nodePreviewImages = {}; return app.loadGraphData(graph); }", graph)
    page.evaluate(FIT)


def run(page: Page, timeout: float = 600) -> dict[str, dict]:
    """Press Run, wait until the queue is empty; returns what every node shows, by node id."""
    page.evaluate("() => { app.nodeOutputs = {}; app.queuePrompt(0, 1); }")
    end = time.monotonic() + timeout
    while not page.evaluate("() => Object.keys(app.nodeOutputs).length") or _busy(page):
        if time.monotonic() > end:
            raise TimeoutError(f"the graph did not finish within {timeout} s")
        page.wait_for_timeout(500)
    page.wait_for_timeout(1000)
    return page.evaluate("() => app.nodeOutputs")


def _busy(page: Page) -> bool:
    queue = page.request.get(page.url.split("#")[0] + "queue").json()
    return bool(queue["queue_running"] or queue["queue_pending"])


def picture(page: Page, shown: dict) -> Image.Image:
    """The picture behind one entry of what a node shows."""
    query = "&".join(f"{key}={value}" for key, value in shown.items() if key in ("filename", "subfolder", "type"))
    return Image.open(io.BytesIO(page.request.get(f"{page.url.split('#')[0]}view?{query}").body())).convert("RGB")


def shoot(page: Page, name: str, docs: Path) -> None:
    """The graph alone, every letter drawn, to docs/<name>.jpg; report nodes that overlap. Those of BIG are not run."""
    load(page, json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))
    page.wait_for_timeout(1500)
    outputs = {} if name in BIG else run(page)
    page.evaluate(SHORTEN)
    for overlap in page.evaluate(OVERLAPS):
        print(f"{name}: {overlap}")
    x, y, width, height = page.evaluate(BOUNDS)
    page.set_viewport_size({"width": round(width) + LEFT + RIGHT, "height": round(height) + TOP + BOTTOM})
    page.evaluate(PLACE, [LEFT - x, TOP - y])
    page.wait_for_timeout(1500)
    graph = {"x": LEFT - AROUND, "y": TOP - AROUND, "width": width + 2 * AROUND, "height": height + 2 * AROUND}
    shot = Image.open(io.BytesIO(page.screenshot(clip=graph))).convert("RGB")
    shot.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    docs.mkdir(parents=True, exist_ok=True)
    shot.save(docs / f"{name}.jpg", quality=78, optimize=True)
    print(f"{name}: {len(outputs)} nodes show something; {(docs / f'{name}.jpg').stat().st_size // 1024} KB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    parser.add_argument("--docs", type=Path, required=True, help="folder for the screenshots")
    parser.add_argument("--settings", type=json.loads, metavar="JSON", help="settings of the page, by their names")
    parser.add_argument("names", nargs="*", help="graphs to open; all without this")
    args = parser.parse_args()
    with opened(args.url, args.settings) as page:
        for name in args.names or GRAPHS:
            shoot(page, name, args.docs)


if __name__ == "__main__":
    main()
