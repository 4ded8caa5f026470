"""Seeded augmentation as a source around a source, so that augmented images are cached like any others."""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from train.data.base import Sample, Source
from train.data.labelled import settings_digest
from train.settings.bounds import Share, whole

REPAINTED, GREYED = 0.2, 0.1
"""Shares of photos whose colour channels `repainted` shuffles, and that lose their colours."""


class Augmentation(BaseModel):
    """How training images are varied: `variants` seeded versions of each are encoded besides the unchanged one.

    flip: chance of a left-right flip. crop: smallest side of a crop as a share of the image's, 1 for none; crops are
    placed on an object, small ones preferred. colour: largest change of brightness, contrast and saturation.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    variants: whole(0, 1000, "each is encoded and kept; cache_latents: false draws a new one at every step instead") = 0
    flip: Share = 0.5
    crop: Annotated[float, Field(gt=0, le=1)] = 0.6
    colour: Share = 0.2


class AugmentedSource(Source):
    """Every image of `source`, then `variants` versions of each; version k of image i is the same in every run."""

    def __init__(self, source: Source, settings: Augmentation, seed: int):
        self.source, self.settings, self.seed = source, settings, seed

    def __len__(self) -> int:
        return len(self.source) * (1 + self.settings.variants)

    @property
    def class_names(self) -> list[str]:
        return self.source.class_names

    def identity(self, index: int) -> str:
        variant, image = divmod(index, len(self.source))
        identity = self.source.identity(image)
        if variant == 0:
            return identity
        options = self.settings.model_dump(exclude={"variants"})
        return f"{identity}/augmented/{settings_digest(options, self.seed)}/{variant}"

    def sample(self, index: int) -> Sample:
        variant, image = divmod(index, len(self.source))
        sample = self.source.sample(image)
        return (
            sample if variant == 0 else augment(sample, self.settings, np.random.default_rng([self.seed % 2**64, image, variant]))
        )


def augment(sample: Sample, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """One random version of a sample; the image and its masks stay aligned to the pixel."""
    if settings.crop < 1:
        sample = crop(sample, crop_box(sample, settings.crop, rng))
    if rng.random() < settings.flip:
        sample = _map(sample, lambda pixels: np.ascontiguousarray(pixels[:, ::-1]))
    return Sample(jitter(sample.image, settings.colour, rng), sample.queries, sample.ignore)


def crop_box(sample: Sample, smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of the image's shape around a random pixel of a random object.

    Objects are chosen with weight 1 / sqrt(area), so that small ones come up more often than their pixels would.
    """
    height, width = sample.image.shape[:2]
    scale = rng.uniform(smallest, 1)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    masks = [query.mask for query in sample.queries if query.mask is not None and query.mask.any()]
    row, column = rng.integers(height), rng.integers(width)
    if masks:
        weights = np.array([mask.sum() ** -0.5 for mask in masks])
        places = np.argwhere(masks[rng.choice(len(masks), p=weights / weights.sum())])
        row, column = places[rng.integers(len(places))]
    top = int(np.clip(row - rng.integers(h), 0, height - h))
    left = int(np.clip(column - rng.integers(w), 0, width - w))
    return top, left, h, w


def crop(sample: Sample, box: tuple[int, int, int, int]) -> Sample:
    """Cut a sample out; objects that are no longer in it are no longer asked for."""
    top, left, height, width = box
    cut = _map(sample, lambda pixels: pixels[top : top + height, left : left + width])
    kept = tuple(query for query in cut.queries if query.mask is None or query.mask.any())
    return Sample(cut.image, kept, cut.ignore)


def jitter(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Random saturation, contrast and brightness, each changed by up to `amount`. uint8 [H,W,3] -> uint8 [H,W,3]."""
    saturation, contrast, brightness = rng.uniform(1 - amount, 1 + amount, 3)
    values = image.astype(np.float32)
    grey = values.mean(2, keepdims=True)
    values = grey + (values - grey) * saturation
    values = (values - values.mean()) * contrast + values.mean()
    return np.clip(values * brightness, 0, 255).round().astype(np.uint8)


def repainted(photo: Tensor, amount: float, rng: np.random.Generator) -> Tensor:
    """A photo [3,H,W] in [0,1] in other colours, so that edges are learnt and not the colours of the training data."""
    grey = photo.mean(0, keepdim=True)
    brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3)
    gains = torch.from_numpy(rng.uniform(1 - amount / 2, 1 + amount / 2, (3, 1, 1)).astype(np.float32))
    chance, order = rng.random(), torch.from_numpy(rng.permutation(3))
    if amount and chance < GREYED:
        saturation = 0.0
    elif amount and chance < GREYED + REPAINTED:
        photo = photo[order]
    photo = (grey + (photo - grey) * saturation) * gains
    return ((photo - grey.mean()) * contrast + grey.mean() * brightness).clamp(0, 1)


def _map(sample: Sample, change) -> Sample:
    def changed(pixels: np.ndarray | None) -> np.ndarray | None:
        return None if pixels is None else change(pixels)

    queries = tuple(replace(query, mask=changed(query.mask), soft=changed(query.soft)) for query in sample.queries)
    return Sample(change(sample.image), queries, changed(sample.ignore))
