"""Legends, heat maps, difference maps, plots and palette PNGs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from digseg_nodes.core.draw import (
    GRID,
    INK,
    MUTED,
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


XS = [i / 10 for i in range(11)]
CURVES = [("IoU", XS, [1 - abs(x - 0.4) for x in XS]), ("Dice", XS, XS)]


def plotted(mark: float | None = 0.5) -> tuple[np.ndarray, Callable[[float, float], list]]:
    """A plot of CURVES, and its colour at a point (x, y), both from 0 to 1."""
    picture = np.asarray(line_plot(CURVES, "threshold", "score", mark))
    assert picture.shape == (480, 720, 3)
    return picture, lambda x, y: picture[int(422 - y * 372), int(70 + x * 626)].tolist()


def test_a_plots_curves_run_where_their_values_are():
    _, colour = plotted()
    first, second = palette(2).tolist()
    assert [colour(*point) for point in ((0.1, 0.7), (0.7, 0.7), (1.0, 0.4))] == [first, second, first]
    assert [colour(*point) for point in ((0.1, 0.1), (0.3, 0.3), (0.9, 0.9))] == [second] * 3
    assert list(PANEL) == colour(0.7, 0.02) == colour(0.1, 0.9), "nothing elsewhere"


def test_a_plot_dots_the_best_of_each_curve_and_marks_a_threshold():
    picture, colour = plotted()
    for best, (x, y) in zip(palette(2).tolist(), ((0.4, 1.0), (1.0, 1.0)), strict=True):
        row, column = round(422 - y * 372), round(70 + x * 626)
        assert (picture[row - 3 : row + 4, column - 3 : column + 4] == best).all()
    assert colour(0.5, 0.05) == list(MUTED) and plotted(mark=None)[1](0.5, 0.05) == list(PANEL)


def test_a_plot_has_axes_and_names_its_curves_with_their_best():
    picture, colour = plotted()
    assert colour(0.3, 0.2) == colour(0.2, 0.3) == list(GRID)
    ink, muted = (picture == INK).all(-1), (picture == MUTED).all(-1)
    assert ink[452:475, 300:460].sum() > 20 and ink[10:34, 10:60].sum() > 5, "what the axes are"
    assert muted[60:430, 40:62].sum() > 40 and muted[428:446, 60:].sum() > 40, "their numbers"
    assert picture[24, 136].tolist() == palette(1)[0].tolist() and ink[12:36, 148:330].sum() > 60


def test_palette_png_keeps_the_ids(tmp_path):
    ids = torch.arange(12).view(3, 4)
    palette_png(ids, palette(12), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as read:
        assert read.mode == "P" and np.array_equal(np.asarray(read), ids.numpy())
        assert np.array_equal(np.asarray(read.convert("RGB"))[0, 1], palette(12)[1].numpy())


def test_pictures_and_tensors():
    image = torch.randint(0, 256, (5, 7, 3)).float() / 255
    assert torch.allclose(to_tensor(to_picture(image)), image)
    both = np.asarray(beside(Image.new("RGB", (5, 3), "red"), Image.new("RGB", (4, 9), "blue")))
    assert both.shape == (9, 9, 3)
    assert (both[3:6, :5] == (255, 0, 0)).all() and (both[:, 5:] == (0, 0, 255)).all()
    assert (both[:3, :5] == PANEL).all() and (both[6:, :5] == PANEL).all(), "the lower one lies in the middle"


def test_a_sweep_marks_where_the_best_threshold_is():
    truth = torch.zeros(1, 8, 8)
    truth[:, :4] = 1
    swept = sweep_plot(0.3 + truth * 0.4, truth, 0.5)  # the background goes at 0.3, the thing at 0.7
    row, column = 50, round(70 + 0.3 * 626)
    assert (swept[0, row - 3 : row + 4, column - 3 : column + 4] * 255).round().int().unique(dim=0).shape[0] == 1
    assert torch.allclose(swept[0, row - 3, column], palette(2)[1] / 255), "the dot, and Dice's lies over that of IoU"
    assert not torch.allclose(swept[0, row - 3, column + 50], palette(2)[1] / 255), "the line is thinner"
    swept = sweep_plot(truth * 0.6, truth, 0.5)
    assert swept.shape == (1, 480, 720, 3)
    assert not torch.equal(swept, sweep_plot(truth * 0.3, truth, 0.5)), "the curve falls elsewhere"
    assert not torch.equal(swept, sweep_plot(truth * 0.6, truth, 0.2)), "the mark stands elsewhere"
