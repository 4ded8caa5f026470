"""Mask latents to soft masks on the photo's own pixels: by the VAE (the paper's 3.7) or by the guided mask decoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from . import geometry, tiles
from .encoded import EncodedImage, MaskSource
from .engine import Engine, GuidedDecoder, Progress, halving
from .geometry import Geometry
from .mask_targets import masks_from_pixels, shows_photo

DECODERS = ("auto", "vae", "guided")


def chosen_decoder(decoder: str, guided: GuidedDecoder | None) -> str:
    """Which one decodes, `vae` or `guided`, when one of DECODERS is asked for; auto: guided where there is one.

    ValueError in words for guided where there is none, and for a word that is none of DECODERS.
    """
    if decoder not in DECODERS:
        raise ValueError(f"The decoder is {decoder!r}; choose one of {', '.join(DECODERS)}.")
    if decoder == "guided" and guided is None:
        raise ValueError(
            "There is no guided mask decoder for these masks: the checkpoint they were drawn with has none, or, behind a stock "
            "sampler, DiGSeg Conditioning has no MODEL. Choose decoder auto or vae, connect the MODEL there, or train a decoder "
            "for the checkpoint (python train/finetune_decoder.py)."
        )
    return "guided" if guided is not None and decoder != "vae" else "vae"


def read_masks(
    engine: Engine, drawn: list[Tensor], source: MaskSource, apart: bool, decoder: str, progress: Progress
) -> tuple[Tensor, str]:
    """Mask latents [F*K,4,h,w], several of each mask, to soft masks [R,B,K,H,W] float32 in [0,1], and which decoder did it.

    R: every tensor of `drawn` and every view apart, or, unless `apart`, the mean of the views for each of `drawn`. A frame (tile,
    view) is finished before the next begins, in chunks that fit the memory, and only whole masks are kept.
    """
    kind = chosen_decoder(decoder, source.mask_decoder)
    reader: Reader = GuidedReader(engine, source) if kind == "guided" else VaeReader(engine, source)
    canvas, count = Canvas(source.image, len(source.names), len(drawn), apart), len(source.names)
    for frame in range(len(source.image.latents)):
        shared = reader.look_at(frame)
        for number, latents in enumerate(drawn):
            prompts = torch.arange(count)
            for chunk in prompts.split(reader.chunk()):
                read = reader.read(latents[frame * count + chunk], shared)
                for prompt, mask in zip(chunk.tolist(), read, strict=True):
                    canvas.add(number, frame, prompt, geometry.unfit(mask[None], reader.geometry)[0])
                progress.advance(len(chunk))
    return canvas.masks, kind


class Canvas:
    """Masks of whole photos [R,B,K,H,W], put together from masks of frames, tiles and views; R as `read_masks` says."""

    def __init__(self, image: EncodedImage, prompts: int, drawn: int, apart: bool):
        self.image, self.views = image, image.views if apart else 1
        self.masks = torch.zeros(drawn * self.views, len(image.image), prompts, *image.image.shape[1:3])
        self.weights = None if image.tile_plan is None else tiles.tile_weights(image.tile_plan)

    def add(self, number: int, frame: int, prompt: int, mask: Tensor) -> None:
        """The mask [h,w] of latent number `frame` of one of the drawn tensors."""
        image = self.image
        mask = mask.flip(-1) if image.is_mirrored(frame) else mask
        mask = mask if self.views == image.views else mask / image.views
        frame, view = divmod(frame, image.views)
        place = number * self.views + (view if self.views > 1 else 0)
        if image.tile_plan is None:
            self.masks[place, frame, prompt] += mask
            return
        frame, tile = divmod(frame, len(image.tile_plan.corners))
        tiles.add_tile(self.masks[place, frame, prompt], mask * self.weights[tile], image.tile_plan, tile)


class Reader(Protocol):
    """Turns latents of masks into soft masks at the size of `geometry`."""

    @property
    def geometry(self) -> Geometry:
        """How the photo was fitted to what `read` returns."""

    def look_at(self, frame: int) -> Any:
        """What all masks of image latent number `frame` share."""

    def chunk(self) -> int:
        """How many latents `read` may take now."""

    def read(self, latents: Tensor, shared: Any) -> Tensor:
        """Latents [N,4,h,w] of one frame → soft masks [N,*geometry.padded] in [0,1] on the CPU."""


@dataclass(frozen=True)
class VaeReader:
    """The paper's way: the VAE draws a picture, black and white or painted on the photo, and the mask is read off it."""

    engine: Engine
    source: MaskSource

    @property
    def geometry(self) -> Geometry:
        """What the U-Net saw."""
        return self.source.image.geometry

    def look_at(self, frame: int) -> Tensor | None:
        """The photo [1,3,8h,8w] in [0,1] where masks are painted on it."""
        return photo_at(self.source.image, frame, self.geometry) if shows_photo(self.source.mask_target) else None

    def chunk(self) -> int:
        """What the engine's VAE takes."""
        return self.engine.decode_chunk(self.geometry.latent)

    def read(self, latents: Tensor, shared: Tensor | None) -> Tensor:
        """One VAE decode."""
        pixels = self.engine.decode(latents)
        return masks_from_pixels(pixels, pixels if shared is None else shared, self.source.mask_target)


@dataclass(frozen=True)
class GuidedReader:
    """The guided mask decoder: the latent says what is found, the photo at guide size where it ends."""

    engine: Engine
    source: MaskSource

    @cached_property
    def geometry(self) -> Geometry:
        """The guide's size."""
        return geometry.guide_geometry(self.source.image.geometry, self.source.mask_decoder.guide)

    def look_at(self, frame: int) -> Any:
        """The photo's features."""
        photo = photo_at(self.source.image, frame, self.geometry) * 2 - 1
        return self.source.mask_decoder.photo_features(photo)

    def chunk(self) -> int:
        """What fits beside the photo's features."""
        return self.source.mask_decoder.chunk(self.geometry.padded)

    def read(self, latents: Tensor, shared: Any) -> Tensor:
        """One call of the decoder, or several where memory runs out."""
        return halving(self.engine, lambda part: self.source.mask_decoder.logits(part, shared).sigmoid(), latents)


def photo_at(image: EncodedImage, frame: int, fitted: Geometry) -> Tensor:
    """The photo (or tile) behind image latent number `frame`, the way round the network saw it: [1,3,*padded] in [0,1]."""
    photo = image.frame(frame)
    return geometry.fit((photo.flip(1) if image.is_mirrored(frame) else photo)[None], fitted)
