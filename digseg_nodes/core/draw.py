"""Pictures for people: legends, heat maps, difference maps and plots, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import metrics
from .masks import Masks, harden, overlay
from .palettes import palette
from .pixels import from_bytes, to_bytes

INK, PANEL, GRID, MUTED = (236, 239, 244), (24, 27, 33), (58, 64, 75), (160, 168, 182)
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "msyh.ttc",
    "PingFang.ttc",
    "wqy-microhei.ttc",
    "DejaVuSans.ttf",
    "arialuni.ttf",
)
_HEAT = ((0.0, (8, 10, 30)), (0.25, (72, 20, 110)), (0.5, (190, 50, 85)), (0.75, (247, 140, 40)), (1.0, (252, 250, 180)))


def font(size: int, text: str = "") -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """A font of `size` pixels: Pillow's own for Latin text, else a system font that knows more characters."""
    if any(ord(c) > 0x24F for c in text):
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def draw_overlay(found: Masks, threshold: float = 0.0) -> Tensor:
    """The photo with every hard mask in its own colour: IMAGE [B,H,W,3] in [0,1]. threshold 0: the checkpoint's.

    Excluded prompts are taken away from the others and not drawn themselves.
    """
    choice = found.choose("", threshold)
    hard = (choice.mask(index, "hard") for index in choice.chosen)
    return overlay(found.image, hard, from_bytes(palette(len(found.names))[list(choice.chosen)]))


def to_picture(image: Tensor) -> Image.Image:
    """[H,W,3] in [0,1] → Pillow RGB."""
    return Image.fromarray(to_bytes(image))


def thumbnail(picture: Image.Image, longest: int) -> Image.Image:
    """The picture, at most `longest` pixels long and at least one pixel wide, however thin it is."""
    scale = longest / max(picture.size)
    return picture if scale >= 1 else picture.resize([max(1, round(side * scale)) for side in picture.size])


def to_tensor(picture: Image.Image) -> Tensor:
    """Pillow → [H,W,3] float32 in [0,1]."""
    return from_bytes(np.asarray(picture.convert("RGB")))


