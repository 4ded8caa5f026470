"""Colours of classes are stable and can be told apart."""

from __future__ import annotations

import torch

from digseg_nodes.core.palettes import palette


def test_a_class_keeps_its_colour_however_many_there_are():
    assert torch.equal(palette(171)[:20], palette(20))
    assert palette(0).shape == (0, 3) and palette(3).dtype == torch.uint8


def test_colours_are_distinct_and_not_too_dark():
    colours = palette(171).float()
    distances = torch.cdist(colours, colours) + 1000 * torch.eye(171)
    assert distances.min() >= 3 and distances[:20, :20].min() > 40
    assert colours.amax(1).min() >= 120
