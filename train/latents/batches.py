"""One step's batches: images, masks, timesteps and noise, all a pure function of (seed, step)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from train.data.base import Sample
from train.latents.guides import Guides, Size
from train.latents.latent_cache import LatentCache
from train.latents.row_store import Rows
from train.latents.sampler import Sampler
from train.latents.shape_stores import Stores
from train.learning.noise import annealed_strength, multi_scale_noise
from train.learning.objective import draw_timesteps
from train.networks.text_encoding import TextCache
from train.settings.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a micro-batch holds besides its pictures: conditioning (texts, timesteps, noise) and targets on pixels.

    noise [B,4,h,w] float32; text [B,77,D]; timesteps int64 [B]; valid [B,1,h,w] float32 or None when every label is known;
    truth [B,8h,8w] float32 in {0,1}, None unless the loss is on pixels. For the guided mask decoder: photo [B,3,H,W] in [-1,1],
    outline and known float32 [B,H,W], the true mask and where the label is known, of the latents' window (top, left, height,
    width), and jitter [B,4,h,w], noise of the latents it learns from.
    """

    noise: Tensor
    text: Tensor
    timesteps: Tensor
    valid: Tensor | None = None
    truth: Tensor | None = None
    photo: Tensor | None = None
    outline: Tensor | None = None
    known: Tensor | None = None
    window: tuple[int, int, int, int] | None = None
    jitter: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; from pinned memory the copy runs beside the device's work."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in pinned memory; what DataLoader calls with `pin_memory`."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


@dataclass(frozen=True, kw_only=True)
class Batch(Asked):
    """Encoded pictures: latents of the images and of their masks, each [B,4,h,w] float32."""

    image: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class PixelBatch(Asked):
    """Pictures that are encoded on the device, by `fresh.encoded`: images and what their mask latents are encoded from, each
    [B,3,8h,8w] in [-1,1]."""

    pixels: Tensor
    drawn: Tensor


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on seed and step alone."""
    mixed = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") % 2**63)


@dataclass(frozen=True)
class WorkShare:
    """Which samples of a step are one process's: `accumulation` micro-batches of `size`, processes side by side."""

    size: int
    accumulation: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def total(self) -> int:
        """Samples of a step over all processes."""
        return self.size * self.accumulation * self.processes

    def parts(self) -> list[slice]:
        """The samples of each micro-batch: sample k of a step is the same whatever the number of processes."""
        starts = [(micro * self.processes + self.rank) * self.size for micro in range(self.accumulation)]
        return [slice(start, start + self.size) for start in starts]


