"""What one step of a mask decoder's training looks at: cuts of photos with their predicted latents, of (seed, step) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.geometry import resize
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT, SCALING_FACTOR
from digseg_nodes.core.pixels import from_bytes
from train.data.augment import repainted
from train.learning.decoder_pairs import Pair, cell_of, read_pair


@dataclass(frozen=True)
class BatchSettings:
    """photos and masks: cuts and prompts a step where a cut has 128 x 128 pixels, fewer in proportion where cuts are larger.
    crop: longest side of a cut in pixels of the guide. noise: largest standard deviation of what is added to the scaled latents.
    exact: share of masks whose latent is mixed with that of the true mask. colour: how far brightness, contrast, saturation and
    the three gains move, 0 to 1.
    """

    photos: int = 4
    crop: int = 192
    masks: int = 24
    noise: float = 0.15
    exact: float = 0.05
    colour: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class DecoderBatch:
    """photo [P,3,H,W] in [-1,1]; latents [M,4,h,w] unscaled; index int64 [M], whose photo; truth and known float32 [M,H,W]."""

    photo: Tensor
    latents: Tensor
    index: Tensor
    truth: Tensor
    known: Tensor

    def to(self, device: torch.device) -> "DecoderBatch":
        """The same batch on a device."""
        return DecoderBatch(*(part.to(device) for part in (self.photo, self.latents, self.index, self.truth, self.known)))


class DecoderBatches(torch.utils.data.Dataset):
    """Batches by step number, from the files of decoder_pairs."""

    def __init__(self, paths: Sequence[Path], steps: int, settings: BatchSettings):
        self.steps, self.settings = steps, settings
        cells = np.array([cell_of(path) for path in paths])
        order = np.argsort(cells, kind="stable")
        self.paths, self.cells = [paths[i] for i in order], cells[order]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> DecoderBatch:
        rng = np.random.default_rng([self.settings.seed, step])
        cell, pairs = self._photos(rng)
        window = max(1, self.settings.crop // cell)
        window = tuple(min(window, *(pair.latents.shape[axis] for pair in pairs)) for axis in (-2, -1))
        area = window[0] * window[1] * cell**2 / 128**2
        pairs = pairs[: max(1, round(len(pairs) / area))]
        count = max(1, round(self.settings.masks / area / len(pairs)))
        cuts = [self._cut(pair, cell, window, count, rng) for pair in pairs]
        photo, latents, truth, known = zip(*cuts, strict=True)
        index = torch.arange(len(cuts)).repeat_interleave(torch.tensor([len(part) for part in latents]))
        return DecoderBatch(torch.stack(photo), torch.cat(latents), index, torch.cat(truth), torch.cat(known))

    def _photos(self, rng: np.random.Generator) -> tuple[int, list[Pair]]:
        """The size of the step's latent pixels in the guide, and photos that are large enough for it."""
        largest = int(self.cells[rng.integers(len(self.paths))])
        cell = largest
        if rng.random() < 0.5:
            cell = round(np.exp(rng.uniform(np.log(min(largest, PIXELS_PER_LATENT)), np.log(largest))))
        first = int(np.searchsorted(self.cells, cell))
        chosen = rng.integers(first, len(self.paths), self.settings.photos)
        return cell, [read_pair(self.paths[number]) for number in chosen]

    def _cut(self, pair: Pair, cell: int, window: tuple[int, int], count: int, rng: np.random.Generator):
        """A window of latent pixels of one photo: photo [3,H,W], latents [K,4,h,w], truth and known [K,H,W]."""
        top, left = (int(rng.integers(pair.latents.shape[axis] - side + 1)) for axis, side in zip((-2, -1), window, strict=True))
        rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
        asked = torch.from_numpy(rng.permutation(len(pair.masks))[:count])
        box = tuple(slice(part.start * pair.cell, part.stop * pair.cell) for part in (rows, columns))
        size = tuple(side * cell for side in window)
        photo = resize(from_bytes(pair.photo[(slice(None), *box)])[None], size)[0]
        truth = resize(pair.masks[asked][(slice(None), *box)][None].float(), size)[0] > 0.5
        known = resize(pair.known[box][None, None].float(), size)[0] > 0.5
        latents = self._latents(pair, asked, rng)[..., rows, columns]
        known = known.expand(len(asked), -1, -1).float()
        return repainted(photo.clamp(0, 1), self.settings.colour, rng) * 2 - 1, latents, truth.float(), known

    def _latents(self, pair: Pair, asked: Tensor, rng: np.random.Generator) -> Tensor:
        """One of each prompt's predictions, now and then mixed with the true mask's latent, with noise on top."""
        settings = self.settings
        variants = torch.from_numpy(rng.integers(pair.latents.shape[1], size=len(asked)))
        latents = pair.latents[asked, variants].clone()
        for place in (asked == 0).nonzero()[:, 0].tolist():
            if rng.random() < settings.exact * len(pair.masks):
                latents[place] += float(rng.random()) * (pair.exact[0] - latents[place])
        strength = torch.from_numpy(rng.uniform(0, settings.noise, (len(asked), 1, 1, 1)).astype(np.float32))
        return latents + torch.from_numpy(rng.standard_normal(latents.shape, np.float32)) * strength / SCALING_FACTOR
