"""Legends, heat maps, difference maps, plots and palette PNGs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from digseg_nodes.core.draw import (
    INK,
    PANEL,
    beside,
    difference,
    heat,
    legend,
    line_plot,
    palette_png,
    sweep_plot,
    thumbnail,
    to_picture,
    to_tensor,
)
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


def written(label: str, detail: str) -> np.ndarray:
    """What a legend of one entry shows right of its swatch."""
    panel = np.asarray(legend([(label, (255, 0, 0), detail)], 100)).astype(int)
    swatch = np.flatnonzero((panel == (255, 0, 0)).all(-1).any(0))
    return panel[:, swatch.max() + 2 :]


@pytest.mark.parametrize("label", ["red circle", "Größe", "红色圆形"])
def test_label_and_detail_are_written_beside_the_swatch(label):
    bare, named, detailed = written("", ""), written(label, ""), written(label, "5 %")
    assert (bare == PANEL).all()
    assert (named == INK).all(-1).sum() > 10, "the label"
    assert np.abs(detailed - PANEL).sum() > np.abs(named - PANEL).sum() + 500, "the detail beside it"


def test_a_legend_of_nothing_has_the_height_asked_for():
    assert legend([], 100).height >= 100


@pytest.mark.parametrize("size", [(768, 1), (1, 5000), (5000, 3), (384, 384), (20, 10), (1000, 500)])
def test_a_thumbnail_is_never_empty(size):
    """ComfyUI's own shrinking of what comes out must leave something, or its publishing loop ends the server."""
    small = thumbnail(Image.new("RGB", size), 384)
    assert max(small.size) == min(384, max(size)) and min(small.size) >= 1
    assert min(ImageOps.contain(small, (384, 384)).size) >= 1


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


def test_a_sweep_marks_where_the_best_threshold_is():
    truth = torch.zeros(1, 8, 8)
    truth[:, :4] = 1
    swept = sweep_plot(truth * 0.6, truth, 0.5)
    assert swept.shape == (1, 480, 720, 3)
    assert not torch.equal(swept, sweep_plot(truth * 0.3, truth, 0.5)), "the curve falls elsewhere"
    assert not torch.equal(swept, sweep_plot(truth * 0.6, truth, 0.2)), "the mark stands elsewhere"
