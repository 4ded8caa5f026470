"""What the ComfyUI registry and GitHub read: the package's facts, its pictures, what the archive holds, the workflows."""

from __future__ import annotations

import re

import pytest
import yaml
from PIL import Image

import dev
from tools.layout import PACK, pack_version

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
FACTS = tomllib.loads((dev.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = dev.ROOT / ".github" / "workflows"


def test_the_registry_finds_what_it_wants():
    project, comfy = FACTS["project"], FACTS["tool"]["comfy"]
    assert project["name"] == PACK == dev.PACK_NAME and project["version"] == pack_version()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and (dev.ROOT / project["license"]["file"]).is_file()
    assert {"Repository", "Documentation", "Issues"} <= set(project["urls"])
    assert comfy["PublisherId"] and comfy["DisplayName"]
    for key in ("Icon", "Banner"):
        assert comfy[key].startswith("https://") and (dev.ROOT / "docs" / "img" / comfy[key].rsplit("/", 1)[1]).is_file()


def test_icon_and_banner_have_the_shapes_it_takes():
    with Image.open(dev.ROOT / "docs/img/icon.png") as icon, Image.open(dev.ROOT / "docs/img/banner.jpg") as banner:
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21


def test_the_archive_holds_what_the_readme_promises(archived):
    assert {
        "__init__.py",
        "dev.py",
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "train/finetune.py",
        "train/requirements.txt",
    } <= archived
    for folder in ("digseg_nodes/", "train/", "tools/", "workflows/", "subgraphs/", "locales/", "docs/"):
        assert [name for name in archived if name.startswith(folder)], folder
    assert not [name for name in archived if name.startswith(("tests/", "benchmarks/", ".ci/", ".github/", "output/", ".venv"))]
    said = re.findall(r"(?:python |`)((?:train/)?\w+\.py)", (dev.ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"dev.py", "train/finetune.py"} <= set(said) <= archived
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", (dev.ROOT / "README.md").read_text(encoding="utf-8"))
    assert {name for name in linked if not name.endswith("/")} <= archived


def test_tests_run_on_three_systems_and_four_pythons():
    jobs = yaml.safe_load((WORKFLOWS / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["platforms"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert [step for step in jobs["everything"]["steps"] if step.get("run") == ".ci/run"]
    named = re.findall(r"tests/[\w/.]+", next(step["run"] for step in jobs["platforms"]["steps"] if "run" in step))
    assert named and all((dev.ROOT / name).exists() for name in named)


def test_a_new_version_is_published():
    steps = yaml.safe_load((WORKFLOWS / "publish.yml").read_text(encoding="utf-8"))["jobs"]["publish"]["steps"]
    assert [step for step in steps if step.get("uses", "").startswith("Comfy-Org/publish-node-action@")]
