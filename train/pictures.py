"""Picture grids: image, truth, prediction and soft mask, one row per prompt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from train.scores import Record
from train.validate import Ask

CELL, CAPTION = 128, 16


def grid(rows: Sequence[tuple[Ask, np.ndarray, Record]], threshold: float) -> Image.Image:
    """One row per (ask, soft mask float [H,W] in [0,1], record): image, truth, prediction, soft mask."""
    canvas = Image.new("RGB", (4 * CELL, max(1, len(rows)) * (CELL + CAPTION)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (ask, soft, record) in enumerate(rows):
        top = number * (CELL + CAPTION)
        draw.text((2, top + 2), f'"{record.prompt}"  {record.group}  IoU {record.iou:.2f}', fill="black")
        truth = ask.query.mask if ask.query.mask is not None else np.zeros(soft.shape, bool)
        for column, cell in enumerate((ask.sample.image, _grey(truth), _grey(soft > threshold), _grey(soft))):
            canvas.paste(Image.fromarray(cell).resize((CELL, CELL)), (column * CELL, top + CAPTION))
    return canvas


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat((np.asarray(values, np.float32) * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def save_grid(path: Path, rows: Sequence[tuple[Ask, np.ndarray, Record]], threshold: float) -> None:
    """Write `grid` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(rows, threshold).save(path)
