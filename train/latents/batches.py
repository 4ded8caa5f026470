"""One step's batches: images, masks, timesteps and noise, all a pure function of (seed, step)."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from train.latents.latent_cache import LatentCache
from train.latents.sampler import Sampler
from train.learning.noise import annealed_strength, multi_scale_noise
from train.learning.objective import draw_timesteps
from train.networks.text_encoding import TextCache
from train.settings.train_config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """image, mask, noise [B,4,h,w] float32; text [B,77,D]; timesteps int64 [B]; valid [B,1,h,w] float32 or None;
    truth [B,8h,8w] float32 in {0,1} or None unless the loss is on pixels. Without the latent cache image and mask are None
    until they are encoded from pixels and drawn, [B,3,8h,8w] in [-1,1]."""

    image: Tensor | None
    mask: Tensor | None
    noise: Tensor
    text: Tensor
    timesteps: Tensor
    valid: Tensor | None = None
    truth: Tensor | None = None
    pixels: Tensor | None = None
    drawn: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change) -> "Batch":
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(value if value is None else change(value) for value in values))


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
    """One process's micro-batches by step number; `shape` is that of a latent, (4, h, w)."""

    def __init__(
        self,
        config: TrainConfig,
        sampler: Sampler,
        texts: TextCache,
        share: WorkShare,
        train_timesteps: int,
        shape: tuple[int, int, int],
    ):
        self.config, self.sampler, self.share = config, sampler, share
        self.train_timesteps, self.shape, self.texts = train_timesteps, shape, texts.store.rows()
        self.needs_truth = config.objective == "end_to_end" and config.end_to_end.loss != "latent"

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> list[Batch]:
        at, phrases = self.sampler.draw(step, self.share.total)
        timesteps, noise = self._noise(step)
        return [
            Batch(
                **{"image": None, "mask": None, **self.pictures(step, at, part)},
                noise=noise[part],
                text=rows_of(self.texts, phrases[part]),
                timesteps=timesteps[part],
            )
            for part in self.share.parts()
        ]

    @abstractmethod
    def pictures(self, step: int, at: np.ndarray, part: slice) -> dict[str, Tensor | None]:
        """The fields of a Batch that show images and masks, of the samples at[part] of a step."""

    def _noise(self, step: int) -> tuple[Tensor, Tensor]:
        shape = (self.share.total, *self.shape)
        if self.config.objective == "end_to_end":
            return torch.full((shape[0],), self.train_timesteps - 1), torch.zeros(shape)
        settings, generator = self.config.noise, step_generator(self.config.seed, step)
        timesteps = draw_timesteps(shape[0], self.train_timesteps, generator, settings.high_share, settings.high_from)
        share = timesteps if settings.annealed else torch.full_like(timesteps, self.train_timesteps)
        strength = annealed_strength(share, settings.strength, self.train_timesteps)
        return timesteps, multi_scale_noise(shape, strength, generator)


def rows_of(store: Tensor, rows: np.ndarray) -> Tensor:
    """Rows of a memory-mapped store as float32."""
    return store[torch.from_numpy(rows)].float()


class CachedBatches(Batches):
    """Batches of cached latents."""

    def __init__(self, config: TrainConfig, sampler: Sampler, latents: LatentCache, texts: TextCache, share, timesteps: int):
        super().__init__(config, sampler, texts, share, timesteps, latents.images.shape)
        self.images, self.masks, self.valid = latents.images.rows(), latents.masks.rows(), latents.valid.rows()
        self.bits = latents.bits.rows() if self.needs_truth else None
        self.partly_known = bool((sampler.table.valid >= 0).any())

    def pictures(self, step: int, at: np.ndarray, part: slice) -> dict[str, Tensor | None]:
        table, at = self.sampler.table, at[part]
        return {
            "image": rows_of(self.images, table.image[at]),
            "mask": rows_of(self.masks, table.mask[at]),
            "valid": self._valid(table.valid[at]),
            "truth": self._truth(table.bits[at]),
        }

    def _valid(self, rows: np.ndarray) -> Tensor | None:
        if not self.partly_known:
            return None
        known = rows_of(self.valid, np.maximum(rows, 0))  # [B,1,h,w]
        return torch.where(torch.from_numpy(rows < 0).view(-1, 1, 1, 1), 1.0, known)

    def _truth(self, rows: np.ndarray) -> Tensor | None:
        if self.bits is None:
            return None
        packed = self.bits[torch.from_numpy(rows)].numpy()  # [B, R*R/8]
        flat = np.unpackbits(packed, axis=1)
        return torch.from_numpy(flat).view(-1, self.config.resolution, self.config.resolution).float()
