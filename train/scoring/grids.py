"""Picture grids: image, truth, prediction and soft mask, one row per prompt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from digseg_nodes.core.pixels import to_bytes
from train.scoring.predictions import Result

CELL, CAPTION = 128, 16


def grid(results: Sequence[Result], threshold: float) -> Image.Image:
    """One row per result: image, truth, hard prediction, soft mask."""
    canvas = Image.new("RGB", (4 * CELL, max(1, len(results)) * (CELL + CAPTION)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, result in enumerate(results):
        top, record = number * (CELL + CAPTION), result.record
        draw.text((2, top + 2), f'"{record.prompt}"  {record.group}  IoU {record.iou:.2f}', fill="black")
        cells = (result.image, grey(result.truth), grey(result.soft > threshold), grey(result.soft))
        for column, cell in enumerate(cells):
            canvas.paste(Image.fromarray(cell).resize((CELL, CELL)), (column * CELL, top + CAPTION))
    return canvas


def grey(values: np.ndarray) -> np.ndarray:
    """[H,W] in [0,1] -> uint8 [H,W,3]."""
    return np.repeat(to_bytes(values)[..., None], 3, axis=2)


def save_grid(path: Path, results: Sequence[Result], threshold: float) -> None:
    """Write `grid` as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(results, threshold).save(path)
