"""Laying out a graph as ComfyUI's page saves it: nodes below one another in titled columns, rows of columns, notes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .api import widget_names

GAP_X, GAP_Y, PAD, TITLE, GROUP_TITLE = 50, 50, 20, 30, 46
SLOT, WIDGET, TEXT_BOX, PICTURE = 20, 24, 110, 240
FOOTER, ROW_GROWTH, PICTURE_GROWTH = 34, 4, 190
"""Pixels by which ComfyUI's newer renderer draws a node higher: the pack's name below it, each widget, a picture."""
COLOURS = {
    "load": "#3f789e",
    "segment": "#88AA88",
    "result": "#8888AA",
    "paint": "#b568c9",
    "check": "#b58b2a",
}
NOTE = "MarkdownNote"
PICTURE_NODES = (
    "LoadImage",
    "LoadVideo",
    "PreviewImage",
    "MaskPreview",
    "SaveImage",
    "SaveVideo",
    "DiGSegSegment",
    "DiGSegPickMask",
    "DiGSegSplitObjects",
    "DiGSegSavePair",
    "DiGSegSemanticMap",
    "DiGSegUncertainty",
    "DiGSegCompareMasks",
    "DiGSegSampler",
    "KSampler",
    "SamplerCustom",
)


PACK = "digseg-nodes"
"""This pack's name in the registry."""
CORE, CORE_VERSION = "comfy-core", "0.3.75"
"""ComfyUI's own nodes as the page names them, and the version the graphs were laid out on."""
SAM3_VERSION = "0.19.3"
"""A ComfyUI that has the SAM 3 nodes."""


def pack_version() -> str:
    """The version that pyproject.toml gives the pack."""
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "([^"]+)"', text, re.MULTILINE)[1]


@dataclass(frozen=True)
class Output:
    """One output of a node, ready to be given to another node's input."""

    node: dict
    slot: int


@dataclass(frozen=True)
class Node:
    """A placed node; `node["IMAGE"]` or `node[0]` is one of its outputs."""

    content: dict

    def __getitem__(self, which: str | int) -> Output:
        names = [output["name"] for output in self.content["outputs"]]
        return Output(self.content, which if isinstance(which, int) else names.index(which))