def legend(
    entries: Sequence[tuple[str, tuple[int, int, int], str]],
    height: int,
    widest: Sequence[tuple[str, str]] = (),
    most: int = 0,
) -> Image.Image:
    """A panel of coloured labels (label, colour, detail), at least `height` pixels high; several columns when it is full.

    The type grows with the picture, from 13 to 28 pixels, and is never smaller. widest, most: every (label, detail) that
    might be shown, and how many at a time; the panel has the size they would take, whichever are shown.
    """
    size = int(min(28, max(13, height / 22)))
    row, pad = round(size * 1.6), round(size * 0.8)
    count = max(len(entries), most)
    rows = max(1, (height - 2 * pad) // row, -(-count // 4))
    columns = [entries[i : i + rows] for i in range(0, max(1, count), rows)]
    least = _column_width([(label, (), detail) for label, detail in widest], size) if widest else 0
    widths = [max(least, _column_width(column, size)) for column in columns]
    panel = Image.new("RGB", (sum(widths) + pad * (len(columns) + 1), max(height, min(count, rows) * row + 2 * pad)), PANEL)
    draw = ImageDraw.Draw(panel)
    x = pad
    for column, width in zip(columns, widths, strict=True):
        for i, (label, colour, detail) in enumerate(column):
            y = pad + i * row
            draw.rounded_rectangle((x, y, x + size, y + size), size // 4, fill=tuple(colour))
            draw.text((x + size * 1.5, y + size / 2), label, INK, font(size, label), anchor="lm")
            draw.text((x + width, y + size / 2), detail, MUTED, font(size), anchor="rm")
        x += width + pad
    return panel


def _column_width(column, size: int) -> int:
    words = max((font(size, label).getlength(label) + font(size).getlength(detail) for label, _c, detail in column), default=size)
    return round(size * 1.5 + words + size)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures side by side on the panel colour, the left one in the middle of the height."""
    canvas = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), PANEL)
    canvas.paste(left, (0, (canvas.height - left.height) // 2))
    canvas.paste(right, (left.width, 0))
    return canvas


def heat(values: Tensor) -> Tensor:
    """Values in [0,1], any shape → colours [...,3] in [0,1], dark to bright."""
    stops = torch.tensor([s for s, _ in _HEAT], dtype=torch.float32)
    colours = from_bytes(np.array([c for _, c in _HEAT]))
    v = values.float().clamp(0, 1)
    upper = torch.bucketize(v, stops).clamp(1, len(stops) - 1)
    share = ((v - stops[upper - 1]) / (stops[upper] - stops[upper - 1])).unsqueeze(-1)
    return colours[upper - 1] * (1 - share) + colours[upper] * share


def difference(prediction: Tensor, truth: Tensor) -> Tensor:
    """Hard masks [B,H,W] → [B,H,W,3]: white where both agree on selected, orange for too much, blue for missed."""
    p, t = prediction.bool(), truth.bool()
    out = torch.full((*p.shape, 3), 0.1)
    for where, colour in ((p & t, (0.92, 0.94, 0.96)), (p & ~t, (0.98, 0.44, 0.13)), (~p & t, (0.11, 0.57, 0.94))):
        out[where] = torch.tensor(colour)
    return out


def line_plot(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    mark: float | None = None,
    size: tuple[int, int] = (720, 480),
) -> Image.Image:
    """Curves (label, x, y) with both axes from 0 to 1; each curve's best point is dotted. mark: a vertical line at x."""
    width, height = size
    box = (70, 50, width - 24, height - 58)
    picture = Image.new("RGB", size, PANEL)
    draw = ImageDraw.Draw(picture)

    def at(x: float, y: float) -> tuple[float, float]:
        return box[0] + x * (box[2] - box[0]), box[3] - y * (box[3] - box[1])

    _axes(draw, at, box, x_label, y_label)
    if mark is not None:
        draw.line((at(mark, 0), at(mark, 1)), MUTED, 2)
    colours = [tuple(c) for c in palette(len(curves)).tolist()]
    for colour, (_label, xs, ys) in zip(colours, curves, strict=True):
        draw.line([at(x, y) for x, y in zip(xs, ys, strict=True)], colour, 3, joint="curve")
        best = max(range(len(ys)), key=lambda i: ys[i])
        bx, by = at(xs[best], ys[best])
        draw.ellipse((bx - 6, by - 6, bx + 6, by + 6), colour, INK)
    _curve_labels(draw, curves, colours, box)
    return picture


def sweep_plot(soft: Tensor, truth: Tensor, threshold: float) -> Tensor:
    """IoU and Dice of soft masks [B,H,W] cut at 0, 0.02 ... 1, as an IMAGE [1,480,720,3]."""
    taus = [i / 50 for i in range(51)]
    curves = [
        (label, taus, [float(f(harden(soft, t), truth).mean()) for t in taus])
        for label, f in (("IoU", metrics.iou), ("Dice", metrics.dice))
    ]
    return to_tensor(line_plot(curves, "threshold", "score", mark=threshold))[None]


def _axes(draw: ImageDraw.ImageDraw, at, box, x_label: str, y_label: str) -> None:
    for i in range(6):
        v = i / 5
        draw.line((at(0, v), at(1, v)), GRID, 1)
        draw.line((at(v, 0), at(v, 1)), GRID, 1)
        draw.text((box[0] - 10, at(0, v)[1]), f"{v:.1f}", MUTED, font(15), anchor="rm")
        draw.text((at(v, 0)[0], box[3] + 8), f"{v:.1f}", MUTED, font(15), anchor="mt")
    draw.text(((box[0] + box[2]) / 2, box[3] + 34), x_label, INK, font(16), anchor="mt")
    draw.text((14, 16), y_label, INK, font(16), anchor="lt")


def _curve_labels(draw: ImageDraw.ImageDraw, curves, colours, box) -> None:
    x = box[0] + 60
    for colour, (label, xs, ys) in zip(colours, curves, strict=True):
        best = max(range(len(ys)), key=lambda i: ys[i])
        text = f"{label}: best {ys[best]:.2f} at {xs[best]:.2f}"
        draw.ellipse((x, 18, x + 12, 30), colour)
        draw.text((x + 18, 24), text, INK, font(15, text), anchor="lm")
        x += 40 + font(15, text).getlength(text)


def label_colours(count: int) -> Tensor:
    """Colours of a map of class ids: black for the background, then those of `count` classes; uint8 [count+1,3]."""
    return torch.cat([torch.zeros(1, 3, dtype=torch.uint8), palette(count)])


def palette_png(ids: Tensor, colours: Tensor, path: Path) -> None:
    """Save class ids [H,W] (0 to 255) as a palette PNG: the ids are the pixels, colours [256 or fewer,3] only show them."""
    picture = Image.fromarray(ids.to(torch.uint8).cpu().numpy(), mode="P")
    picture.putpalette(colours.to(torch.uint8).flatten().tolist())
    picture.save(path, "PNG", optimize=True)
