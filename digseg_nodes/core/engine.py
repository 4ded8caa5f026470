"""What runs the networks for the inference loop: ComfyUI in the nodes, diffusers in train/. The loop itself is inference.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from .checkpoint import CheckpointConfig
from .schedule import DDIMSchedule

OnStep = Callable[[int, Tensor], None]
CPU_CELLS, CPU_ITEMS = 8192, 8
"""Latent cells and items in one U-Net call on a CPU (`dev.py bench speed`; docs/performance.md)."""


def show_nothing(_done: int, _total: int, _preview: Image.Image | None) -> None:
    """For callers who look at no progress bar."""


@dataclass
class Progress:
    """How far a piece of work is, in network calls per item. show(done, total, preview) draws it, and may raise to cancel.

    previews: whether pictures of unfinished masks are worth drawing.
    """

    total: int
    show: Callable[[int, int, Image.Image | None], None] = show_nothing
    previews: bool = False
    done: int = 0

    def advance(self, count: int = 1, preview: Image.Image | None = None) -> None:
        """Move on by `count` calls; `preview` is a picture of how it looks so far, or None."""
        self.done += count
        self.show(self.done, self.total, preview)


class GuidedDecoder(Protocol):
    """A guided mask decoder (mask_decoder.MaskDecoder) that runs somewhere; it travels with its masks, LATENT["digseg"]."""

    @property
    def guide(self) -> float:
        """How many times the U-Net's resolution the photo may have, at most."""

    def photo_features(self, photo: Tensor) -> Any:
        """What all masks of a photo [1,3,H,W] in [-1,1] share, sides multiples of 8."""

    def logits(self, latents: Tensor, features: Any) -> Tensor:
        """Unscaled mask latents [N,4,h,w] → logits [N,H,W] at the photo's size, float32 on the CPU."""

    def chunk(self, guide_size: tuple[int, int]) -> int:
        """How many masks one call may decode now with a photo of (height, width)."""


class Engine(Protocol):
    """Networks that run somewhere. Latents are unscaled (as the VAE gives them), float32; what is returned lies on the CPU.

    A missing or unfit part raises ValueError in words when it is asked for.
    """

    @property
    def config(self) -> CheckpointConfig:
        """The config of the checkpoint whose U-Net this is."""

    @property
    def resolution(self) -> int:
        """Longest side in pixels that the network was trained at."""

    @property
    def photo_shape(self) -> str:
        """How it saw photos that are not square, of geometry.PHOTO_SHAPES."""

    @property
    def mask_decoder(self) -> GuidedDecoder | None:
        """The guided mask decoder that goes with the U-Net, if there is one."""

    def check_vae(self) -> None:
        """Raises ValueError unless there is a VAE whose latents the U-Net reads."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """c of each text, taken literally: [N,77,D]."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """E(x): pixels [N,3,H,W] in [0,1], sides multiples of 8 → latents [N,4,H/8,W/8]."""

    def preview_probe(self) -> Tensor:
        """What preview.probe_latents finds with this VAE; asked for where previews are drawn."""

    def sample(
        self, text: Tensor, image: Tensor, noise: Tensor, schedule: DDIMSchedule, on_step: OnStep, sampler: Any = None
    ) -> Tensor:
        """Mask latents [N,4,h,w] of texts [N,77,D], image latents and noise [N,4,h,w]; on_step(i, x0) after every step.

        sampler: the engine's own kind of sampler, instead of DDIM.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """D(z), unclamped: latents [N,4,h,w] → pixels [N,3,8h,8w], nominally in [-1,1]."""

    def sample_chunk(self, latent_size: tuple[int, int]) -> int:
        """How many masks of (h, w) one U-Net call may take now."""

    def decode_chunk(self, latent_size: tuple[int, int]) -> int:
        """How many mask latents of (h, w) one VAE call may decode now."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the device ran out of memory."""

    def release_memory(self) -> None:
        """Give cached device memory back after that."""

    def progress(self, total: int) -> Progress:
        """A new progress bar of `total` calls."""


Items = TypeVar("Items", Tensor, list)


def sampled_at_once_on_cpu(height: int, width: int) -> int:
    """How many latents of this size one U-Net call takes on a CPU: small ones leave it waiting for its weights from memory."""
    return max(1, min(CPU_ITEMS, CPU_CELLS // (height * width)))


def halving(
    engine: Engine, run: Callable[[Items], Tensor], batch: Items, last_resort: Callable[[Items], Tensor] | None = None
) -> Tensor:
    """run(batch), item by item on dimension 0; when memory runs out, the batch is halved and tried again.

    last_resort: what to do with a single item that does not fit; without it the error stays.
    """
    try:
        return run(batch)
    except Exception as error:
        if not engine.is_out_of_memory(error) or (len(batch) == 1 and last_resort is None):
            raise
    engine.release_memory()
    if len(batch) == 1:
        return last_resort(batch)
    half = len(batch) // 2
    return torch.cat([halving(engine, run, part, last_resort) for part in (batch[:half], batch[half:])])
