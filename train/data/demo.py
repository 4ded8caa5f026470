"""Scenes of the procedural demo world as a data source."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from train.data.base import Query, Sample, Source
from train.data.source_config import DemoConfig
from train.demo import world


class DemoSource(Source):
    """Adapter of train.demo.world.DemoWorld; pairs are grouped as seen / held_out, single words as "attribute"."""

    def __init__(self, config: DemoConfig):
        self.config = config
        self.world = world.DemoWorld(config.scenes, config.seed, config.split, config.size, config.aspects)
        self.version = hashlib.sha256(Path(world.__file__).read_bytes()).hexdigest()[:16]

    def __len__(self) -> int:
        return min(self.config.scenes, self.config.limit or self.config.scenes)

    def identity(self, index: int) -> str:
        c = self.config
        height, width = self.world.sizes[index % len(self.world.sizes)]
        return f"demo/{self.version}/{height}x{width}/{c.split}/{c.seed}/{index}"

    def sample(self, index: int) -> Sample:
        scene = self.world.sample(index)
        rng = np.random.default_rng([self.config.seed, world.SPLITS[self.config.split], index, 1])
        absent = [_absent_query(text, kind, rng) for text, kind in scene.absent.items()]
        return Sample(scene.image, (*_present_queries(scene), *absent))

    @cached_property
    def class_names(self) -> list[str]:
        pairs = world.SEEN if self.config.split == "train" else world.PAIRS
        return [f"{colour} {shape}" for colour, shape in pairs]


def _present_queries(scene: world.Scene) -> list[Query]:
    """Phrases that share a mask array are one query; the first phrase is its name."""
    phrases: dict[int, list[str]] = {}
    for text, mask in scene.masks.items():
        phrases.setdefault(id(mask), []).append(text)
    groups = {False: "seen", True: "held_out", None: "attribute"}
    return [Query(texts[0], tuple(texts), scene.masks[texts[0]], groups[scene.pairs.get(texts[0])]) for texts in phrases.values()]


def _absent_query(text: str, kind: str, rng: np.random.Generator) -> Query:
    """Absent prompts get a paraphrase too, so that the wording does not tell presence."""
    colour, _, shape = text.rpartition(" ")
    attribute = colour in ("the", "everything")
    if attribute:
        other = world.phrase(rng, *((None, shape) if colour == "the" else (shape, None)))
    else:
        other = world.phrase(rng, colour, shape)
    return Query(text, tuple(dict.fromkeys((text, other))), None, f"absent_{kind}")
