"""Masks from Python: open a model, show it a photo once, ask for masks as often as you like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .encoded import EncodedImage, EncodedPrompts
from .engine import Engine
from .inference import ImageSettings, SamplerSettings, decode_masks, encode_image, encode_prompts, sample_masks
from .masks import Masks
from .pixels import from_bytes
from .prompts import Prompt, excluded_names, parse_prompts


class Segmenter:
    """An engine with one photo (or batch of frames) at a time; `train.networks.engine.open_segmenter` makes one from a file."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.image: EncodedImage | None = None
        self.texts: dict[tuple[str, ...], Tensor] = {}

    def set_image(self, image: np.ndarray | Tensor, look: ImageSettings = ImageSettings()) -> None:  # noqa: B008 (frozen)
        """Encode a photo: uint8 or float [H,W,C], or frames [B,H,W,C]; RGB, RGBA (alpha is dropped) or grey.

        uint8 counts from 0 to 255, anything else from 0 to 1. ValueError for any other shape.
        """
        self.image = encode_image(self.engine, _as_frames(image), look)

    def predict(
        self,
        prompts: str | Sequence[Prompt],
        settings: SamplerSettings = SamplerSettings(),  # noqa: B008 (frozen)
        uncertainty: bool = False,
        decoder: str = "auto",
    ) -> Masks:
        """Soft masks [B,K,H,W] in [0,1] of the photo set last, K prompts on its own pixels.

        prompts: text with one thing a line, `name: synonym, synonym`, or Prompts. decoder: one of
        decoding.DECODERS. RuntimeError before `set_image`.
        """
        if self.image is None:
            raise RuntimeError("There is no photo; call set_image first.")
        asked = self._encoded(parse_prompts(prompts) if isinstance(prompts, str) else list(prompts))
        latent = sample_masks(self.engine, asked, self.image, settings)
        return decode_masks(self.engine, latent, uncertainty, decoder=decoder)

    def _encoded(self, prompts: list[Prompt]) -> EncodedPrompts:
        """c of the prompts; each is encoded once, whatever photos it is asked about."""
        fresh = [prompt for prompt in prompts if prompt.wordings not in self.texts]
        if fresh:
            rows = encode_prompts(self.engine, fresh).embeddings
            self.texts.update(zip((prompt.wordings for prompt in fresh), rows, strict=True))
        rows = tuple(self.texts[prompt.wordings] for prompt in prompts)
        return EncodedPrompts(tuple(prompt.name for prompt in prompts), rows, excluded_names(prompts))


def _as_frames(image: np.ndarray | Tensor) -> Tensor:
    """[H,W], [H,W,C] or [B,H,W,C], uint8 or in [0,1] → [B,H,W,C] float32 in [0,1]."""
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    pixels = from_bytes(pixels) if pixels.dtype == torch.uint8 else pixels.float()
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels[None] if pixels.ndim == 3 else pixels
