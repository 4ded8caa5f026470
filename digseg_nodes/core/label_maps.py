"""Class ids per pixel: as a picture with a legend, as grey levels, and as palette PNGs that training reads."""

from __future__ import annotations

import glob
from pathlib import Path

import torch
from torch import Tensor

from . import draw
from .files import write_text
from .masks import Masks, overlay
from .palettes import palette
from .pixels import from_bytes

MOST_IDS = 255
"""Classes besides the background in an image of 8 bits."""
LISTED = 24
"""Classes that a legend names at most."""
NOTHING, MORE = "nothing found", "{} more"


def draw_map(found: Masks, ids: Tensor, shares: list[float], opacity: float, legend: bool) -> Tensor:
    """The photo [B,H,W,3] coloured by class ids [B,H,W], with a legend of the classes that were found beside it.

    One class list gives one size for photos of one size, whatever was found: the legend has room for what LISTED classes
    take, and names the largest when more were found.
    """
    colours = palette(len(found.names))
    hard = ((ids == k + 1).float() for k in range(len(found.names)))  # [B,H,W] each
    image = overlay(found.image, hard, from_bytes(colours), opacity)
    if not legend:
        return image
    present = sorted((k for k, s in enumerate(shares) if s > 0), key=lambda k: -shares[k])
    entries = [(found.names[k], tuple(colours[k].tolist()), f"{100 * shares[k]:.1f} %") for k in present]
    entries = entries or [(NOTHING, draw.GRID, "")]
    if len(entries) > LISTED:
        entries = [*entries[: LISTED - 1], (MORE.format(len(entries) - LISTED + 1), draw.GRID, "")]
    panel = draw.legend(entries, image.shape[1], _widest(found.names), min(len(found.names), LISTED))
    return torch.stack([draw.to_tensor(draw.beside(draw.to_picture(frame), panel)) for frame in image])


def _widest(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Every (label, detail) that a legend of these classes may hold."""
    return [*((name, "100.0 %") for name in names), (NOTHING, ""), (MORE.format(len(names)), "")]


def grey_ids(ids: Tensor) -> Tensor:
    """Ids [B,H,W] as an IMAGE whose 8-bit values are the ids, whether a reader rounds or cuts off."""
    if int(ids.max()) > MOST_IDS:
        raise ValueError(f"There are {int(ids.max())} classes; an id image holds up to {MOST_IDS}. Split the class list.")
    return ((ids.float() + 0.25) / 255).clamp(max=1.0).unsqueeze(-1).expand(-1, -1, -1, 3)


def save_label_maps(ids: Tensor, names: tuple[str, ...], folder: Path, stem: str, counter: int) -> list[Path]:
    """Write class ids [B,H,W] as palette PNGs `<stem>_<counter>_.png` and a list of classes; returns the PNGs' paths.

    A list of other classes under the same stem stays: the new one has the number of the first PNG it is for in its name.
    """
    colours = draw.label_colours(len(names))
    paths = [folder / f"{stem}_{counter + i:05}_.png" for i in range(len(ids))]
    for path, frame in zip(paths, ids, strict=True):
        draw.palette_png(frame, colours, path)
    _write_names(folder, stem, counter, "\n".join(["background", *names]) + "\n")
    return paths


def check_count(names: tuple[str, ...]) -> None:
    """Raises ValueError when there are more classes than a palette PNG can number."""
    if len(names) > MOST_IDS:
        raise ValueError(f"There are {len(names)} classes; a palette PNG holds up to {MOST_IDS}. Split the class list.")


def _write_names(folder: Path, stem: str, counter: int, lines: str) -> None:
    lists = [folder / f"{stem}_classes.txt", *sorted(folder.glob(f"{glob.escape(stem)}_?????_classes.txt"))]
    if not lists[0].is_file():
        write_text(lists[0], lines)
    elif lists[-1].read_text("utf-8") != lines:
        write_text(folder / f"{stem}_{counter:05}_classes.txt", lines)
