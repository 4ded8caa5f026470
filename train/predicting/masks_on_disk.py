"""The masks of one photo as files, and what is said about them, with as many prompts in memory as fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.draw import label_colours, palette_png
from digseg_nodes.core.files import written_atomically
from digseg_nodes.core.label_maps import MOST_IDS
from digseg_nodes.core.masks import overlay
from digseg_nodes.core.pixels import from_bytes, to_bytes
from digseg_nodes.core.prompts import Prompt

SOFT_VALUES = 2**27
"""Mask values in memory at a time: 512 MiB of float32."""

Predict = Callable[[list[Prompt]], Tensor]
"""Prompts → soft masks [K,H,W] in [0,1] of the photo at hand."""


@dataclass(frozen=True)
class Layout:
    """Where results go: masks/<prompt>/<stem>.png for each of `prompts`, semantic/<stem>.png, overlays/<stem>.jpg."""

    folder: Path
    prompts: list[str]

    def masks(self, stem: str) -> list[Path]:
        """The black-and-white masks of a photo, prompt by prompt."""
        return [self.folder / "masks" / name / f"{stem}.png" for name in self.prompts]

    def semantic(self, stem: str) -> Path:
        """The palette PNG of a photo."""
        return self.folder / "semantic" / f"{stem}.png"

    def overlay(self, stem: str) -> Path:
        """The photo with its masks on it."""
        return self.folder / "overlays" / f"{stem}.jpg"

    def complete(self, stem: str) -> bool:
        """Whether every file of a photo is there."""
        return all(path.is_file() for path in (*self.masks(stem), self.semantic(stem), self.overlay(stem)))


def write_masks(
    image: np.ndarray, stem: str, prompts: list[Prompt], predict: Predict, threshold: float, layout: Layout
) -> list[dict]:
    """Predict the masks of a photo [H,W,3] and write its files; returns what predictions.jsonl says about each prompt.

    Raises CheckpointError for masks that are no numbers.
    """
    height, width = image.shape[:2]
    best, ids = torch.full((height, width), -1.0), torch.zeros(height, width, dtype=torch.uint8)
    colours = label_colours(min(len(prompts), MOST_IDS))
    painted, said = from_bytes(image)[None], []
    targets = layout.masks(stem)
    for number, soft in _masks_one_by_one(prompts, predict, max(1, SOFT_VALUES // (height * width))):
        if not torch.isfinite(soft).all():
            raise CheckpointError(
                f"The mask of {prompts[number].name!r} on {stem} holds NaN or infinite values: the checkpoint is damaged, or it "
                "overflows in this precision. Nothing was written for this photo."
            )
        hard = soft > threshold
        _save(targets[number], Image.fromarray(to_bytes(hard)))
        painted = overlay(painted, [hard[None].float()], from_bytes(colours[number + 1])[None])
        wins = hard & (soft > best)
        best, ids = torch.where(wins, soft, best), torch.where(wins, number + 1, ids).to(torch.uint8)
        said.append({"name": prompts[number].name, "mask": targets[number].parent.name, **measures(soft, hard)})
    with written_atomically(layout.semantic(stem)) as temporary:
        palette_png(ids, colours, temporary)
    _save(layout.overlay(stem), Image.fromarray(to_bytes(painted[0])))
    return said


def _masks_one_by_one(prompts: list[Prompt], predict: Predict, at_once: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(prompts), at_once):
        for offset, soft in enumerate(predict(prompts[start : start + at_once])):
            yield start + offset, soft


def measures(soft: Tensor, hard: Tensor) -> dict:
    """area in pixels, coverage in [0,1], score: the mean soft value inside (0 for nothing), box [x, y, width, height] or None."""
    area = int(hard.sum())
    rows, columns = hard.any(1).nonzero().flatten().tolist(), hard.any(0).nonzero().flatten().tolist()
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1] if area else None
    score = float(soft[hard].double().mean()) if area else 0.0
    return {"area": area, "coverage": round(area / hard.numel(), 6), "score": round(score, 5), "box": box}


def _save(target: Path, picture: Image.Image) -> None:
    with written_atomically(target) as temporary:
        picture.save(temporary, "JPEG" if target.suffix == ".jpg" else "PNG")
