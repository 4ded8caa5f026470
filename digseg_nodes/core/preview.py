"""The live picture a node shows while it samples: the photo under the mask as it looks so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from . import geometry
from .draw import to_picture
from .encoded import EncodedImage
from .mask_targets import OBSERVABLE, shows_photo
from .palettes import palette
from .pixels import from_bytes

SIZE = 384
SECONDS = 0.2
"""At least from one picture to the next: nobody sees more, and a small network's step takes less time than its picture."""
STRENGTH = 0.65
PROBE_SIDE = 64


def probe_latents(encode_pixels: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean latents of a black and of a white picture, [2,4], by which `MaskPreview` reads latents without the VAE.

    encode_pixels: [N,3,H,W] in [0,1] → latents [N,4,H/8,W/8].
    """
    pair = torch.stack([torch.zeros(3, PROBE_SIDE, PROBE_SIDE), torch.ones(3, PROBE_SIDE, PROBE_SIDE)])
    return encode_pixels(pair).cpu().mean((2, 3))


class MaskPreview:
    """Draws previews of one EncodedImage; the shrunken photo of the frame in work is kept, so that a step costs little."""

    def __init__(self, image: EncodedImage, mask_target: str = "binary"):
        self.image, self.mask_target = image, mask_target
        self.frame = -1
        self.photo: Tensor | None = None
        self.drawn_at = -math.inf

    def due(self) -> bool:
        """Whether another picture is worth drawing by now."""
        return time.monotonic() - self.drawn_at >= SECONDS

    def draw(self, frame: int, prompt: int, x0: Tensor) -> Image.Image:
        """x0 [4,h,w] unscaled, of prompt number `prompt` → the frame's photo, at most SIZE pixels, tinted where the mask is."""
        self.drawn_at = time.monotonic()
        photo = self._photo(frame)  # [h,w,3]
        strength = self._soft(frame, x0, tuple(photo.shape[:2])) * STRENGTH  # [h,w,1]
        strength = strength.flip(1) if self.image.is_mirrored(frame) else strength
        colour = from_bytes(palette(prompt + 1)[prompt])
        return to_picture(photo * (1 - strength) + colour * strength)

    def _photo(self, frame: int) -> Tensor:
        if frame != self.frame:
            photo = self.image.frame(frame)[None]  # [1,H,W,3]
            height, width = photo.shape[1:3]
            small = geometry.plan_geometry(height, width, min(SIZE, max(height, width))).resized
            self.photo, self.frame = geometry.resize(photo.movedim(-1, 1), small)[0].movedim(0, -1), frame
        return self.photo

    def _soft(self, frame: int, x0: Tensor, size: tuple[int, int]) -> Tensor:
        """How much of a mask x0 [4,h,w] shows, as the model draws masks: white on black, or on the photo. [H,W,1] in [0,1]."""
        soft = self._brightness(x0)
        if shows_photo(self.mask_target):
            photo = self._brightness(self.image.latents[frame])
            soft = ((soft - photo) / (1 - photo).clamp(min=OBSERVABLE)).clamp(0, 1)
        fitted = self.image.geometry
        height, width = (max(1, round(s * r / p)) for s, r, p in zip(soft.shape, fitted.resized, fitted.padded, strict=True))
        return geometry.resize(soft[None, None, :height, :width], size)[0, 0, :, :, None]

    def _brightness(self, latent: Tensor) -> Tensor:
        """How far a latent lies on the way from the black one to the white one: [4,h,w] → [h,w] in [0,1]."""
        black, white = self.image.probe
        axis = (white - black) / (white - black).square().sum()
        return ((latent.float().cpu() - black[:, None, None]) * axis[:, None, None]).sum(0).clamp(0, 1)
