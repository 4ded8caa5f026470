"""One step's batch: cached rows, timesteps and noise, all a pure function of (seed, step)."""

import hashlib
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from train.config import TrainConfig
from train.noise import annealed_strength, multi_scale_noise
from train.objective import draw_timesteps
from train.sampling import Sampler
from train.table import LatentCache
from train.text import TextCache


@dataclass(frozen=True)
class Batch:
    """image, mask, noise [B,4,h,w] float32; text [B,77,D]; timesteps int64 [B]; valid [B,1,h,w] float32 or None;
    truth [B,8h,8w] float32 in {0,1} or None unless pixels are asked for."""

    image: Tensor
    mask: Tensor
    noise: Tensor
    text: Tensor
    timesteps: Tensor
    valid: Tensor | None = None
    truth: Tensor | None = None

    def slice(self, start: int, stop: int) -> "Batch":
        """Samples start to stop."""
        return self._map(lambda tensor: tensor[start:stop])

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


class Batches(torch.utils.data.Dataset):
    """Batches by step number; `total` samples each, over all processes and accumulation steps."""

    def __init__(
        self,
        config: TrainConfig,
        sampler: Sampler,
        latents: LatentCache,
        texts: TextCache,
        total: int,
        train_timesteps: int,
    ):
        self.config, self.sampler, self.total, self.train_timesteps = config, sampler, total, train_timesteps
        self.images, self.masks, self.texts = latents.images.rows(), latents.masks.rows(), texts.store.rows()
        self.valid, self.resolution = latents.valid.rows(), latents.resolution
        pixels = config.objective == "end_to_end" and config.end_to_end.loss != "latent"
        self.bits = latents.bits.rows() if pixels else None

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        at, phrases = self.sampler.draw(step, self.total)
        table = self.sampler.table
        mask = self._rows(self.masks, table.mask[at])
        timesteps, noise = self._noise(step, mask.shape)
        return Batch(
            self._rows(self.images, table.image[at]),
            mask,
            noise,
            self._rows(self.texts, phrases),
            timesteps,
            self._valid(table.valid[at]),
            self._truth(table.bits[at]),
        )

    @staticmethod
    def _rows(store: Tensor, rows: np.ndarray) -> Tensor:
        return store[torch.from_numpy(rows)].float()

    def _noise(self, step: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if self.config.objective == "end_to_end":
            return torch.full((shape[0],), self.train_timesteps - 1), torch.zeros(shape)
        settings, generator = self.config.noise, step_generator(self.config.seed, step)
        timesteps = draw_timesteps(shape[0], self.train_timesteps, generator, settings.high_share, settings.high_from)
        share = timesteps if settings.annealed else torch.full_like(timesteps, self.train_timesteps)
        strength = annealed_strength(share, settings.strength, self.train_timesteps)
        return timesteps, multi_scale_noise(tuple(shape), strength, generator)

    def _valid(self, rows: np.ndarray) -> Tensor | None:
        if not len(self.valid):
            return None
        known = self._rows(self.valid, np.maximum(rows, 0))  # [B,1,h,w]
        return torch.where(torch.from_numpy(rows < 0).view(-1, 1, 1, 1), 1.0, known)

    def _truth(self, rows: np.ndarray) -> Tensor | None:
        if self.bits is None:
            return None
        packed = self.bits[torch.from_numpy(rows)].numpy()  # [B, R*R/8]
        flat = np.unpackbits(packed, axis=1)
        return torch.from_numpy(flat).view(-1, self.resolution, self.resolution).float()
