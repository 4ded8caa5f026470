"""Write subgraphs/*.json, nodes-of-nodes that ComfyUI offers in its node library: photo and text in, mask out, as one node.

python -m tools.blueprint --url http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import json
import uuid
from pathlib import Path

from .api import Client
from .layout import Node, Output, Sheet

FOLDER = Path(__file__).resolve().parent.parent / "subgraphs"
NAME = "DiGSeg text to mask"
DESCRIPTION = "A photo and a few words in, a mask out: checkpoint, segmentation and choice of the mask in one node."
ALIASES = ["segment", "text to mask", "semantic segmentation", "inpaint mask"]
ENTRY, EXIT = -10, -20
SLOT = 20


def identity(text: str) -> str:
    """The same UUID for the same text in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"digseg/{text}"))


def inside(sheet: Sheet) -> tuple[list[tuple[str, dict, str]], list[tuple[str, Output]]]:
    """Build the inner nodes; returns what goes in, (label, node, its input), and what comes out, (label, output)."""
    with sheet.column("DiGSeg", "segment"):
        loader = sheet.add("DiGSegCheckpointLoader")
        model = {"model": loader["MODEL"], "clip": loader["CLIP"], "vae": loader["VAE"]}
        found: Node = sheet.add("DiGSegSegment", text="red circle", **model)
        mask = sheet.add("DiGSegPickMask", masks=found["masks"], names="")
    entries = [
        ("image", found.content, "image"),
        ("text", found.content, "text"),
        ("checkpoint", loader.content, "checkpoint"),
    ]
    return entries, [("mask", mask["mask"]), ("overlay", found["overlay"]), ("masks", found["masks"])]


def blueprint(info: dict) -> dict:
    """A graph in UI format that holds one subgraph and one node of it, as ComfyUI saves a blueprint."""
    sheet = Sheet(info)
    entries, exits = inside(sheet)
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in sheet.links]
    inputs, outputs = [], []
    for slot, (label, node, name) in enumerate(entries):
        index, socket = next((i, s) for i, s in enumerate(node["inputs"]) if s["name"] == name)
        socket["link"] = len(links) + 1
        links.append({"id": socket["link"], "origin_id": ENTRY, "origin_slot": slot, "target_id": node["id"],
                      "target_slot": index, "type": socket["type"]})  # fmt: skip
        inputs.append({"id": identity(f"in {label}"), "name": label, "type": socket["type"], "linkIds": [socket["link"]],
                       "pos": {"0": -140, "1": 100 + SLOT * slot}})  # fmt: skip
    for slot, (label, output) in enumerate(exits):
        kind = output.node["outputs"][output.slot]["type"]
        number = len(links) + 1
        output.node["outputs"][output.slot]["links"].append(number)
        links.append({"id": number, "origin_id": output.node["id"], "origin_slot": output.slot, "target_id": EXIT,
                      "target_slot": slot, "type": kind})  # fmt: skip
        outputs.append({"id": identity(f"out {label}"), "name": label, "type": kind, "linkIds": [number],
                        "pos": {"0": 540, "1": 100 + SLOT * slot}})  # fmt: skip
    definition = {
        "id": identity(NAME), "version": 1, "revision": 0, "config": {}, "name": NAME, "widgets": [], "groups": [], "extra": {},
        "description": DESCRIPTION, "category": "DiGSeg",
        "state": {"lastGroupId": 0, "lastNodeId": len(sheet.nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": ENTRY, "bounding": [-260, 80, 120, 40 + SLOT * len(inputs)]},
        "outputNode": {"id": EXIT, "bounding": [520, 80, 120, 40 + SLOT * len(outputs)]},
        "inputs": inputs, "outputs": outputs, "nodes": sheet.nodes, "links": links,
    }  # fmt: skip
    sockets = [{"name": entry["name"], "type": entry["type"], "link": None} for entry in inputs]
    for socket in sockets[1:]:
        socket["widget"] = {"name": socket["name"]}
    instance = {
        "id": 1, "type": identity(NAME), "pos": [0, 0], "size": [340, 220], "flags": {}, "order": 0, "mode": 0, "inputs": sockets,
        "outputs": [{"name": exit["name"], "type": exit["type"], "links": []} for exit in outputs],
        "properties": {"proxyWidgets": [["-1", "text"], ["-1", "checkpoint"]]},
        "widgets_values": ["red circle", entries[2][1]["widgets_values"][0]],
    }  # fmt: skip
    return {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [instance], "links": [], "groups": [],
            "definitions": {"subgraphs": [definition]}, "config": {}, "version": 0.4,
            "extra": {"BlueprintDescription": DESCRIPTION, "BlueprintSearchAliases": ALIASES}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    with Client(parser.parse_args().url) as client:
        graph = blueprint(client.object_info())
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{NAME}.json").write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
