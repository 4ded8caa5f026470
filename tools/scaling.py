"""What a large data set takes: hours of encoding, the cache's size, step time, memory of the table, and what is short first.

python -m tools.scaling [--photos 118287] [--masks 9] [--gpus 1 8 64] [--tflops 100] ...

Operations and bytes are counted from the networks and the files' layouts; reading is measured on one core of this machine. What a
GPU, a disk and a network do are the options: put in your own.
"""

import argparse
import json
import sys
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

GB, HOUR = 1e9, 3600
NODE = 8
"""GPUs of a machine."""
MANY = 2000
"""Photos whose entries are made to weigh one."""


@dataclass(frozen=True)
class Parts:
    """What one photo or one mask takes. encode_flops: one VAE encode. step_flops: one mask trained, recomputing activations.
    weights: bytes of the gradients. row, bits: bytes of a latent and of a mask in the cache. line: bytes of a photo's entry on
    disk. entry: bytes of a photo's entry, keys and table rows in every process. read: seconds of one core for a photo and its
    masks."""

    encode_flops: float
    step_flops: float
    weights: int
    row: int
    bits: int
    line: int
    entry: int
    read: float


@dataclass(frozen=True)
class Machine:
    """Assumptions: TFLOP/s that a GPU sustains, reading processes beside each, MB/s of the disk that all share, GB/s at which
    each GPU exchanges gradients within a machine of NODE of them and between machines."""

    tflops: float
    workers: int
    disk: float
    inside: float
    between: float


