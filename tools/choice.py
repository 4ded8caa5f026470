"""Draw docs/img/choice.png: which model, from which base, on which data, with which command.

python -m tools.choice
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TARGET = Path(__file__).resolve().parent.parent / "docs" / "img" / "choice.png"
PAGE, CARD, INK, MUTED = (24, 27, 33), (37, 41, 50), (236, 239, 244), (160, 168, 182)
COLOURS = ((6, 190, 120), (0, 196, 204), (255, 183, 3), (241, 91, 181))
WIDTH, ROW, GAP, MARGIN = 1600, 150, 16, 36
COLUMNS = (("you want", 36), ("pack", 390), ("base", 700), ("data", 990), ("command", 1255))
ROWS = (
    (
        "to look around",
        "the demo model\ncomes with it",
        "none needed",
        "drawn scenes,\nbundled",
        "python dev.py demo",
    ),
    (
        "everyday objects,\nas they are",
        "Load DiGSeg\nCheckpoint, mask_target\noverlay",
        "the cocogold folder\nof pcuenq",
        "none needed",
        "none: put it into\nmodels/digseg/",
    ),
    (
        "your own things,\nten to a few hundred\nphotos",
        "Load DiGSeg LoRA",
        "a DiGSeg checkpoint",
        "photos with masks;\nSave Training Pair\nmakes them",
        "train/finetune.py\n--config\nlora_example.yaml",
    ),
    (
        "your own classes,\na whole data set",
        "Load DiGSeg\nCheckpoint",
        "Stable Diffusion\n1.x or 2.x",
        "a data set or export,\ntrain/check_data.py\nreads it",
        "train/finetune.py\n--config\nstable_diffusion.yaml",
    ),
)


def picture() -> Image.Image:
    """A card a row, its cells in the columns' places."""
    top = MARGIN + 44
    out = Image.new("RGB", (WIDTH, top + len(ROWS) * (ROW + GAP) - GAP + MARGIN), PAGE)
    draw = ImageDraw.Draw(out)
    for title, x in COLUMNS:
        draw.text((x + 28, MARGIN), title, MUTED, ImageFont.load_default(24))
    for number, (row, colour) in enumerate(zip(ROWS, COLOURS, strict=True)):
        y = top + number * (ROW + GAP)
        draw.rounded_rectangle((MARGIN, y, WIDTH - MARGIN, y + ROW), 14, CARD)
        draw.rounded_rectangle((MARGIN, y, MARGIN + 10, y + ROW), 5, colour)
        for text, (_, x) in zip(row, COLUMNS, strict=True):
            ink = colour if x == COLUMNS[0][1] else INK
            draw.multiline_text((x + 28, y + ROW / 2), text, ink, ImageFont.load_default(25), anchor="lm", spacing=8)
    return out


def main() -> None:
    """Write the picture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    picture().save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
