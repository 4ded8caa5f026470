"""Objects drawn on the photo, each tinted, in its numbered box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import ImageDraw
from torch import Tensor

from .draw import font, to_picture, to_tensor
from .objects import FoundObject, padded
from .palettes import palette
from .pixels import from_bytes

OPACITY = 0.45


def draw_objects(image: Tensor, objects: Sequence[FoundObject], padding: int = 0) -> Tensor:
    """The photo [B,H,W,3] in [0,1] with every object tinted and its box and number, from 1 on, drawn in its own colour."""
    colours = palette(len(objects))
    out = []
    for frame, photo in enumerate(image[..., :3]):
        own = [(number, item) for number, item in enumerate(objects) if item.frame == frame]
        out.append(_draw_frame(photo, own, colours, padding))
    return torch.stack(out)


def _draw_frame(photo: Tensor, objects: Sequence[tuple[int, FoundObject]], colours: Tensor, padding: int) -> Tensor:
    tinted = photo.float().cpu().clone()
    for number, item in objects:
        left, top, right, bottom = item.box
        part = tinted[top:bottom, left:right]
        strength = torch.from_numpy(item.mask).float().unsqueeze(-1) * OPACITY  # [h,w,1]
        part += strength * (from_bytes(colours[number]) - part)
    picture = to_picture(tinted)
    draw, size = ImageDraw.Draw(picture), (picture.height, picture.width)
    line = max(1, round(min(size) / 256))
    for number, item in objects:
        colour = tuple(colours[number].tolist())
        left, top, right, bottom = padded(item.box, padding, size)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
    for number, item in objects:  # numbers lie over every box
        left, top, *_ = padded(item.box, padding, size)
        _label(draw, (left, top), str(number + 1), tuple(colours[number].tolist()), size)
    return to_tensor(picture)


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple, size: tuple[int, int]) -> None:
    """A number on its object's colour, in the box's corner, inside the picture."""
    letters = font(max(9, round(min(size) / 40)), text)
    left, top, right, bottom = draw.textbbox((0, 0), text, letters)
    width, height = right - left + 4, bottom - top + 4
    x, y = (max(0, min(at, limit - side)) for at, side, limit in zip(place, (width, height), size[::-1], strict=True))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
    draw.text((x + 2 - left, y + 2 - top), text, ink, letters)
