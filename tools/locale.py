"""Write locales/en/nodeDefs.json from the nodes' own schemas; other languages are translated by hand.

python -m tools.locale --url http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .api import Client

ENGLISH = Path(__file__).resolve().parent.parent / "locales" / "en" / "nodeDefs.json"


def english(object_info: dict) -> dict:
    """What a ComfyUI page shows of every node of this pack: {id: {display_name, description, inputs, outputs}}."""
    return {name: _node(info) for name, info in object_info.items() if name.startswith("DiGSeg")}


def _node(info: dict) -> dict:
    known = info["input"].get("required", {}) | info["input"].get("optional", {})
    inputs = {name: {"name": name, "tooltip": options["tooltip"]} for name, (_, options) in known.items()}
    outputs = {
        str(number): {"name": name, "tooltip": tooltip}
        for number, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    with Client(parser.parse_args().url) as client:
        words = english(client.object_info())
    ENGLISH.write_text(json.dumps(words, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
