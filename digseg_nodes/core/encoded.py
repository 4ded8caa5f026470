"""What passes between the steps of a segmentation: the encoded photo, the encoded prompts, and whose masks a LATENT holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from .engine import GuidedDecoder
from .geometry import Geometry
from .tiles import TilePlan, cut_tile


@dataclass(frozen=True)
class EncodedImage:
    """The DIGSEG_IMAGE type. latents: E(x) before scaling [F,4,h,w], F = frames x tiles x views. image: the photo
    [B,H,W,3] in [0,1].

    geometry: how each frame (or tile) was fitted. tile_plan: None when the image was taken whole. probe: [2,4] mean latents
    of a black and of a white picture, which turn a mask latent into a cheap preview; None where nobody looks. mirrored:
    every second view is the frame (or tile) with left and right swapped.
    """

    latents: Tensor
    image: Tensor
    geometry: Geometry
    tile_plan: TilePlan | None
    probe: Tensor | None = None
    mirrored: bool = False

    @property
    def views(self) -> int:
        """Latents per frame (or tile)."""
        return 2 if self.mirrored else 1

    def frame(self, index: int) -> Tensor:
        """The photo (or tile) behind latents[index], never mirrored: [h,w,3] in [0,1]."""
        index //= self.views
        if self.tile_plan is None:
            return self.image[index]
        batch, tile = divmod(index, len(self.tile_plan.corners))
        return cut_tile(self.image[batch], self.tile_plan, tile)

    def is_mirrored(self, index: int) -> bool:
        """Whether latents[index] shows the frame (or tile) with left and right swapped."""
        return index % self.views == 1


@dataclass(frozen=True)
class EncodedPrompts:
    """The DIGSEG_PROMPTS type. names: K labels; embeddings: per prompt [S,77,D], one row per wording.

    excluded: those of the names that are taken away from the union of the others.
    """

    names: tuple[str, ...]
    embeddings: tuple[Tensor, ...]
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskSource:
    """What a LATENT of masks must carry to be decoded: LATENT["digseg"]. members: [E,F*K,4,h,w] or None.

    threshold and mask_target are the checkpoint's, and so is mask_decoder, the guided one that may decode the masks; None
    where there is none. excluded as in EncodedPrompts.
    """

    image: EncodedImage
    names: tuple[str, ...]
    threshold: float = 0.5
    mask_target: str = "binary"
    members: Tensor | None = None
    excluded: tuple[str, ...] = ()
    mask_decoder: GuidedDecoder | None = None


class MaskLatent(TypedDict):
    """A LATENT of masks. samples: [F*K,4,h,w] unscaled, frame by frame, within a frame prompt by prompt."""

    samples: Tensor
    digseg: MaskSource
