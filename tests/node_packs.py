"""Node packs of the tests' own beside this one."""

import json
from pathlib import Path


def packs_in(folder: Path, paths: Path) -> list[str]:
    """Options with which ComfyUI also loads the packs in a folder; writes the file `paths` that names it."""
    paths.write_text(json.dumps({"tests": {"custom_nodes": str(folder)}}), encoding="utf-8")
    return ["--extra-model-paths-config", str(paths)]
