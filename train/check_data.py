"""Look a data set over before training on it.

python train/check_data.py FILE [--sheet OUT.png] [--strict] [--resolution PIXELS]
python train/check_data.py FOLDER [--as LAYOUT] [--force]

Counts images and masks per class, names every broken or mismatching file and every label that nothing uses, and draws a sheet
of image and mask pairs. Ends with status 1 when something is wrong (PROBLEM), with --strict also when something is left over
(WARNING, UNUSED). With --resolution it says how much of each class is lost when photos are made that small. For a folder it says
which layout that has, and writes the data YAML for it first.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from digseg_nodes.core.files import written_atomically
from digseg_nodes.core.inference import RESOLUTIONS
from train.data.account import SPLITS, Account
from train.data.area import count_lost, lost_lines
from train.data.base import DataError, Finding, Sample, Source
from train.data.config import load_data
from train.data.detect import choose, write_yaml
from train.data.registry import open_source
from train.settings.command import run
from train.settings.yaml_config import ConfigError, shortened

CELL, PAIRS = 160, 24
SHEETS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Formats of the contact sheet by the suffix of its file."""
LEVELS = 5, 250
"""Means of 255 beyond which a photo is taken to be black or white all over."""


Pairs = list[tuple[np.ndarray, np.ndarray, str]]
"""Photos, masks and class names for the sheet."""


def pictures_of(
    source: Source, pairs: Pairs, bar: tqdm, count: Callable[[Sample], None], flat: list[Path]
) -> Callable[[int], None]:
    """A function that reads image number `index` with its labels, hands it to `count`, keeps pictures of the first masks of
    each class until PAIRS are there, and in `flat` the photos that are black or white all over."""
    shown: set[str] = {caption for _, _, caption in pairs}

    def look(index: int) -> None:
        bar.update()
        sample = source.sample(index)
        count(sample)
        if not LEVELS[0] < sample.image.mean() < LEVELS[1]:
            flat.append(source.photo(index) or Path(f"image {index}"))
        for query in sample.queries:
            fresh = query.name not in shown or len(source.class_names) * 2 < PAIRS
            if query.mask is not None and fresh and len(pairs) < PAIRS:
                shown.add(query.name)
                pairs.append((sample.image, query.mask, query.name))

    return look


def about_flat(photos: list[Path]) -> list[Finding]:
    """What is said of photos that are black or white all over."""
    if not photos:
        return []
    text = f"{len(photos)} photos are nearly black or white all over, e.g. {photos[0]}"
    return [Finding(f"{text}. If they look otherwise elsewhere, their values are of another range: see `range:` in docs/data.md")]


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


def check(path: Path, sheet: Path | None, resolution: int | None = None) -> Account:
    """Print the account of every split, having read every photo and label, and what is lost at a resolution in pixels."""
    config, pairs, lost = load_data(path), [], {}
    account = Account(config)
    for split in SPLITS:
        for settings in config.split(split):
            try:
                source = open_source(settings)
            except DataError as error:
                account.fail(split, settings.type, error)
                continue
            with tqdm(total=len(source), unit="image", leave=False) as bar:
                count = partial(count_lost, lost, resolution=resolution) if resolution else lambda sample: None
                flat: list[Path] = []
                one = account.add(split, settings.type, source, pictures_of(source, pairs, bar, count, flat))
                one.findings += about_flat(flat)
    account.close()
    print("\n".join(account.lines(path.stem)))
    if resolution:
        print("\n".join(lost_lines(lost, resolution)))
    if sheet is not None and pairs:
        with written_atomically(sheet) as temporary:
            contact_sheet(pairs).save(temporary, SHEETS[sheet.suffix.lower()])
        print(f"wrote {sheet}")
    return account


def describe(folder: Path, kind: str | None, force: bool) -> Path:
    """Say which layout a folder has and why; returns the data YAML that is written for it."""
    guess = choose(folder, kind)
    path = write_yaml(guess, folder, force)
    print(f"{folder} looks like {guess.kind}: {guess.why}")
    print("\n".join(["wrote " + str(path), *guess.hints, f"train on it with: train/finetune.py --config FILE data={path}", ""]))
    return path


def main(line: list[str] | None = None) -> None:
    """Parse the command line and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data YAML, see train/configs/data/, or a folder to write one for")
    parser.add_argument("--sheet", type=Path, help="picture of image and mask pairs to write")
    parser.add_argument("--strict", action="store_true", help="status 1 also for labels that are left over")
    parser.add_argument("--resolution", type=int, help="longest side in pixels, 32 to 4096: also say what is lost at it")
    parser.add_argument("--as", dest="kind", metavar="LAYOUT", help="layout of the folder, where it can be several")
    parser.add_argument("--force", action="store_true", help="overwrite a data YAML that lies in the folder")
    arguments = parser.parse_args(line)
    if arguments.resolution is not None and not RESOLUTIONS[0] <= arguments.resolution <= RESOLUTIONS[1]:
        parser.error(f"--resolution is {arguments.resolution}; use {RESOLUTIONS[0]} to {RESOLUTIONS[1]} pixels")

    def action() -> None:
        if arguments.sheet is not None and arguments.sheet.suffix.lower() not in SHEETS:
            raise ConfigError(f"--sheet is {shortened(arguments.sheet)}; expected a file ending in {', '.join(SHEETS)}.")
        data = arguments.data
        data = describe(data, arguments.kind, arguments.force) if data.is_dir() else data
        account = check(data, arguments.sheet, arguments.resolution)
        if account.problems:
            sys.exit(f"{parser.prog}: {len(account.problems)} problems, see above")
        if arguments.strict and account.left_over:
            sys.exit(f"{parser.prog}: {account.left_over} warnings about labels that are left over, see above")

    run(parser.prog, action, arguments)


if __name__ == "__main__":
    main()
