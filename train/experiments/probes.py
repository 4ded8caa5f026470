"""Measurements of finished checkpoints that need more than train/evaluate.py: wordings, averages, thresholds.

python train/experiments/probes.py vocabulary --checkpoint FILE --report OUT.json
python train/experiments/probes.py sampling --checkpoint FILE --components FILE --report OUT.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor
from tqdm import tqdm

from digseg_nodes.core.files import write_text
from digseg_nodes.core.geometry import unfit
from digseg_nodes.core.inference import ImageSettings, SamplerSettings, sample_masks
from digseg_nodes.core.masks import soft_mask
from train.data.base import Query, Sample
from train.demo.world import SYNONYMS, DemoWorld, Thing, article
from train.networks.bases import Networks, load_networks
from train.networks.engine import DiffusersEngine
from train.scoring.predictions import EncodedSample, encode_sample, predict, score_sample
from train.scoring.scores import Record, summarise, threshold_sweep

SIZES = ((0.0, 0.05), (0.05, 0.10), (0.10, 1.0))
"""Shares of the image that the threshold sweep is split by."""

UNSEEN_COLOURS = {
    "red": "ruby", "orange": "carrot-coloured", "yellow": "sunny", "green": "mossy", "cyan": "teal", "blue": "sapphire",
    "purple": "plum", "pink": "salmon",
}  # fmt: skip
UNSEEN_SHAPES = {
    "circle": "ball", "square": "cube", "triangle": "pyramidal shape", "star": "starfish", "ring": "bagel",
    "cross": "X", "heart": "love symbol", "crescent": "banana",
}  # fmt: skip

WORDINGS: dict[str, Callable[[str, str], str]] = {
    "plain: red star": lambda c, s: f"{c} {s}",
    "other word for the colour: crimson star": lambda c, s: f"{SYNONYMS[c][0]} {s}",
    "other word for the shape: red asterisk": lambda c, s: f"{c} {SYNONYMS[s][0]}",
    "both: crimson asterisk": lambda c, s: f"{SYNONYMS[c][0]} {SYNONYMS[s][0]}",
    "trained sentence: the star that is red": lambda c, s: f"the {s} that is {c}",
    "new sentence: please find me a red star": lambda c, s: f"please find me {article(c)} {c} {s}",
    "new order: star, red": lambda c, s: f"{s}, {c}",
    "capitals: RED STAR": lambda c, s: f"{c} {s}".upper(),
    "colour word never seen: ruby star": lambda c, s: f"{UNSEEN_COLOURS[c]} {s}",
    "shape word never seen: red starfish": lambda c, s: f"{c} {UNSEEN_SHAPES[s]}",
}
"""Ways to ask for an object, made from its colour and shape."""


@dataclass(frozen=True)
class Scenes:
    """The test scenes of the demo world that are asked, and the prompts for one object each."""

    images: int
    wordings: dict[str, Callable[[str, str], str]]
    absent: bool = False

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        world = DemoWorld(200, 0, "test")
        for index in range(self.images):
            scene = world.sample(index)
            queries = [query for thing in scene.objects for query in self._queries(thing)]
            hard = [text for text, kind in scene.absent.items() if kind == "hard"] if self.absent else []
            yield index, Sample(scene.image, (*queries, *(Query(text, (text,), None, "absent_hard") for text in hard)))

    def _queries(self, thing: Thing) -> Iterator[Query]:
        pair = "held_out" if thing.held_out else "seen"
        for name, say in self.wordings.items():
            group = pair if len(self.wordings) == 1 else f"{name}|{pair}"
            yield Query(thing.name, (say(thing.colour, thing.shape),), thing.mask, group)


def vocabulary(networks: Networks, images: int, seed: int) -> dict:
    """IoU by wording and by whether the pair occurred in training; and the best threshold by size, of plain prompts."""
    engine = DiffusersEngine(networks)
    records: list[Record] = []
    for index, sample in tqdm(Scenes(images, WORDINGS), total=images, desc="scenes"):
        encoded = encode_sample(engine, sample, ImageSettings(), index)
        soft = predict(engine, encoded.image, encoded.prompts, SamplerSettings(seed))
        found = score_sample(index, sample, soft, networks.config.threshold)
        records += [result.record for result in found]
    groups = summarise(records)["groups"]
    wordings: dict[str, dict] = defaultdict(dict)
    for group, scores in groups.items():
        name, _, pair = group.rpartition("|")
        wordings[name][pair] = {key: scores[key] for key in ("prompts", "miou", "mean_iou")}
    plain = [record for record in records if record.group.startswith(next(iter(WORDINGS)))]
    ordered = {name: wordings[name] for name in WORDINGS if name in wordings}
    return {"images": images, "wordings": ordered, **thresholds(plain)}


def thresholds(records: list[Record]) -> dict:
    """The sweep over tau with objects grouped by their share of the image, and by shape."""
    return {
        "by_size": threshold_sweep([replace(record, name=size_of(record)) for record in records]),
        "by_shape": threshold_sweep([replace(record, name=record.name.split()[-1]) for record in records]),
    }


def size_of(record: Record) -> str:
    """The size group of the object a record is about."""
    inside, outside = (sum(counts) for counts in record.sweep)
    share = inside / (inside + outside)
    low, high = next(pair for pair in SIZES if pair[0] <= share < pair[1])
    return f"{low:.0%} to {high:.0%}"


def sampling(networks: Networks, images: int, seed: int, plan: dict[int, int], pixels: dict[int, int]) -> dict:
    """Scores by steps, ensemble and kind of average. plan: steps -> members; pixels: steps -> members averaged as pixels."""
    records: dict[str, list[Record]] = defaultdict(list)
    engine = DiffusersEngine(networks)
    scenes = Scenes(images, {"plain": lambda c, s: f"{c} {s}"}, absent=True)
    for index, sample in tqdm(scenes, total=images, desc="scenes"):
        encoded = encode_sample(engine, sample, ImageSettings(), index)
        for steps, members in plan.items():
            latents = member_latents(engine, encoded, SamplerSettings(seed, steps, members))  # [M,K,4,h,w]
            for name, soft in averages(engine, latents, pixels.get(steps, 0)):
                found = score_sample(index, sample, unfit(soft, encoded.image.geometry), networks.config.threshold)
                records[f"{steps}x{name}"] += [result.record for result in found]
    scores = {key: {**summarise(found), "classes": {}} for key, found in records.items()}
    return {"images": images, "scores": scores, "thresholds": {key: thresholds(found) for key, found in records.items()}}


def member_latents(engine: DiffusersEngine, encoded: EncodedSample, settings: SamplerSettings) -> Tensor:
    """Final mask latents [M,K,4,h,w] of every ensemble member, for the K prompts of an image."""
    latent = sample_masks(engine, encoded.prompts, encoded.image, settings)
    members = latent["digseg"].members
    return latent["samples"][None] if members is None else members


def averages(engine: DiffusersEngine, latents: Tensor, pixel_members: int) -> Iterator[tuple[str, Tensor]]:
    """(name, soft masks [K,H,W]) of the first 1, 5, 10 members averaged as latents, and of `pixel_members` as masks."""
    for members in (1, 5, 10):
        if members <= len(latents):
            yield f"{members}", soft_mask(engine.decode(latents[:members].mean(0)))
    if pixel_members:
        decoded = [soft_mask(engine.decode(one)) for one in latents[:pixel_members]]
        yield f"{pixel_members}-pixels", torch.stack(decoded).mean(0)


def main(line: list[str] | None = None) -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vocabulary", "sampling"))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--components", type=Path, help="checkpoint with VAE and text encoder, for a U-Net-only file")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(line)
    networks = load_networks(arguments.checkpoint, arguments.components).eval()
    if arguments.what == "vocabulary":
        report = vocabulary(networks, arguments.images, arguments.seed)
    else:
        report = sampling(networks, arguments.images, arguments.seed, {1: 10, 2: 10, 4: 10, 10: 10, 50: 1}, {4: 5})
    write_text(arguments.report, json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.report}")


if __name__ == "__main__":
    main()
