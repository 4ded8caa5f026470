"""Words for the user on what a node shows, and in the log."""

from __future__ import annotations

import logging

import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor

from .draw import INK, PANEL, font, to_picture, to_tensor


def told(image: Tensor, note: str) -> Tensor:
    """Pictures [B,H,W,3] to show with a note on them, which is logged once; as they are for an empty note."""
    if not note:
        return image
    logging.warning("DiGSeg: %s.", note)
    return with_words(image, note)


def with_words(image: Tensor, text: str) -> Tensor:
    """Pictures [B,H,W,3] with words on a dark strip along their lower edge, broken into lines that fit."""
    out = []
    for frame in image[..., :3]:
        picture = to_picture(frame)
        draw, letters = ImageDraw.Draw(picture), font(max(10, min(24, picture.width // 20)), text)
        lines = _wrapped(text, letters, picture.width - 8)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), lines, letters, align="center")
        height = min(picture.height, round(bottom - top + 12))
        draw.rectangle((0, picture.height - height, picture.width, picture.height), fill=PANEL)
        place = (picture.width - right - left) / 2, picture.height - height / 2 - (bottom + top) / 2
        draw.multiline_text(place, lines, INK, letters, align="center")
        out.append(to_tensor(picture))
    return torch.stack(out)


def _wrapped(text: str, letters: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and letters.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
