"""All training samples of a run as one structured array."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from train.data.base import ABSENT_GROUPS, DataError, Source
from train.latents.manifest import Line
from train.networks.text_encoding import TextCache

ROW = np.dtype(
    [(name, np.int64) for name in ("place", "query", "image", "mask", "bits", "valid")]
    + [(name, np.int64) for name in ("first", "count", "class_id", "absent", "shape")]
    + [("weight", np.float64)]
)
"""One sample: an image and one of its queries.

place: number of the image among those of all sources. query: number among the image's queries. image, mask, bits, valid: rows in
the latent cache's stores of its shape (mask -1: the image's own latent, valid -1: known all over), all -1 without the cache.
first, count: a query's texts are the rows phrases[first : first + count]. class_id: index into class_names. absent: 0 present, 1
hard, 2 random. shape: index into shapes. weight: the share of a source in the mix spread over its queries.
"""


class SampleStore(Protocol):
    """Where images and masks come from: the latent cache, or the source at every step."""

    def fill(self, source: Source, progress: bool = True) -> None:
        """Read what is missing of a source, together with the other processes that do."""

    def add(self, source: Source) -> Sequence[Line]:
        """What every image of a source can be asked, in the source's order."""

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels that a photo of this size is encoded at."""

    def photo_pixels(self, size: tuple[int, int]) -> int:
        """How many of these pixels show the photo; the others fill it up."""

    def rows_of(self, line: Line, query: int) -> tuple[int, int, int, int]:
        """Rows of image, target latent, mask and validity of a line's query number `query`, as in ROW."""


@dataclass(frozen=True)
class SampleTable:
    """rows: structured array [N] of ROW. phrases: rows of the text cache, int64. shapes: (height, width) in pixels of what is
    encoded. padding: share in [0,1] of all encoded pixels that fill photos up."""

    rows: np.ndarray
    phrases: np.ndarray
    class_names: list[str]
    shapes: list[tuple[int, int]]
    padding: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)


def build_table(sources: list[tuple[Source, float]], samples: SampleStore, texts: TextCache) -> SampleTable:
    """Flatten what a store knows of (source, share in the mix), encoding what it misses. Held-out queries are left out: this is
    for training."""
    records, prompts, classes, shapes, sizes, first = [], [], {}, {}, {}, 0
    for source, share in sources:
        asked = [
            (place, line, number, query)
            for place, line in enumerate(samples.add(source), start=first)
            for number, query in enumerate(line.queries)
            if query.group != "held_out"
        ]
        first += len(source)
        for place, line, number, query in asked:
            absent = 1 + ABSENT_GROUPS.index(query.group) if query.group in ABSENT_GROUPS else 0
            class_id = classes.setdefault(query.name, len(classes))
            shape = shapes.setdefault(samples.shape_of(line.size), len(shapes))
            sizes[place] = line.size
            text = (len(prompts), len(query.prompts))
            rows = samples.rows_of(line, number)
            records.append((place, number, *rows, *text, class_id, absent, shape, share / len(asked)))
            prompts.extend(query.prompts)
    rows = np.array(records, ROW)
    if not (rows["absent"] == 0).any():
        raise DataError("The training data holds no mask with any pixel set. Check the data YAML's paths and classes.")
    unique = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    phrases = np.array(texts.row_numbers(list(unique)))
    phrases = phrases[[unique[prompt] for prompt in prompts]]
    return SampleTable(rows, phrases, list(classes), list(shapes), _padding(samples, sizes.values()))


def _padding(samples: SampleStore, sizes: Iterable[tuple[int, int]]) -> float:
    """The share of all pixels encoded for photos of these sizes that fill them up."""
    counts = Counter(sizes)
    encoded = sum(count * prod(samples.shape_of(size)) for size, count in counts.items())
    return 1 - sum(count * samples.photo_pixels(size) for size, count in counts.items()) / encoded
