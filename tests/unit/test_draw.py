"""Legends, heat maps, difference maps, plots and palette PNGs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from digseg_nodes.core.draw import beside, difference, heat, legend, line_plot, palette_png, to_picture, to_tensor
from digseg_nodes.core.palettes import palette


def entries(count: int) -> list:
    return [(f"class number {i}", tuple(c), "12.3 %") for i, c in enumerate(palette(count).tolist())]


@pytest.mark.parametrize("height", [1, 64, 128, 512, 1080, 4096])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_every_entry_of_a_legend_is_drawn_at_a_readable_size(height, count):
    panel = np.asarray(legend(entries(count), height))
    assert panel.shape[0] >= height
    for colour in palette(count).tolist():
        swatch = (panel == colour).all(-1).sum()
        assert swatch >= 100, "a swatch smaller than 10 x 10 pixels, or none"


def test_legend_of_nothing_and_of_chinese():
    assert legend([], 100).height >= 100
    assert np.asarray(legend([("红色圆形", (255, 0, 0), "5 %")], 100)).std() > 5


def test_heat_goes_from_dark_to_bright():
    brightness = heat(torch.linspace(0, 1, 50)).sum(-1)
    assert (brightness[1:] > brightness[:-1]).all() and brightness[0] < 0.3 and brightness[-1] > 2.4


def test_difference_shows_three_kinds():
    shown = difference(torch.tensor([[[1.0, 1, 0, 0]]]), torch.tensor([[[1.0, 0, 1, 0]]]))
    assert shown.shape == (1, 1, 4, 3)
    agreed, much, missed, nothing = shown[0, 0]
    assert agreed.min() > 0.9 and nothing.max() < 0.2
    assert much[0] > 0.9 and much[2] < 0.3 and missed[2] > 0.9 and missed[0] < 0.3


def test_plot_draws_its_curves():
    xs = [i / 10 for i in range(11)]
    picture = np.asarray(line_plot([("IoU", xs, [1 - abs(x - 0.4) for x in xs]), ("Dice", xs, xs)], "threshold", "score", 0.5))
    assert picture.shape == (480, 720, 3)
    assert all(((picture == colour).all(-1)).sum() > 300 for colour in palette(2).tolist())


def test_palette_png_keeps_the_ids(tmp_path):
    ids = torch.arange(12).view(3, 4)
    palette_png(ids, palette(12), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as read:
        assert read.mode == "P" and np.array_equal(np.asarray(read), ids.numpy())
        assert np.array_equal(np.asarray(read.convert("RGB"))[0, 1], palette(12)[1].numpy())


def test_pictures_and_tensors():
    image = torch.randint(0, 256, (5, 7, 3)).float() / 255
    assert torch.allclose(to_tensor(to_picture(image)), image)
    assert beside(Image.new("RGB", (5, 3)), Image.new("RGB", (4, 9))).size == (9, 9)
