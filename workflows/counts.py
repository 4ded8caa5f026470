"""Print how many nodes, example graphs, blueprints, help pages and translated strings there are.

python -m workflows.counts
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def strings(words: dict | str) -> int:
    """Texts in a nested dictionary."""
    return sum(map(strings, words.values())) if isinstance(words, dict) else 1


def counts() -> dict[str, int]:
    """What the repository holds, by name."""
    found = {
        "nodes": len(json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))),
        "workflows": len(list((ROOT / "workflows").glob("*.json"))),
        "blueprints": len(list((ROOT / "subgraphs").glob("*.json"))),
        "help pages": len(list((ROOT / "digseg_nodes" / "web" / "docs").glob("*.md"))),
    }
    for folder in sorted(path for path in (ROOT / "locales").iterdir() if path.is_dir()):
        files = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        found[f"strings, {folder.name}"] = sum(map(strings, files))
    return found


if __name__ == "__main__":
    for name, count in counts().items():
        print(f"{count:5} {name}")