class Batches(torch.utils.data.Dataset, ABC):
    """One process's micro-batches by step number; a micro-batch holds one shape of the table's. channels: of a latent."""

    kind: type[Batch] | type[PixelBatch]

    def __init__(
        self,
        config: TrainConfig,
        sampler: Sampler,
        texts: TextCache,
        share: WorkShare,
        train_timesteps: int,
        channels: int,
        guides: Guides | None = None,
    ):
        self.guides = guides
        self.config, self.sampler, self.share = config, sampler, share
        self.train_timesteps, self.channels, self.texts = train_timesteps, channels, texts.store.rows()
        self.needs_truth = config.objective == "end_to_end" and config.end_to_end.loss in ("pixel", "both")

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> list[Batch] | list[PixelBatch]:
        at, phrases = self.sampler.draw(step, self.share.total, self.share.size)
        timesteps, noise = self._noise(step, at)
        return [
            self.kind(
                **self.pictures(step, at, part),
                noise=noise[part.start // self.share.size],
                text=rows_of(self.texts, phrases[part]),
                timesteps=timesteps[part],
            )
            for part in self.share.parts()
        ]

    @abstractmethod
    def pictures(self, step: int, at: np.ndarray, part: slice) -> dict[str, Tensor | None]:
        """The fields of a batch of this `kind` that show images and masks, of the samples at[part] of a step."""

    def shape_at(self, number: int) -> tuple[int, int]:
        """(height, width) in pixels of a sample of the table."""
        return self.sampler.table.shapes[self.sampler.table.rows["shape"][number]]

    def guided(self, step: int, part: slice, samples: list[Sample], like: list[Size | None]) -> dict[str, object]:
        """The fields of a Batch that the mask decoder is trained with; samples: those of part, each with its one query. like:
        sizes to plan for instead of their own."""
        positions = range(*part.indices(self.share.total))
        seen = [self.guides.seen(*one) for one in zip(samples, like, strict=True)]
        view = self.guides.view(step, part.start, seen[0].latent)
        asked = zip(samples, seen, positions, strict=True)
        pictures = [self.guides.picture(sample, geometry, view, step, at) for sample, geometry, at in asked]
        photo, outline, known = (torch.stack(column) for column in zip(*pictures, strict=True))
        shape = (self.channels, *seen[0].latent)
        jitter = torch.stack([self.guides.jitter(shape, step, at) for at in positions])
        return {"photo": photo, "outline": outline, "known": known, "window": view.window, "jitter": jitter}

    def _noise(self, step: int, at: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Timesteps [total], and the noise [size,4,h,w] of every micro-batch of all processes."""
        size, total = self.share.size, self.share.total
        shapes = [self.shape_at(number) for number in at[::size]]
        latents = [(self.channels, *(side // PIXELS_PER_LATENT for side in shape)) for shape in shapes]
        if self.config.objective == "end_to_end":
            return torch.full((total,), self.train_timesteps - 1), [torch.zeros((size, *latent)) for latent in latents]
        settings, generator = self.config.noise, step_generator(self.config.seed, step)
        timesteps = draw_timesteps(total, self.train_timesteps, generator, settings.high_share, settings.high_from)
        share = timesteps if settings.annealed else torch.full_like(timesteps, self.train_timesteps)
        strength = annealed_strength(share, settings.strength, self.train_timesteps)
        if len(set(latents)) == 1:
            return timesteps, list(multi_scale_noise((total, *latents[0]), strength, generator).split(size))
        parts = zip(latents, strength.split(size), strict=True)
        return timesteps, [multi_scale_noise((size, *latent), part, generator) for latent, part in parts]


def rows_of(store: Rows, rows: np.ndarray) -> Tensor:
    """Rows of a store as float32."""
    return store.read(rows).float()


class CachedBatches(Batches):
    """Batches of cached latents."""

    kind = Batch

    def __init__(
        self,
        config: TrainConfig,
        sampler: Sampler,
        latents: LatentCache,
        texts: TextCache,
        share,
        timesteps: int,
        guides: Guides | None = None,
    ):
        super().__init__(config, sampler, texts, share, timesteps, latents.vae.config.latent_channels, guides)
        self.rows = [ShapeRows.of(latents.stores(shape)) for shape in sampler.table.shapes]
        self.partly_known = bool((sampler.table.rows["valid"] >= 0).any())

    def pictures(self, step: int, at: np.ndarray, part: slice) -> dict[str, Tensor | None]:
        table, at = self.sampler.table, at[part]
        rows = self.rows[table.rows["shape"][at[0]]]
        return self._guides(step, part, at) | {
            "image": (image := rows_of(rows.images, table.rows["image"][at])),
            "mask": _targets(rows.masks, table.rows["mask"][at], image),
            "valid": _known(rows.valid, table.rows["valid"][at]) if self.partly_known else None,
            "truth": _unpacked(rows.bits, table.rows["bits"][at], self.shape_at(at[0])) if self.needs_truth else None,
        }

    def _guides(self, step: int, part: slice, at: np.ndarray) -> dict[str, object]:
        if self.guides is None:
            return {}
        samples = [self.guides.sample(int(row["place"]), int(row["query"])) for row in self.sampler.table.rows[at]]
        return self.guided(step, part, samples, [None] * len(samples))


@dataclass(frozen=True)
class ShapeRows:
    """The rows of one shape: latents, mask latents, masks bit by bit, known labels."""

    images: Rows
    masks: Rows
    bits: Rows
    valid: Rows

    @classmethod
    def of(cls, stores: Stores) -> "ShapeRows":
        """What the stores hold now."""
        return cls(stores.images.rows(), stores.masks.rows(), stores.bits.rows(), stores.valid.rows())


def _targets(store: Rows, rows: np.ndarray, image: Tensor) -> Tensor:
    """Mask latents [B,4,h,w]; of row -1 the image's own latent."""
    return rows_of(store, rows) if (rows >= 0).all() else _filled(store, rows, image.clone())


def _known(store: Rows, rows: np.ndarray) -> Tensor:
    """Where labels are known, [B,1,h,w] float32; row -1 is known all over."""
    return _filled(store, rows, torch.ones((len(rows), *store.shape)))


def _filled(store: Rows, rows: np.ndarray, out: Tensor) -> Tensor:
    """`out` [B, *shape] with the rows that are not -1 put in their places."""
    there = np.flatnonzero(rows >= 0)
    if len(there):
        out[torch.from_numpy(there)] = rows_of(store, rows[there])
    return out


def _unpacked(store: Rows, rows: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Masks [B,H,W] float32 in {0,1} of packed rows [N,H*W/8]."""
    flat = np.unpackbits(store.read(rows).numpy(), axis=1)
    return torch.from_numpy(flat).view(-1, *shape).float()
