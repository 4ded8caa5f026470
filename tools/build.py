"""Write the example graphs, workflows/*.json, from the descriptions in tools/graphs.py.

    python -m tools.build --url http://127.0.0.1:8188 [NAME ...]

A running ComfyUI with the pack (`python dev.py serve`) tells the order and kinds of every node's inputs; for video_track it needs
the SAM 3 nodes, or those of tests/standins in their place (`serve --extra-model-paths-config FILE`, which names the folder as
custom_nodes). The pictures beside the
graphs are made by `python -m tools.pictures`, the screenshots in docs/ by `python -m tools.shots`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .api import Client
from .graphs import GRAPHS
from .layout import Sheet

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    parser.add_argument("names", nargs="*", help="graphs to write; all without this")
    args = parser.parse_args()
    with Client(args.url) as client:
        info = client.object_info()
    for name in args.names or GRAPHS:
        sheet = Sheet(info)
        GRAPHS[name](sheet)
        (WORKFLOWS / f"{name}.json").write_text(json.dumps(sheet.graph(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{name}.json: {len(sheet.nodes)} nodes")


if __name__ == "__main__":
    main()
