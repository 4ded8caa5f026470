"""Look a data set over before training on it.

python train/check_data.py FILE [--sheet OUT.png]

Counts images and masks per class, names every broken or mismatching file and every mask that belongs to no image, and draws
a sheet of image and mask pairs.
Ends with status 1 when something is wrong.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from train.data.base import DataError, Sample, Source
from train.data.build import open_source
from train.data.config import load_data
from train.settings.command import run

CELL, PAIRS, UNUSED_SHOWN = 160, 24, 10
SPLITS = ("train", "validation", "test")


class Inventory:
    """Counts of one split: images, masks and mean mask area per class, problems by file."""

    def __init__(self):
        self.images, self.unlabelled = 0, 0
        self.areas: dict[str, list[float]] = defaultdict(list)
        self.absent: dict[str, int] = defaultdict(int)
        self.problems: list[str] = []

    def add(self, sample: Sample) -> None:
        """Count one image."""
        self.images += 1
        self.unlabelled += not any(query.mask is not None for query in sample.queries)
        for query in sample.queries:
            if query.mask is None:
                self.absent[query.name] += 1
            else:
                self.areas[query.name].append(float(query.mask.mean()))

    def lines(self, names: Iterable[str]) -> list[str]:
        """A table: class, images with it, share of the images, mean area, absent prompts."""
        out = [f"  {self.images} images, {self.unlabelled} without any mask", f"  {'class':24}images   share  area   absent"]
        for name in names:
            areas = self.areas.get(name, [])
            area = f"{np.mean(areas):6.1%}" if areas else "     -"
            share = len(areas) / max(self.images, 1)
            out.append(f"  {name[:23]:24}{len(areas):6}  {share:6.1%}  {area} {self.absent.get(name, 0):6}")
        return out


def take_stock(source: Source, stock: Inventory, pairs: list[tuple[np.ndarray, np.ndarray, str]]) -> None:
    """Read every sample of a source; keeps pictures of the first masks of each class until PAIRS are there."""
    shown: set[str] = {caption for _, _, caption in pairs}
    for index in tqdm(range(len(source)), unit="image", leave=False):
        try:
            sample = source.sample(index)
        except DataError as error:
            stock.problems.append(str(error))
            continue
        stock.add(sample)
        for query in sample.queries:
            fresh = query.name not in shown or len(source.class_names) * 2 < PAIRS
            if query.mask is not None and fresh and len(pairs) < PAIRS:
                shown.add(query.name)
                pairs.append((sample.image, query.mask, query.name))


def contact_sheet(pairs: list[tuple[np.ndarray, np.ndarray, str]], columns: int = 4) -> Image.Image:
    """Image and mask side by side, the class below."""
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * (2 * CELL + 8), max(1, rows) * (CELL + 20)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, mask, caption) in enumerate(pairs):
        x, y = number % columns * (2 * CELL + 8), number // columns * (CELL + 20)
        sheet.paste(Image.fromarray(image).resize((CELL, CELL)), (x, y))
        sheet.paste(Image.fromarray(mask).convert("L").resize((CELL, CELL)).convert("RGB"), (x + CELL, y))
        draw.text((x + 2, y + CELL + 3), caption, fill="black")
    return sheet


def unused_lines(files: list[Path]) -> list[str]:
    """What to say about mask files that no split has an image for."""
    lines = [f"UNUSED {path} belongs to no image; expected <image name>.png" for path in files[:UNUSED_SHOWN]]
    return [*lines, f"UNUSED and {len(files) - UNUSED_SHOWN} more"] if len(files) > UNUSED_SHOWN else lines


def check(path: Path, sheet: Path | None) -> int:
    """Print the inventory of every split; returns the number of problems."""
    config, problems, pairs = load_data(path), 0, []
    masks, used = set(), set()
    for split in SPLITS:
        for source_config in config.split(split):
            print(f"{config.name or path.stem}, {split}, {source_config.type}:")
            stock = Inventory()
            try:
                source = open_source(source_config)
                take_stock(source, stock, pairs)
                there, belonging = source.mask_files()
                masks |= there
                used |= belonging
                print("\n".join(stock.lines(source.class_names)))
            except DataError as error:
                stock.problems.append(str(error))
            print("".join(f"  PROBLEM {problem}\n" for problem in stock.problems), end="")
            problems += len(stock.problems)
    for line in unused_lines(sorted(masks - used)):
        print(line)
    if sheet is not None and pairs:
        contact_sheet(pairs).save(sheet)
        print(f"wrote {sheet}")
    return problems


def main(line: list[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data YAML, see train/configs/data/")
    parser.add_argument("--sheet", type=Path, help="picture of image and mask pairs to write")
    arguments = parser.parse_args(line)

    def action() -> None:
        problems = check(arguments.data, arguments.sheet)
        if problems:
            sys.exit(f"{parser.prog}: {problems} problems, see above")

    run(parser.prog, action)


if __name__ == "__main__":
    main()
