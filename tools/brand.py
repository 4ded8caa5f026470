"""Draw the pack's icon and banner for the ComfyUI registry from a demo scene: docs/img/icon.png and docs/img/banner.jpg.

python -m tools.brand
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from digseg_nodes.core.draw import to_picture, to_tensor
from digseg_nodes.core.masks import overlay

ROOT = Path(__file__).resolve().parent.parent
SCENES, IMAGES = ROOT / "tools" / "demo_scenes", ROOT / "docs" / "img"
SCENE = "scene-5"
ICON, BANNER = 400, (1680, 720)
"""Pixels: the registry takes a square of 400 at most, and 21 to 9."""
DARK, INK, MUTED = (24, 27, 33), (236, 239, 244), (160, 168, 182)
THINGS = {
    "red star": (230, 57, 70),
    "green star": (6, 190, 120),
    "cyan square": (0, 196, 204),
    "pink circle": (241, 91, 181),
}


def masks(side: int) -> list[torch.Tensor]:
    """The true masks of the scene's four things, [1,side,side] each."""
    scenes = {Path(scene["image"]).stem: scene for scene in json.loads((SCENES / "scenes.json").read_text(encoding="utf-8"))}
    files = {entry["prompt"]: entry["mask"] for entry in scenes[SCENE]["prompts"]}
    out = []
    for word in THINGS:
        with Image.open(SCENES / files[word]) as file:
            large = file.convert("L").resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(side / 100))
        out.append(torch.from_numpy(np.asarray(large) > 127).float()[None])
    return out


def segmented(side: int, grey: float = 0.55) -> Image.Image:
    """The scene with its things in colour on a darkened photo."""
    with Image.open(SCENES / f"{SCENE}.png") as file:
        photo = to_tensor(file.resize((side, side), Image.Resampling.BICUBIC))[None]
    dull = photo.mean(-1, keepdim=True).expand_as(photo) * grey
    drawn = overlay(dull, masks(side), torch.tensor(list(THINGS.values())) / 255, opacity=0.92)
    return to_picture(drawn[0])


def icon() -> Image.Image:
    """A square with round corners."""
    corners = Image.new("L", (ICON, ICON))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, ICON - 1, ICON - 1), ICON // 6, fill=255)
    out = Image.new("RGBA", (ICON, ICON))
    out.paste(segmented(ICON), mask=corners)
    return out


def banner() -> Image.Image:
    """What is typed on the left, what comes back on the right."""
    out, (_, height) = Image.new("RGB", BANNER, DARK), BANNER
    out.paste(segmented(height, 0.7), (BANNER[0] - height, 0))
    draw = ImageDraw.Draw(out)
    draw.text((90, 110), "DiGSeg", INK, ImageFont.load_default(110))
    draw.text((94, 250), "type what to select, get its mask", MUTED, ImageFont.load_default(44))
    for number, (word, colour) in enumerate(THINGS.items()):
        y = 370 + 70 * number
        draw.rounded_rectangle((94, y, 134, y + 40), 10, colour)
        draw.text((158, y + 20), word, INK, ImageFont.load_default(40), anchor="lm")
    return out


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    icon().save(IMAGES / "icon.png", optimize=True)
    banner().save(IMAGES / "banner.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
