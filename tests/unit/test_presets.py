"""The class lists that come with the pack: complete, in the published order, readable as prompts."""

from __future__ import annotations

import pytest

from digseg_nodes.core.prompts import PRESETS, parse_prompts, preset_text

EXPECTED = {  # list: number of classes, some of them by index
    "ade20k-150": (
        150,
        {
            0: "wall",
            2: "sky",
            12: "person",
            27: "mirror",
            43: "signboard",
            80: "bus",
            89: "television receiver",
            104: "fountain",
            127: "bicycle",
            136: "traffic light",
            149: "flag",
        },
    ),
    "cityscapes-19": (19, {0: "road", 5: "pole", 6: "traffic light", 12: "rider", 18: "bicycle"}),
    "coco-171": (
        171,
        {
            0: "person",
            9: "traffic light",
            79: "toothbrush",
            80: "banner",
            84: "building",
            100: "door",
            123: "mountain",
            146: "skyscraper",
            157: "tree",
            170: "wood",
        },
    ),
    "loveda-7": (7, {0: "background", 1: "building", 4: "barren", 6: "agricultural"}),
    "pascal-context-59": (59, {0: "aeroplane", 10: "table", 19: "tv monitor", 20: "bag", 40: "mouse", 58: "wood"}),
    "pascal-voc-20": (20, {0: "aeroplane", 10: "dining table", 14: "person", 19: "tv monitor"}),
}


def test_every_list_is_known():
    assert set(PRESETS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_count_and_order(name):
    count, some = EXPECTED[name]
    prompts = parse_prompts(preset_text(name))  # raises when a name comes twice
    assert len(prompts) == count
    assert {index: prompts[index].name for index in some} == some


@pytest.mark.parametrize("name", EXPECTED)
def test_wordings_are_plain_words(name):
    for prompt in parse_prompts(preset_text(name)):
        for wording in prompt.wordings:
            assert wording == wording.strip().lower() and all(c.isalpha() or c in " -" for c in wording), wording


@pytest.mark.parametrize("name", EXPECTED)
def test_no_synonym_is_another_class(name):
    prompts = parse_prompts(preset_text(name))
    names = {prompt.name for prompt in prompts}
    assert not [(p.name, w) for p in prompts for w in p.wordings[1:] if w in names]
