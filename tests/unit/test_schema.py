"""What newer hosts know of a node's schema is passed on to them, and left out on older ones."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass, field, make_dataclass

import pytest

import dev


@dataclass
class Widget:
    """An input of a host that cannot fold it away."""

    id: str


@dataclass
class FoldingWidget(Widget):
    """One of a host that can."""

    advanced: bool | None = None


OLD = ["node_id", "inputs", "is_output_node"]
NEW = [*OLD, "search_aliases", "essentials_category", "has_intermediate_output"]


@pytest.fixture
def schema_on(monkeypatch):
    """nodes/schema.py beside a host whose io.Schema has these fields."""

    def load(names: list[str]):
        made = make_dataclass("Schema", [(name, object, field(default=None)) for name in names])
        latest = types.ModuleType("comfy_api.latest")
        latest.io = types.SimpleNamespace(Schema=made)
        monkeypatch.setitem(sys.modules, "comfy_api", types.ModuleType("comfy_api"))
        monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
        spec = importlib.util.spec_from_file_location("schema_alone", dev.ROOT / "digseg_nodes" / "nodes" / "schema.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.schema

    return load


GIVEN = {"node_id": "X", "search_aliases": ["x"], "essentials_category": "Image Tools", "has_intermediate_output": True}


def test_a_new_host_gets_everything(schema_on):
    made = schema_on(NEW)(advanced=["seed"], inputs=[FoldingWidget("text"), FoldingWidget("seed")], **GIVEN)
    assert {name: getattr(made, name) for name in GIVEN} == GIVEN
    assert [entry.advanced for entry in made.inputs] == [None, True]


def test_an_old_host_gets_what_it_knows(schema_on):
    made = schema_on(OLD)(advanced=["seed"], inputs=[Widget("text"), Widget("seed")], is_output_node=True, **GIVEN)
    assert made.node_id == "X" and made.is_output_node and not hasattr(made, "search_aliases")
    assert not hasattr(made.inputs[1], "advanced")


def test_an_input_that_is_not_there_cannot_be_folded_away(schema_on):
    with pytest.raises(KeyError, match="sead"):
        schema_on(NEW)(advanced=["sead"], inputs=[FoldingWidget("seed")], **GIVEN)
