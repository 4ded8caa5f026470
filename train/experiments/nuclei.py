"""Real pictures: nuclei under the microscope (BBBC038, the 2018 Data Science Bowl; CC0), DiGSeg beside a specialist.

    python train/experiments/nuclei.py prepare DOWNLOAD --out FOLDER
    python train/experiments/nuclei.py split FOLDER --out output/nuclei [--pictures 50]
    python train/finetune.py --config train/configs/nuclei.yaml data=output/nuclei/data.yaml
    python train/experiments/nuclei.py specialist output/nuclei/data.yaml --steps 1200 --report output/nuclei/specialist.json
    python train/experiments/nuclei.py score output/nuclei/data.yaml --checkpoint output/runs/nuclei/digseg.safetensors \\
        --components digseg_nodes/models/digseg-demo.safetensors --report output/nuclei/digseg.json

DOWNLOAD is stage1_train.zip, unpacked: <id>/images/<id>.png and <id>/masks/*.png, a file per nucleus. FOLDER holds images/*.png,
masks/nucleus/*.png, instances/*.png (16 bit, the number of the nucleus) and index.csv (name, kind and more).
Every kind of picture is split alike: a fifth for the test, a sixteenth for validation. Scores: IoU pooled over the pixels of a
kind, and F1 of objects (connected parts against true nuclei, matched at an IoU above 0.5, the lowest of the Bowl's thresholds).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
import yaml
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from digseg_nodes.core.files import write_text
from train.data.annotated import some
from train.data.base import DataError
from train.data.instances import instance_folders
from train.data.labelled import wrong_size
from train.data.marks import read_mask
from train.data.names import images_below
from train.data.pixels import read_photo
from train.experiments.specialist import PatchUNet, fit
from train.settings import command

PARTS = ("test", "validation", "train")
SMALLEST = 16
"""Connected parts of fewer pixels count as no object."""
LIGHT, COLOURED = 100, 6
"""Mean brightness from which a picture is no fluorescence, mean spread of its channels from which it is stained; both of 255."""
Predictor = Callable[[np.ndarray], np.ndarray]


def prepare(download: Path, out: Path) -> str:
    """Write the folder that `split` and `score` read, all of it or nothing; returns a sentence. DataError for another download
    and for an `out` that is not empty."""
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} is there already and no empty folder; expected a new or an empty one. Name another --out.")
    pictures = downloaded(download)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as work:
        made = Path(work) / "made"
        for part in ("images", "masks/nucleus", "instances"):
            (made / part).mkdir(parents=True)
        rows = [
            {"name": f"{number:03d}", **write_picture(made, f"{number:03d}", *files), "id": files[0].parents[1].name}
            for number, files in enumerate(tqdm(pictures, unit="picture", desc="prepare"))
        ]
        write_index(made, rows)
        if out.exists():
            out.rmdir()
        made.rename(out)
    unused = sum(len(masks) for _, masks in pictures) - sum(row["nuclei"] for row in rows)
    note = f"; {unused} masks have no pixel of their own and count as no nucleus" if unused else ""
    return f"wrote {len(rows)} pictures with {sum(row['nuclei'] for row in rows)} nuclei to {out}{note}"


def downloaded(download: Path) -> list[tuple[Path, list[Path]]]:
    """(picture, masks) of every folder of the unpacked download, by its name; DataError where one has no masks."""
    try:
        folders = instance_folders(download)
    except DataError as error:
        raise DataError(f"{error} Unpack stage1_train.zip and name the folder that holds the <id> folders.") from error
    files = [(images_below(folder / "images"), images_below(folder / "masks")) for folder in folders]
    for folder, (photos, _) in zip(folders, files, strict=True):
        if len(photos) != 1:
            raise DataError(f"{folder / 'images'} holds {len(photos)} images; expected one. Unpack the download anew.")
    bare = [folder.name for folder, (_, masks) in zip(folders, files, strict=True) if not masks]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(folders)} pictures in {download} have no masks: {some(bare)}; expected <id>/masks/*.png, one "
            "file per nucleus. Take stage1_train (stage1_test comes without), or remove these folders."
        )
    return [(photos[0], masks) for photos, masks in files]


def write_picture(folder: Path, name: str, photo: Path, masks: list[Path]) -> dict:
    """Write picture, mask and numbers of one photo; returns what index.csv says of them."""
    picture = read_photo(photo)
    numbers = numbered(masks, photo, picture.shape[:2])
    Image.fromarray(picture).save(folder / f"images/{name}.png")
    Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(folder / f"masks/nucleus/{name}.png")
    Image.fromarray(numbers).save(folder / f"instances/{name}.png")
    height, width = numbers.shape
    area = round(float((numbers > 0).mean()), 4)
    return {"kind": kind(picture), "width": width, "height": height, "nuclei": int(numbers.max()), "area": area}


def numbered(masks: list[Path], photo: Path, size: tuple[int, int]) -> np.ndarray:
    """Numbers uint16 [H,W] from 1 in the order of the files; where two overlap, the first has the pixel. One without a pixel
    of its own gets no number."""
    numbers = np.zeros(size, np.uint16)
    count = 0
    for path in masks:
        mask = read_mask(path)[0]
        if mask.shape != size:
            raise wrong_size(path, mask.shape, photo, size)
        own = mask & (numbers == 0)
        count += bool(own.any())
        numbers[own] = count
    return numbers


def kind(picture: np.ndarray) -> str:
    """What a picture uint8 [H,W,3] seems to be: a dark one is fluorescence, a light one stained if it has colour."""
    if picture.mean() < LIGHT:
        return "fluorescence"
    return "stained_purple" if np.ptp(picture, axis=2).mean() >= COLOURED else "brightfield_grey"


def write_index(folder: Path, rows: list[dict]) -> None:
    """Write index.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "index.csv", text.getvalue())


