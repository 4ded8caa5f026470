"""Write the tables of inputs and outputs in the help pages from the nodes' schemas and translations; prose stays.

python -m tools.help --url http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from .api import Client

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "digseg_nodes" / "web" / "docs"
HEADS = {
    "en": (("Inputs", "input", "type", "default", "what it does"), ("Outputs", "output", "type", "what it is")),
    "zh": (("输入", "输入", "类型", "默认值", "作用"), ("输出", "输出", "类型", "说明")),
}
"""By language: heading and columns of the table of inputs, and of the table of outputs."""


def page_of(node: str, language: str) -> Path:
    """Where ComfyUI's page looks for a node's help: English is what every other language falls back to."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def words_of(language: str) -> dict:
    """What a language calls the nodes, their inputs and outputs."""
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def tables(info: dict, words: dict, language: str) -> dict[str, str]:
    """{heading: table} of one node. info: its entry in /object_info; words: its entry in nodeDefs.json."""
    (inputs, *input_columns), (outputs, *output_columns) = HEADS[language]
    known = info["input"].get("required", {}) | info["input"].get("optional", {})
    rows = [
        (f"`{words['inputs'][name]['name']}`", _type(kind), _default(options), words["inputs"][name]["tooltip"])
        for name, (kind, options) in known.items()
    ]
    given = [
        (f"`{words['outputs'][str(n)]['name']}`", kind, words["outputs"][str(n)]["tooltip"])
        for n, kind in enumerate(info["output"])
    ]
    return {inputs: _table(input_columns, rows), outputs: _table(output_columns, given)}


def _type(kind: str | list) -> str:
    return "list" if isinstance(kind, list) or kind == "COMBO" else kind


def _default(options: dict) -> str:
    return str(options.get("default", "")).replace("\n", " ")


def _table(columns: list[str], rows: list[tuple]) -> str:
    head, *body = ("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in (columns, *rows))
    return "\n".join([head, "|---" * len(columns) + "|", *body])


def with_tables(page: str, found: dict[str, str]) -> str:
    """The page with what stands under each of these headings replaced by its table."""
    for heading, table in found.items():
        page = re.sub(
            rf"(^## {heading}\n\n)(?:\|.*\n)*\n?", lambda match, table=table: f"{match[1]}{table}\n\n", page, flags=re.M
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    with Client(parser.parse_args().url) as client:
        nodes = {name: info for name, info in client.object_info().items() if name.startswith("DiGSeg")}
    for language in HEADS:
        words = words_of(language)
        for name, info in nodes.items():
            path = page_of(name, language)
            if path.is_file():
                page = path.read_text(encoding="utf-8")
                path.write_text(with_tables(page, tables(info, words[name], language)), encoding="utf-8")
            else:
                print(f"{path.relative_to(ROOT)} is missing")


if __name__ == "__main__":
    main()
