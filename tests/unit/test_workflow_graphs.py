"""UI graphs become API prompts."""

from __future__ import annotations

import pytest

from tools.api import GraphError, to_prompt

INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "Sampler": {
        "input": {
            "required": {"image": ["IMAGE", {}], "seed": ["INT", {"control_after_generate": True}], "steps": ["INT"]},
            "optional": {"kind": ["COMBO", {"options": ["x", "y"]}], "strength": ["FLOAT", {"forceInput": True}]},
        }
    },
}
GRAPH = {
    "links": [[7, 1, 0, 2, 0, "IMAGE"]],
    "nodes": [
        {"id": 1, "type": "LoadImage", "widgets_values": ["a.png", "image"]},
        {
            "id": 2,
            "type": "Sampler",
            "inputs": [{"name": "image", "link": 7}, {"name": "strength", "link": None}],
            "widgets_values": [5, "randomize", 10, "y"],
        },
        {"id": 3, "type": "MarkdownNote", "widgets_values": ["hello"]},
    ],
}


def test_widgets_links_and_notes():
    assert to_prompt(GRAPH, INFO) == {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": "Sampler", "inputs": {"image": ["1", 0], "seed": 5, "steps": 10, "kind": "y"}},
    }


def test_linked_widget_takes_the_link():
    graph = {
        "links": GRAPH["links"],
        "nodes": [
            GRAPH["nodes"][0],
            {
                "id": 2,
                "type": "Sampler",
                "widgets_values": [5, "fixed", 10, "y"],
                "inputs": [{"name": "steps", "widget": {"name": "steps"}, "link": 7}],
            },
        ],
    }
    assert to_prompt(graph, INFO)["2"]["inputs"]["steps"] == ["1", 0]


@pytest.mark.parametrize(("change", "message"), [({"type": "Gone"}, "has no Gone"), ({"mode": 4}, "muted or bypassed")])
def test_what_cannot_run_is_named(change, message):
    graph = {**GRAPH, "nodes": [{**GRAPH["nodes"][1], **change}]}
    with pytest.raises(GraphError, match=message):
        to_prompt(graph, INFO)
