"""Every node's help page explains all of its inputs and outputs and shows a picture that is there."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

import dev

DOCS = dev.ROOT / "digseg_nodes" / "web" / "docs"
NODES = json.loads((dev.ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def test_a_page_for_every_node_and_no_other():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_page_is_complete(node):
    page = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {NODES[node]['display_name']}\n")
    for heading in ("## Inputs", "## Outputs", "## Tips", "## When something is wrong"):
        assert heading in page, heading
    for entry in [*NODES[node]["inputs"].values(), *NODES[node]["outputs"].values()]:
        assert f"| `{entry['name']}` |" in page, entry["name"]
        assert entry["tooltip"].replace("|", "/") in page, f"the page and the tooltip of {entry['name']} differ"


@pytest.mark.parametrize("node", NODES)
def test_pictures_are_there_and_small(node):
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / f"{node}.md").read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert (DOCS / name).stat().st_size < 200_000
        with Image.open(DOCS / name) as picture:
            assert min(picture.size) >= 200