def split(folder: Path, out: Path, pictures: int | None, seed: int = 0) -> Path:
    """Write the three lists and data.yaml; `pictures` limits the training list, the kinds in proportion. Returns the YAML."""
    kinds = defaultdict(list)
    for row in read_index(folder):
        kinds[row["kind"]].append(row["name"])
    names = {part: [] for part in PARTS}
    for members in kinds.values():
        np.random.default_rng(seed).shuffle(members)
        test, validation = round(len(members) / 5), max(2, round(len(members) / 16))
        cut = np.split(np.array(members), [test, test + validation])
        for part, chosen in zip(PARTS, cut, strict=True):
            names[part] += chosen.tolist()
    np.random.default_rng(seed).shuffle(names["train"])
    names["train"] = names["train"][:pictures]
    data = {
        "name": "nuclei",
        "common": {
            "type": "binary",
            "root": str(folder.resolve()),
            "images": "images/*.png",
            "masks": "masks/nucleus/{1}.png",
            "name": "nucleus",
            "templates": ["a {}", "cell {}"],
        },
    }
    for part in PARTS:
        write_text(out / f"{part}.txt", "".join(f"{name}\n" for name in sorted(names[part])))
        data[part] = {"list": str((out / f"{part}.txt").resolve())}
    write_text(out / "data.yaml", yaml.safe_dump(data, sort_keys=False))
    return out / "data.yaml"


def read_index(folder: Path) -> list[dict[str, str]]:
    """Rows of index.csv: name and kind of every picture."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def members(data: Path, part: str) -> tuple[Path, list[str]]:
    """The folder of the pictures and the names of one part."""
    settings = yaml.safe_load(data.read_text(encoding="utf-8"))
    return Path(settings["common"]["root"]), Path(settings[part]["list"]).read_text(encoding="utf-8").split()


def read(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture uint8 [H,W,3], mask bool [H,W], numbers of the nuclei int [H,W]."""
    picture = np.array(Image.open(folder / f"images/{name}.png").convert("RGB"))
    mask = np.array(Image.open(folder / f"masks/nucleus/{name}.png").convert("L")) > 127
    return picture, mask, np.array(Image.open(folder / f"instances/{name}.png")).astype(int)


def object_counts(hard: np.ndarray, instances: np.ndarray) -> tuple[int, int, int]:
    """(found, false, missed) objects: connected parts of a bool mask [H,W] against numbered nuclei [H,W], IoU above 0.5."""
    parts, _ = ndimage.label(hard)
    areas = np.bincount(parts.ravel())
    parts = np.where((areas >= SMALLEST)[parts] & (parts > 0), parts, 0)
    overlap = np.zeros((parts.max() + 1, instances.max() + 1), int)
    np.add.at(overlap, (parts.ravel(), instances.ravel()), 1)
    joined = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    found = int((overlap[1:, 1:] > 0.5 * joined[1:, 1:]).sum())
    predicted, true = (len(np.setdiff1d(np.unique(numbers), [0])) for numbers in (parts, instances))
    return found, predicted - found, true - found


def score(data: Path, predict: Predictor) -> dict:
    """IoU and object F1 of `predict` (picture → bool mask) on the test part, by kind and over all."""
    folder, names = members(data, "test")
    kind_of = {row["name"]: row["kind"] for row in read_index(folder)}
    counts = defaultdict(lambda: np.zeros(6, int))
    for name in tqdm(names, unit="picture", desc="test"):
        picture, mask, instances = read(folder, name)
        hard = predict(picture)
        row = np.array([(hard & mask).sum(), (hard | mask).sum(), *object_counts(hard, instances), 1])
        counts[kind_of[name]] += row
        counts["all"] += row
    return {kind: figures(row) for kind, row in sorted(counts.items())}


def figures(row: np.ndarray) -> dict:
    """Scores of summed (intersection, union, found, false, missed, pictures)."""
    intersection, union, found, false, missed, pictures = row.tolist()
    f1 = 2 * found / max(1, 2 * found + false + missed)
    return {"pictures": pictures, "iou": round(intersection / max(1, union), 4), "object_f1": round(f1, 4)}


