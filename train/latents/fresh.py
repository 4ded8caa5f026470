"""Training without the latent cache: images are loaded, augmented and encoded at every step, each time another version."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from digseg_nodes.core.geometry import plan_geometry
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.mask_targets import drawn
from train.data.augment import augment
from train.data.base import Sample, Source
from train.data.prepare import prepare
from train.latents.batches import Asked, Batch, Batches, PixelBatch
from train.latents.encoder import Encoder
from train.latents.guides import Size
from train.latents.latent_cache import checked
from train.latents.manifest import Listed, Manifest
from train.latents.sharing import SharedWork

LISTING_BATCH = 64


class FreshSamples:
    """What each image can be asked, listed on disk as the latent cache lists it, without latents.

    photo_shape: of geometry.PHOTO_SHAPES, at `resolution`.
    """

    def __init__(self, folder: Path, resolution: int, workers: int = 0, photo_shape: str = "own"):
        self.folder, self.manifest, self.workers = folder, Manifest(folder / "queries.jsonl", Listed), workers
        self.resolution, self.photo_shape = resolution, photo_shape
        self.entries: dict[str, Listed] = {}
        self.refresh()
        self.places: list[tuple[Source, int]] = []

    def refresh(self) -> None:
        """Learn what other processes have listed."""
        self.entries.update(self.manifest.news())

    def fill(self, source: Source, progress: bool = True) -> None:
        """Read the images not yet listed, together with whoever else is at it; ends when all are."""
        identities = [source.identity(index) for index in range(len(source))]
        if all(identity in self.entries for identity in identities):
            return
        with SharedWork(self.folder / "work", identities, LISTING_BATCH, self.entries.__contains__, self.refresh) as work:
            for numbers in work.rounds():
                self._list(source, work, numbers, progress)

    def add(self, source: Source, progress: bool = True) -> list[Listed]:
        """What every image of a source can be asked, reading those not yet listed."""
        self.fill(source, progress)
        self.places += [(source, index) for index in range(len(source))]
        return [self.entries[source.identity(index)] for index in range(len(source))]

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels that a photo of this size is encoded at."""
        return plan_geometry(*size, self.resolution, self.photo_shape).padded

    def photo_pixels(self, size: tuple[int, int]) -> int:
        """How many of these pixels show the photo; the others fill it up."""
        return prod(plan_geometry(*size, self.resolution, self.photo_shape).resized)

    def _list(self, source: Source, work: SharedWork, numbers: Iterator[int], progress: bool) -> None:
        places = (position for number in numbers for position in work.positions(number))
        loader = DataLoader(_Queries(source), batch_size=None, sampler=places, num_workers=self.workers)
        fresh: list[tuple[str, Listed]] = []
        for position, listed in tqdm(loader, desc="reading images and masks", unit="image", disable=not progress):
            fresh.append((work.identities[position], listed))
            number = position // work.size
            if position == work.positions(number)[-1]:
                self.manifest.append(fresh)
                self.entries.update(fresh)
                work.give_back(number)
                fresh = []

    def rows_of(self, line: Listed, query: int) -> tuple[int, int, int, int]:
        """Nothing is stored."""
        return -1, -1, -1, -1


class _Queries(torch.utils.data.Dataset):
    """Images by position: their queries without mask arrays, and their (height, width)."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> tuple[int, Listed]:
        sample = checked(self.source.sample(position))
        queries = tuple(replace(query, mask=None, soft=None) for query in sample.queries)
        return position, Listed(queries, sample.image.shape[:2])


class FreshBatches(Batches):
    """Batches of pixels to encode; sample k of a step is a function of (seed, step, k) alone."""

    kind = PixelBatch

    def __init__(self, config, sampler, samples: FreshSamples, texts, share, timesteps: int, channels: int, guides=None):
        super().__init__(config, sampler, texts, share, timesteps, channels, guides)
        self.places, self.photo_shape = samples.places, samples.photo_shape

    def pictures(self, step: int, at: np.ndarray, part: slice) -> dict[str, Tensor | None]:
        positions = range(*part.indices(len(at)))
        samples = [self._sample(step, position, int(at[position])) for position in positions]
        loaded = [self._load(*one) for one in samples]
        guided = {} if self.guides is None else self.guided(step, part, *map(list, zip(*samples, strict=True)))
        pixels, masks = (torch.stack(column) for column in list(zip(*loaded, strict=True))[:2])
        return guided | {
            "pixels": pixels,
            "drawn": drawn(masks, pixels, self.config.target).contiguous(),
            "valid": _stack_valid([valid for *_, valid in loaded], [side // PIXELS_PER_LATENT for side in pixels.shape[2:]]),
            "truth": (masks > 0.5).float() if self.needs_truth else None,
        }

    def _sample(self, step: int, position: int, number: int) -> tuple[Sample, Size]:
        """One drawn sample with its one query, augmented, and the size of its image before."""
        table, settings = self.sampler.table, self.config.augment
        row = table.rows[number]
        source, index = self.places[row["place"]]
        sample = source.sample(index)
        size = sample.image.shape[:2]
        sample = replace(sample, queries=(sample.queries[row["query"]],))  # crops keep what is asked for in view
        if settings.variants:
            sample = augment(sample, settings, np.random.default_rng([self.config.seed % 2**64, step, position]))
        return sample, size

    def _load(self, sample: Sample, like: Size) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pixels [3,H,W] in [-1,1], mask float32 [H,W] in [0,1] and known labels bool [H/8,W/8] of one sample, planned for a
        size."""
        prepared = prepare(sample, self.config.resolution, self.photo_shape, like=like)
        blank = torch.zeros(prepared.pixels.shape[1:])
        return prepared.pixels, prepared.soft[0] if len(prepared.soft) else blank, prepared.valid


def _stack_valid(known: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor | None:
    """[B,1,h,w] float32, 1 where the label is known; None when all are."""
    if all(valid is None for valid in known):
        return None
    return torch.stack([torch.ones(size) if valid is None else valid.float() for valid in known])[:, None]


def encoded(batch: PixelBatch, encoder: Encoder, size: int) -> Batch:
    """A batch of pixels as a batch of latents, `size` images through the VAE at a time; float32."""
    image, mask = (encoder.encode(pixels, size) for pixels in (batch.pixels, batch.drawn))
    asked = {field.name: getattr(batch, field.name) for field in fields(Asked)}
    return Batch(image=image, mask=mask, **asked)