def counted(pixels: int, height: int, batch: int) -> dict:
    """Operations and bytes of Stable Diffusion 1.5's networks for photos of `height` x `pixels` pixels."""
    import torch
    from diffusers import AutoencoderKL
    from torch.utils.flop_counter import FlopCounterMode

    from train.data.config import DataConfig
    from train.learning.forecast import estimate
    from train.memory import stable_diffusion
    from train.networks.bases import encode_pixels
    from train.settings.train_config import TrainConfig

    model = stable_diffusion()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = AutoencoderKL.from_config(model.vae)
        encode_pixels(vae, torch.empty((1, 3, height, pixels)))
    settings = {"base": "sd", "output": "run", "data": DataConfig(), "resolution": pixels, "batch_size": batch}
    settings |= {"gradient_checkpointing": True, "mixed_precision": "bf16", "objective": "end_to_end"}
    need = estimate(TrainConfig(**settings), model)
    share = height / pixels  # of a square's work
    return {
        "encode_flops": counter.get_total_flops(),
        "step_flops": need.flops / batch * share,
        "weights": 4 * need.trained,
        "row": 4 * (height // 8) * (pixels // 8) * 2,
        "bits": height * pixels // 8,
    }


def photo_of(masks: int, height: int = 480, width: int = 640):
    """A photo with as many things on it as a data set's."""
    from train.data.base import Query, Sample

    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    bands = np.arange(width)[None] * masks // width == np.arange(masks)[:, None]
    queries = tuple(
        Query(f"thing {n}", (f"thing {n}",), np.broadcast_to(band, (height, width)).copy()) for n, band in enumerate(bands)
    )
    return Sample(image, queries)


def seconds_to_read(masks: int, pixels: int, rounds: int = 5) -> float:
    """Of one core, for a JPEG of 640 x 480 pixels and a map of its masks: decode, take apart, resize, digest."""
    import io

    from PIL import Image

    from train.data.prepare import prepare
    from train.latents.latent_cache import mask_key

    sample, photo, labels = photo_of(masks), io.BytesIO(), io.BytesIO()
    Image.fromarray(sample.image).save(photo, "JPEG", quality=90)
    numbers = sum((number + 1) * query.mask.astype(np.uint8) for number, query in enumerate(sample.queries))
    Image.fromarray(numbers).save(labels, "PNG")
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        image, found = (np.asarray(Image.open(one)) for one in (photo, labels))
        queries = tuple(replace(query, mask=found == number + 1) for number, query in enumerate(sample.queries))
        prepared = prepare(replace(sample, image=image, queries=queries), pixels)
        for mask in prepared.soft:
            mask_key(mask)
        seconds.append(time.process_time() - started)
    return float(np.median(seconds))


def weighed(masks: int) -> dict[str, int]:
    """Bytes of a photo in the cache's list on disk, and in memory: entry, keys of its rows, rows of the table."""
    from train.data.base import Query
    from train.latents.manifest import Encoded
    from train.latents.row_store import digest
    from train.latents.table import ROW

    queries = tuple(Query(f"thing {number}", (f"thing {number}",), None) for number in range(masks))

    def text(number: int) -> str:
        keys = tuple(digest(f"{number}/{mask}") for mask in range(masks))
        entry = Encoded(digest(str(number)), None, queries, keys, (480, 640))
        return json.dumps({"id": f"{number:032x}", **entry.values()})

    lines = [text(number) for number in range(MANY)]
    tracemalloc.start()
    entries = {(values := json.loads(line))["id"]: Encoded.from_values(values) for line in lines}
    indexes = [{bytes.fromhex(entry.image.hex()): number for number, entry in enumerate(entries.values())}]
    for _ in range(2):  # mask latents and bits
        indexes.append({bytes.fromhex(key.hex()): number for number, entry in enumerate(entries.values()) for key in entry.masks})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"line": len(lines[0]) + 1, "entry": held // MANY + masks * ROW.itemsize}


def parts(masks: int, pixels: int, height: int, batch: int) -> Parts:
    """All parts."""
    return Parts(**counted(pixels, height, batch), **weighed(masks), read=seconds_to_read(masks, pixels))


def cache_bytes(part: Parts, photos: int, masks: int) -> float:
    """Of the latent cache: rows with digest and checksum, and the list."""
    beside = 20
    return photos * (part.row + beside + masks * (part.row + part.bits + 2 * beside) + part.line)


def encoding(part: Parts, photos: int, masks: int, gpus: int, machine: Machine) -> dict[str, float]:
    """Hours that each part of filling the cache takes if nothing else holds it up."""
    return {
        "the GPUs": photos * (1 + masks) * part.encode_flops / (gpus * machine.tflops * 1e12) / HOUR,
        "reading": photos * part.read / (gpus * machine.workers) / HOUR,
        "the disk": cache_bytes(part, photos, masks) / (machine.disk * 1e6) / HOUR,
    }


def step(part: Parts, batch: int, gpus: int, machine: Machine) -> dict[str, float]:
    """Seconds that each part of a training step takes, `batch` masks on every GPU, if nothing else holds it up."""
    network = machine.inside if gpus <= NODE else machine.between
    return {
        "the GPUs": batch * part.step_flops / (machine.tflops * 1e12),
        "gradients": 2 * (gpus - 1) / gpus * part.weights / (network * GB),
        "the disk": gpus * batch * 2 * part.row / (machine.disk * 1e6),
    }


def uncached(part: Parts, batch: int, machine: Machine) -> dict[str, float]:
    """Seconds that the parts of a step take where photo and mask are read and encoded anew."""
    encodes = 2 * batch * part.encode_flops / (machine.tflops * 1e12)
    return {
        "the GPUs": batch * part.step_flops / (machine.tflops * 1e12) + encodes,
        "reading": batch * part.read / machine.workers,
    }


def report(args: argparse.Namespace, part: Parts, machine: Machine) -> list[str]:
    """The tables in Markdown."""
    lines = [
        f"{args.photos:,} photos x {args.masks} masks, {args.pixels} x {args.height} pixels: cache "
        f"{cache_bytes(part, args.photos, args.masks) / GB:,.0f} GB; every process holds {args.photos * part.entry / GB:.1f} GB "
        f"of entries, keys and table; the list is {args.photos * part.line / GB:.2f} GB on disk",
        "",
        f"| GPUs | encode h | saturates | by GPU / reading / disk, h | step s ({args.batch} masks a GPU) | saturates | "
        "by GPU / gradients / disk, s | masks/s | hours for every mask once |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for gpus in args.gpus:
        hours, seconds = encoding(part, args.photos, args.masks, gpus, machine), step(part, args.batch, gpus, machine)
        slowest = max(seconds["the disk"], seconds["the GPUs"] + seconds["gradients"])
        rate = gpus * args.batch / slowest
        lines.append(
            f"| {gpus} | {max(hours.values()):.2g} | {max(hours, key=hours.get)} | {figures(hours)} | {slowest:.2f} | "
            f"{max(seconds, key=seconds.get)} | {figures(seconds)} | {rate:.0f} | {args.photos * args.masks / rate / HOUR:.2g} |"
        )
    fresh = uncached(part, args.batch, machine)
    return [*lines, "", f"Without the cache a GPU's step takes {figures(fresh)} s by GPU / reading."]


def figures(values: dict[str, float]) -> str:
    """Of a table's cell."""
    return " / ".join(f"{value:.2g}" for value in values.values())


def main(line: list[str] | None = None) -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[118287, 1_000_000])
    parser.add_argument("--masks", type=int, default=9, help="of a photo")
    parser.add_argument("--pixels", type=int, default=512, help="longest side, of landscape photos")
    parser.add_argument("--height", type=int, default=384, help="shortest side")
    parser.add_argument("--batch", type=int, default=8, help="masks of a GPU in a step")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tflops", type=float, default=100, help="TFLOP/s that a GPU sustains in bf16")
    parser.add_argument("--workers", type=int, default=8, help="reading processes beside each GPU")
    parser.add_argument("--disk", type=float, default=2000, help="MB/s of the disk or shared folder")
    parser.add_argument("--inside", type=float, default=200, help="GB/s at which each GPU of a machine exchanges gradients")
    parser.add_argument("--between", type=float, default=25, help="the same between machines")
    args = parser.parse_args(line)
    part = parts(args.masks, args.pixels, args.height, args.batch)
    machine = Machine(args.tflops, args.workers, args.disk, args.inside, args.between)
    print(part, machine, sep="\n")
    for photos in args.photos:
        print("", *report(argparse.Namespace(**{**vars(args), "photos": photos}), part, machine), sep="\n")


if __name__ == "__main__":
    main()
