"""The photo and the true mask at the size the guided mask decoder looks at, of the samples a step trains on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.geometry import Geometry, fit, plan_geometry
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.pixels import from_bytes
from train.data.area import covered_share, soft_mask
from train.data.augment import repainted
from train.data.base import DataError, Sample, Source
from train.data.prepare import filled_up

Size = tuple[int, int]

REMEMBERED = 2**28
"""Bytes of photos and masks that each process keeps from step to step; the newest photo is kept whatever its size."""
SMALLEST_WINDOW = 6
"""Latent pixels along a side of what the decoder is shown at least."""


@dataclass(frozen=True)
class View:
    """What a step's decoder is shown: a window (top, left, height, width) of the latents, at `scale` times the resolution."""

    scale: int
    window: tuple[int, int, int, int]


def draw_view(rng: np.random.Generator, size: Size, guide: int) -> View:
    """The whole of `size` (height, width) latent pixels at the U-Net's resolution every other step, otherwise a window of about
    as many pixels at 1 to `guide` times it."""
    scale = int(rng.integers(1, guide + 1)) if rng.random() < 0.5 else 1
    window = [min(side, max(SMALLEST_WINDOW, -(-side // scale))) for side in size]
    corner = [int(rng.integers(side - part + 1)) for side, part in zip(size, window, strict=True)]
    return View(scale, (*corner, *window))


def enlarged(seen: Geometry, cell: int) -> Geometry:
    """The geometry whose latent pixels are `cell` pixels wide: the same view as `seen`, what is filled up included."""
    resized, padded = (tuple(side * cell // PIXELS_PER_LATENT for side in size) for size in (seen.resized, seen.padded))
    return Geometry(seen.original, resized, padded)


def fit_mask(mask: np.ndarray, geometry: Geometry) -> Tensor:
    """A mask bool [H,W] at the size of a geometry: bool [*geometry.padded], as masks are taught to the U-Net."""
    return filled_up(torch.from_numpy(soft_mask(mask, geometry.resized) > 0.5), geometry)


def fit_known(known: np.ndarray, geometry: Geometry) -> Tensor:
    """Where labels are known, bool [H,W], at the size of a geometry: bool [*geometry.padded], not known where it is filled up."""
    return filled_up(torch.from_numpy(covered_share(known, geometry.resized) > 0.5), geometry)


def held_bytes(sample: Sample) -> int:
    """Bytes of memory that a sample's photo and labels take; what several of its arrays share counts once."""
    arrays = (sample.image, sample.ignore, *(array for query in sample.queries for array in (query.mask, query.soft)))
    owners = [_owner(array) for array in arrays if array is not None]
    return sum({id(owner): owner.nbytes for owner in owners}.values())


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory a view keeps alive."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Guides:
    """Photos and masks by the number of their place among all images of `sources`, and of the query."""

    def __init__(self, sources: Sequence[Source], resolution: int, photo_shape: str, guide: int, colour: float, seed: int):
        self.places = [(source, index) for source in sources for index in range(len(source))]
        self.resolution, self.photo_shape = resolution, photo_shape
        self.guide, self.colour, self.seed = guide, colour, seed % 2**64
        self.kept: dict[int, Sample] = {}
        self.held = 0

    def sample(self, place: int, query: int) -> Sample:
        """An image with the one query that is asked."""
        sample = self._read(place)
        if query >= len(sample.queries):
            raise DataError(
                f"{self.places[place][0].identity(self.places[place][1])} has {len(sample.queries)} queries now and had more "
                "when it was encoded. The data changed; start the command again."
            )
        return replace(sample, queries=(sample.queries[query],))

    def _read(self, place: int) -> Sample:
        """A whole image; the last ones are kept, as many as have room in REMEMBERED bytes."""
        if place not in self.kept:
            source, index = self.places[place]
            sample = source.sample(index)
            self.held += held_bytes(sample)
            while self.kept and self.held > REMEMBERED:
                self.held -= held_bytes(self.kept.pop(next(iter(self.kept))))
            self.kept[place] = sample
        return self.kept[place]

    def seen(self, sample: Sample, like: Size | None = None) -> Geometry:
        """How the U-Net sees a sample; like: (height, width) to plan for instead of its own."""
        size = sample.image.shape[:2]
        return replace(plan_geometry(*(like or size), self.resolution, self.photo_shape), original=size)

    def view(self, step: int, part: int, size: Size) -> View:
        """What the decoder is shown of the micro-batch that begins at sample `part` of a step; size: (h, w) of its latents."""
        return draw_view(np.random.default_rng([self.seed, step, part]), size, self.guide)

    def picture(self, sample: Sample, seen: Geometry, view: View, step: int, at: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample number `at` of a step for the decoder: photo [3,H,W] in [-1,1], truth and known float32 [H,W]."""
        cell = PIXELS_PER_LATENT * view.scale
        geometry = enlarged(seen, cell)
        top, left, height, width = view.window
        cut = (..., slice(top * cell, (top + height) * cell), slice(left * cell, (left + width) * cell))
        size, mask = sample.image.shape[:2], sample.queries[0].mask if sample.queries else None
        truth = fit_mask(np.zeros(size, bool) if mask is None else mask, geometry)
        known = fit_known(np.ones(size, bool) if sample.ignore is None else ~sample.ignore, geometry)
        photo = fit(from_bytes(sample.image)[None], geometry)[0]  # [3,H,W] in [0,1]
        photo = repainted(photo[cut], self.colour, np.random.default_rng([self.seed, step, at])) * 2 - 1
        return photo, truth[cut].float(), known[cut].float()

    def jitter(self, shape: tuple[int, int, int], step: int, at: int) -> Tensor:
        """Noise for the latent of sample number `at` of a step."""
        return torch.from_numpy(np.random.default_rng([self.seed, step, at, 1]).standard_normal(shape, np.float32))
