"""Class ids as pictures, grey levels and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from digseg_nodes.core.label_maps import MOST_IDS, check_count, draw_map, grey_ids, save_label_maps
from digseg_nodes.core.masks import Masks
from digseg_nodes.core.palettes import palette


def scene() -> tuple[Masks, torch.Tensor]:
    ids = torch.zeros(1, 96, 128, dtype=torch.int64)
    ids[:, 8:40, 8:40], ids[:, 50:90, 60:100] = 1, 3
    return Masks(torch.zeros(1, 3, 96, 128), ("sky", "tree", "car"), torch.full((1, 96, 128, 3), 0.5)), ids


def test_a_map_shows_every_class_in_its_colour():
    found, ids = scene()
    drawn = draw_map(found, ids, [0.1, 0.0, 0.2], opacity=1.0, legend=False)
    assert drawn.shape == found.image.shape
    for number in (1, 3):
        assert torch.allclose(drawn[ids == number], palette(3)[number - 1] / 255)
    assert torch.equal(drawn[ids == 0], found.image[ids == 0])


def test_a_legend_is_drawn_beside_the_map():
    found, ids = scene()
    drawn = draw_map(found, ids, [0.1, 0.0, 0.2], opacity=1.0, legend=True)
    panel = (drawn[0, :, 128:] * 255).round()
    assert drawn.shape[1] >= 96
    rows = [(panel == colour).all(-1).any(1).nonzero().flatten().tolist() for colour in palette(3).float()]
    assert not rows[1] and rows[2] and rows[2][-1] < rows[0][0], "the largest class first, and none that was not found"


@pytest.mark.parametrize("count", [1, 3, 30, 150])
def test_one_class_list_gives_one_size_whatever_was_found(count):
    names = tuple(f"class {i}" * (1 + i % 3) for i in range(count))
    found = Masks(torch.zeros(1, count, 96, 128), names, torch.full((1, 96, 128, 3), 0.5))
    ids = torch.zeros(1, 96, 128, dtype=torch.int64)
    some = [[0.0] * count, [0.5] + [0.0] * (count - 1), [0.0] * (count - 1) + [1.0], [1 / count] * count]
    sizes = {draw_map(found, ids, shares, 0.5, legend=True).shape for shares in some}
    assert len(sizes) == 1 and sizes.pop()[1] < 700


def test_ids_survive_eight_bits_however_they_are_rounded():
    ids = torch.arange(MOST_IDS + 1).view(1, 16, 16)
    grey = grey_ids(ids)[..., 0] * 255
    assert torch.equal(grey.round().long(), ids) and torch.equal(grey.floor().long(), ids)
    with pytest.raises(ValueError, match="256 classes; an id image holds up to 255"):
        grey_ids(ids + 1)
    with pytest.raises(ValueError, match="There are 256 classes"):
        check_count(("a",) * 256)


def test_saved_maps_hold_the_ids_and_lists_of_other_classes_stay(tmp_path):
    _, ids = scene()
    [path] = save_label_maps(ids, ("sky", "tree", "car"), tmp_path, "map", 1)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), ids[0].numpy())
    [other] = save_label_maps(ids, ("a", "b", "c"), tmp_path, "map", 2)
    assert (path.name, other.name) == ("map_00001_.png", "map_00002_.png")
    assert (tmp_path / "map_classes.txt").read_text("utf-8") == "background\nsky\ntree\ncar\n"
    assert (tmp_path / "map_00002_classes.txt").read_text("utf-8") == "background\na\nb\nc\n"