@dataclass
class Sheet:
    """A graph laid out in columns, each column a titled group; rows of columns below one another."""

    info: dict
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
    x: float = 0
    top: float = 0
    bottom: float = 0
    width: int = 0
    extra: dict = field(default_factory=dict)

    def app(self, inputs: list[tuple[Node, str]], outputs: list[Node]) -> None:
        """Let the graph open as an app: these widgets of these nodes to fill in, what these nodes show to look at."""
        chosen = [[node.content["id"], name] for node, name in inputs]
        self.extra |= {"linearMode": True, "linearData": {"inputs": chosen, "outputs": [node.content["id"] for node in outputs]}}

    def files(self, node: Node, *files: tuple[str, str, str]) -> None:
        """Name the files that a node needs, (name, address, folder below models/), so that the page can offer them."""
        node.content["properties"]["models"] = [
            {"name": name, "url": url, "directory": directory} for name, url, directory in files
        ]

    @contextmanager
    def column(self, title: str, kind: str, width: int = 320):
        """Nodes added in this block stand below one another in a group, notes on top; below each there is room for its growth."""
        first, self.width = len(self.nodes), width
        yield
        nodes, y = sorted(self.nodes[first:], key=lambda node: node["type"] != NOTE), self.top + GROUP_TITLE
        for node in nodes:
            node["pos"] = [self.x + PAD, y + TITLE]
            y += node["size"][1] + GAP_Y + TITLE / 2 + growth(node)
        box = [self.x, self.top, width + 2 * PAD, y - GAP_Y + PAD - self.top]
        self.groups.append(
            {
                "id": len(self.groups) + 1,
                "title": title,
                "bounding": box,
                "color": COLOURS[kind],
                "font_size": 22,
                "flags": {},
            }
        )
        self.x += width + 2 * PAD + GAP_X
        self.bottom = max(self.bottom, self.top + box[3])

    def row(self) -> None:
        """Continue below everything so far, at the left edge."""
        self.x, self.top = 0, self.bottom + GAP_Y

    def note(self, text: str, height: int = 180) -> None:
        """Explain something inside the graph; Markdown."""
        self._place(
            {
                "type": NOTE,
                "inputs": [],
                "outputs": [],
                "widgets_values": [text.strip()],
                "color": "#432",
                "bgcolor": "#653",
            },
            height,
        )

    def add(self, kind: str, title: str = "", height: int = 0, **inputs) -> Node:
        """Place a node. inputs: values for its widgets, `Output`s for its sockets and for linked widgets."""
        info = self.info[kind]
        known = info["input"].get("required", {}) | info["input"].get("optional", {})
        unknown = set(inputs) - set(known)
        if unknown:
            raise ValueError(f"{kind} has no input {sorted(unknown)}; it has {sorted(known)}")
        widgets = widget_names(info)
        content = {"type": kind, "inputs": [], "widgets_values": [_value(name, known, inputs) for name in widgets]}
        content["outputs"] = [
            {"name": name, "type": type_, "links": []} for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        if title:
            content["title"] = title
        if kind in ("LoadImage", "LoadVideo"):
            content["widgets_values"].append("image")
        node = self._place(content, height or _height(kind, known, widgets, content))
        for name, (type_, *_) in known.items():
            self._socket(node, name, type_, name in widgets, inputs.get(name))
        return Node(node)

    def _socket(self, node: dict, name: str, kind, is_widget: bool, value) -> None:
        linked = isinstance(value, Output)
        slot = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
        if is_widget:
            slot["widget"] = {"name": name}
        if linked:
            slot["link"] = len(self.links) + 1
            self.links.append(
                [
                    slot["link"],
                    value.node["id"],
                    value.slot,
                    node["id"],
                    len(node["inputs"]),
                    value.node["outputs"][value.slot]["type"],
                ]
            )
            value.node["outputs"][value.slot]["links"].append(slot["link"])
        node["inputs"].append(slot)

    def _place(self, content: dict, height: float) -> dict:
        number = len(self.nodes) + 1
        node = {
            "id": number,
            "pos": [0, 0],
            "size": [self.width, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "properties": _origin(content["type"]),
            **content,
        }
        self.nodes.append(node)
        return node

    def graph(self) -> dict:
        """The finished graph as ComfyUI's page saves it."""
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 90]}, **self.extra},
            "version": 0.4,
        }


def _origin(kind: str) -> dict:
    """Where a node comes from, so that the page can offer to install what is missing."""
    if kind == NOTE:
        return {"Node name for S&R": kind}
    if kind.startswith("DiGSeg"):
        return {"Node name for S&R": kind, "cnr_id": PACK, "ver": pack_version()}
    return {"Node name for S&R": kind, "cnr_id": CORE, "ver": SAM3_VERSION if kind.startswith("SAM3_") else CORE_VERSION}


def _value(name: str, known: dict, inputs: dict):
    """A widget's value: what was given, else its default; the unnamed widget behind a seed keeps it as it is."""
    if name == "":
        return "fixed"
    if name in inputs and not isinstance(inputs[name], Output):
        return inputs[name]
    kind, *options = known[name]
    option = options[0] if options else {}
    choices = kind if isinstance(kind, list) else option.get("options")
    return option.get("default", choices[0] if choices else {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, ""))


def _height(kind: str, known: dict, widgets: list[str], content: dict) -> int:
    boxes = [name for name in widgets if name and len(known[name]) > 1 and known[name][1].get("multiline")]
    sockets = max(len(known) - len([name for name in widgets if name]), len(content["outputs"]))
    rows = 10 + SLOT * sockets + WIDGET * (len(widgets) - len(boxes)) + TEXT_BOX * len(boxes)
    return rows + (PICTURE if kind in PICTURE_NODES else TEXT_BOX if kind == "PreviewAny" else 0)


def growth(node: dict) -> int:
    """Pixels by which the newer renderer makes a node of a graph higher than its saved size."""
    picture = PICTURE_GROWTH if node["type"] in PICTURE_NODES else 0
    return FOOTER + ROW_GROWTH * len(node.get("widgets_values", ())) + picture if node["type"] != NOTE else 0