def digseg(
    checkpoint: Path, lora: Path | None, resolution: int, threshold: float | None = None, components: Path | None = None
) -> Predictor:
    """A checkpoint as predictor, asked for "nucleus" as predict.py asks; components: where a U-Net alone has the rest from."""
    from digseg_nodes.core.inference import ImageSettings
    from train.networks.engine import open_segmenter

    segmenter = open_segmenter(checkpoint, components=components, lora=lora)
    limit = segmenter.engine.config.threshold if threshold is None else threshold

    def predict(picture: np.ndarray) -> np.ndarray:
        segmenter.set_image(picture, ImageSettings(resolution))
        return (segmenter.predict("nucleus").soft[0, 0] > limit).numpy()

    return predict


def fitted(picture: np.ndarray, resolution: int) -> Tensor:
    """Picture [H,W,3] → [3,h,w] in [-1,1], the longest side `resolution`, sides multiples of 16."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    scale = resolution / max(picture.shape[:2])
    size = [max(16, round(side * scale / 16) * 16) for side in picture.shape[:2]]
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]


def train_specialist(data: Path, steps: int, batch: int, resolution: int, seed: int) -> nn.Module:
    """The plain U-Net on the training list: crops of `resolution` pixels of one shape, turned and mirrored at random."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    folder, names = members(data, "train")
    model = PatchUNet(1)

    def pairs() -> tuple[Tensor, Tensor]:
        drawn = [crop(*read(folder, names[index])[:2], resolution, rng) for index in rng.integers(len(names), size=batch)]
        return tuple(map(torch.stack, zip(*drawn, strict=True)))

    def loss() -> Tensor:
        image, mask = pairs()
        return F.binary_cross_entropy_with_logits(model(image)[:, 0], mask)

    return fit(model, loss, steps)


def crop(picture: np.ndarray, mask: np.ndarray, resolution: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A square of the picture, fitted to `resolution`, and its mask: [3,R,R] in [-1,1], [R,R] in [0,1]."""
    image = fitted(picture, resolution)
    truth = F.interpolate(torch.from_numpy(mask)[None, None].float(), image.shape[1:], mode="area")[0]
    both = torch.cat([image, truth])
    both = F.pad(both[None], (0, resolution - both.shape[2], 0, resolution - both.shape[1]), mode="replicate")[0]
    both = torch.rot90(both, int(rng.integers(4)), (1, 2))
    both = both.flip(2) if rng.random() < 0.5 else both
    return both[:3], both[3]


def specialist(model: nn.Module, resolution: int) -> Predictor:
    """The plain U-Net as predictor."""

    @torch.no_grad()
    def predict(picture: np.ndarray) -> np.ndarray:
        soft = model(fitted(picture, resolution)[None]).sigmoid()
        return (F.interpolate(soft, picture.shape[:2], mode="bilinear")[0, 0] > 0.5).numpy()

    return predict


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("prepare", help="make the folder that the others read from the download")
    one.add_argument("download", type=Path, help="stage1_train.zip, unpacked")
    one.add_argument("--out", type=Path, required=True, help="a new folder")
    one = what.add_parser("split", help="write lists and data.yaml")
    one.add_argument("folder", type=Path)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--pictures", type=int, help="training pictures, default all")
    for name, text in (("specialist", "train and score the plain U-Net"), ("score", "score a DiGSeg checkpoint")):
        one = what.add_parser(name, help=text)
        one.add_argument("data", type=Path)
        one.add_argument("--report", type=Path, required=True)
        one.add_argument("--resolution", type=int, default=256, help="longest side in pixels, default 256")
        if name == "score":
            one.add_argument("--checkpoint", type=Path, required=True)
            one.add_argument("--components", type=Path, help="where a U-Net alone has VAE and text encoder from")
            one.add_argument("--lora", type=Path)
            one.add_argument("--threshold", type=float, help="default: the checkpoint's")
        else:
            one.add_argument("--steps", type=int, default=1200)
            one.add_argument("--batch", type=int, default=4)
            one.add_argument("--seed", type=int, default=0)
    return parser


def main(line: list[str] | None = None) -> None:
    """Parse the command line and do it."""
    parser = make_parser()
    arguments = parser.parse_args(line)
    command.run(parser.prog, lambda: perform(arguments), arguments)


def perform(arguments: argparse.Namespace) -> None:
    """Do what a command line asks for."""
    if arguments.what == "prepare":
        print(prepare(arguments.download, arguments.out))
        return
    if arguments.what == "split":
        print(f"wrote {split(arguments.folder, arguments.out, arguments.pictures)}")
        return
    if arguments.what == "score":
        options = (arguments.checkpoint, arguments.lora, arguments.resolution, arguments.threshold, arguments.components)
        predict = digseg(*options)
        about = {"checkpoint": arguments.checkpoint.name, "lora": arguments.lora and arguments.lora.name}
    else:
        options = (arguments.steps, arguments.batch, arguments.resolution, arguments.seed)
        model = train_specialist(arguments.data, *options)
        about = dict(zip(("steps", "batch", "resolution", "seed"), options, strict=True))
        about["parameters"] = sum(weight.numel() for weight in model.parameters())
        predict = specialist(model, arguments.resolution)
    report = {**about, "scores": score(arguments.data, predict)}
    write_text(arguments.report, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
