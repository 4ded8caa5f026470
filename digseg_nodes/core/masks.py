"""Masks as tensors: from decoded pixels to soft, hard, united and semantic masks, and how they are drawn on a photo."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import check_choice
from .prompts import parse_line, tidy
from .wired import check_numbers

MODES = ("hard", "soft")
IF_EMPTY = (EMPTY_MASK, WHOLE_PICTURE, SKIP) = ("empty mask", "whole picture", "skip")
"""What nodes give when nothing is found; skip: what hangs behind them does not run."""


@dataclass(frozen=True)
class Masks:
    """The DIGSEG_MASKS type: one soft mask per frame and prompt.

    soft: [B,K,H,W] float32 in [0,1], frame by frame, within a frame prompt by prompt. names: K labels. image: the
    photo [B,H,W,3] in [0,1]. threshold: the checkpoint's τ. spread: [B,K,H,W] float32 in [0, 0.5], the standard
    deviation over the masks of all ensemble members and views, or None of a single one. excluded: those of the names whose
    masks are taken away from the union of the others. decoder: which one decoded them, `vae` or `guided`.
    """

    soft: Tensor
    names: tuple[str, ...]
    image: Tensor
    threshold: float = 0.5
    spread: Tensor | None = None
    excluded: tuple[str, ...] = ()
    decoder: str = "vae"

    def select(self, indices: list[int]) -> Masks:
        """The same frames with only the prompts at `indices`, in that order."""
        spread = None if self.spread is None else self.spread[:, indices]
        return replace(self, soft=self.soft[:, indices], names=tuple(self.names[i] for i in indices), spread=spread)

    def threshold_or(self, threshold: float) -> float:
        """A node's threshold in (0,1], or the checkpoint's own for 0."""
        return threshold or self.threshold

    def index_of(self, name: str) -> int:
        """Position of a mask by its name; an unknown name raises with the nearest one and all names there are.

        White space, invisible marks and, unless two names differ in it alone, case do not count.
        """
        wanted = tidy(name)
        if wanted in self.names:
            return self.names.index(wanted)
        folded = [known.casefold() for known in self.names]
        if wanted.casefold() in folded:
            return folded.index(wanted.casefold())
        near = difflib.get_close_matches(wanted.casefold(), folded, n=1)
        hint = f" Did you mean {self.names[folded.index(near[0])]!r}?" if near else ""
        raise ValueError(f"There is no mask named {wanted!r}.{hint} The masks here are: {', '.join(map(repr, self.names))}.")

    def choose(self, text: str, threshold: float = 0.0) -> Choice:
        """The masks that lines of text name: one name a line, written as in a prompt list, so that one text serves both.

        Synonyms behind a colon are ignored; what a line with - names is taken away. An empty text, or one of such lines
        alone, chooses all masks that the prompt list did not exclude. threshold: see `threshold_or`. ValueError for an unknown
        name.
        """
        chosen, removed = [], []
        for line in text.splitlines():
            if tidy(line):
                index, minus = self._named(line.strip())
                (removed if minus else chosen).append(index)
        if not chosen:
            chosen = [i for i, name in enumerate(self.names) if name not in self.excluded]
            removed += [i for i, name in enumerate(self.names) if name in self.excluded]
        return Choice(self, tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(removed)), self.threshold_or(threshold))

    def _named(self, line: str) -> tuple[int, bool]:
        """(position, whether it is to be taken away) of the mask that a line names; a name as it stands goes first."""
        if line in self.names:
            return self.names.index(line), False
        prompt = parse_line(line)
        return self.index_of(prompt.name), prompt.excluded


@dataclass(frozen=True)
class Choice:
    """Some masks of a Masks, and those that are taken away from them, by their positions.

    threshold: in (0,1], where a soft mask becomes a hard one.
    """

    found: Masks
    chosen: tuple[int, ...]
    removed: tuple[int, ...]
    threshold: float

    def names(self) -> tuple[str, ...]:
        """Labels of the chosen masks."""
        return tuple(self.found.names[i] for i in self.chosen)

    def mask(self, index: int, mode: str) -> Tensor:
        """The mask number `index` without what is taken away: [B,H,W], mode "soft" or "hard"."""
        return self._left(self.found.soft[:, index], mode)

    def united(self, mode: str) -> Tensor:
        """All chosen masks together, without what is taken away: [B,H,W], mode "soft" or "hard"."""
        return self._left(union(self.found.soft[:, list(self.chosen)]), mode)

    def _left(self, soft: Tensor, mode: str) -> Tensor:
        check_choice("mode", mode, MODES)
        removed = union(self.found.soft[:, list(self.removed)])
        if mode == "soft":
            return subtract(soft, removed)
        return subtract(harden(soft, self.threshold), harden(removed, self.threshold))


def subtract(mask: Tensor, removed: Tensor) -> Tensor:
    """What is left of a mask: mask - removed, at least 0, as ComfyUI's MaskComposite does. Of hard masks: set difference."""
    return (mask - removed).clamp(min=0.0)


def soft_mask(decoded: Tensor) -> Tensor:
    """Mean over the three channels of D(z_s), mapped from [-1,1] to [0,1] and clamped (3.7): [N,3,H,W] → [N,H,W]."""
    return (decoded.float().mean(1) * 0.5 + 0.5).clamp(0.0, 1.0)


def harden(soft: Tensor, threshold: float = 0.5) -> Tensor:
    """Exactly 0 or 1: 1 where soft > threshold (3.7). Any shape, float32."""
    return (soft > threshold).float()


def union(soft: Tensor) -> Tensor:
    """One mask for all prompts: per-pixel maximum over K. [B,K,H,W] → [B,H,W]; zeros for K = 0."""
    return soft.amax(1) if soft.shape[1] else soft.new_zeros(soft.shape[0], *soft.shape[2:])


def pick(found: Masks, names: str, mode: str, threshold: float) -> Tensor:
    """The union of the named masks (see `Masks.choose`), mode "soft" or "hard": [B,H,W].

    threshold: 0 for the checkpoint's. ValueError for an unknown name or mode.
    """
    return found.choose(names, threshold).united(mode)


def fill_empty(mask: Tensor, hard: Tensor, if_empty: str) -> Tensor:
    """A mask [B,H,W] whose frames without anything in `hard` [B,H,W] are selected as a whole, if that is what is wanted."""
    check_choice("if_empty", if_empty, IF_EMPTY)
    if if_empty != WHOLE_PICTURE:
        return mask
    return torch.where(hard.flatten(1).any(1)[:, None, None], mask, 1.0)


def empty_note(hard: Tensor, if_empty: str) -> str:
    """What to tell the user when nothing is selected in any frame of `hard` [B,H,W]; else an empty text."""
    if hard.any():
        return ""
    did = {WHOLE_PICTURE: ": the whole picture is selected", SKIP: ": what hangs behind is skipped"}
    return "nothing found" + did.get(if_empty, "")


EMPTY_SIDE = 64
"""Side in pixels of the mask that ComfyUI's Load Image gives for a photo without transparency."""


def as_frames(mask: Tensor, name: str) -> Tensor:
    """A MASK as nodes pass it, [H,W], [B,H,W] or [B,1,H,W], as [B,H,W]; ValueError naming it when it is none or empty."""
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} is a {type(mask).__name__}; a MASK [frames, height, width] is expected.")
    shape = tuple(mask.shape)
    if mask.ndim == 4 and shape[1] == 1:
        mask = mask[:, 0]  # [B,1,H,W] → [B,H,W]
    elif mask.ndim == 2:
        mask = mask[None]  # [H,W] → [1,H,W]
    if mask.ndim != 3:
        raise ValueError(f"{name} has the shape {shape}; a MASK is [frames, height, width].")
    if not mask.numel():
        raise ValueError(f"{name} holds no mask at all, its shape is {shape}: the node it comes from found nothing.")
    mask = mask.float() if mask.dtype == torch.bool else mask
    check_numbers(name, mask, "numbers from 0 to 1 are expected")
    return mask


def as_masks(masks: Masks | None, mask: Tensor | None, image: Tensor | None) -> Masks:
    """Masks as they are, or any MASK (see `as_frames`) as the soft mask of one prompt named "object".

    image: the photo [B,H,W,C] in [0,1] behind the MASK, one frame for all of them or as many; None for black. ValueError
    unless exactly one of the two is given and the photo has the mask's size.
    """
    if (masks is None) == (mask is None):
        raise ValueError(f"{'Neither' if mask is None else 'Both'} masks and mask are connected; connect one of the two.")
    if masks is not None:
        return masks
    soft = as_frames(mask, "mask").float().cpu().clamp(0.0, 1.0)  # [B,H,W]
    photo = torch.zeros(*soft.shape, 3) if image is None else image[..., :3].float().cpu()
    if photo.shape[1:3] != soft.shape[1:] or len(photo) not in (1, len(soft)):
        raise ValueError(
            f"The image is {_size_of(photo)} and the mask {_size_of(soft)} (frames x height x width); connect the photo that "
            f"the mask belongs to.{_why_so_small(soft, photo, ('mask', 'image'))}"
        )
    return Masks(soft.unsqueeze(1), ("object",), photo.expand(len(soft), -1, -1, 3))


def of_photo(masks: Masks | None, mask: Tensor | None, image: Tensor, name: str) -> Masks:
    """DIGSEG_MASKS, or any MASK under a name of its own (see `as_masks`), with this photo [B,H,W,C] behind them.

    ValueError when the photo has another size or number of frames, or the MASK no name.
    """
    if masks is None:
        label = " ".join(name.split())
        if not label:
            raise ValueError("class_name is empty; write what the mask shows, as you will ask for it.")
        found = replace(as_masks(masks, mask, image), names=(label,))
    else:
        found = as_masks(masks, mask, image)
    photo = image[..., :3].float().cpu().expand(-1, -1, -1, 3)
    if photo.shape[:3] != (len(found.soft), *found.soft.shape[2:]):
        raise ValueError(
            f"The image is {_size_of(photo)} and its masks are {_size_of(found.soft[:, 0])} (frames x height x width); "
            "connect the photo that the masks belong to."
        )
    return replace(found, image=photo)


def _size_of(frames: Tensor) -> str:
    return " x ".join(map(str, frames.shape[:3]))


def same_size(first: Tensor, second: Tensor, names: tuple[str, str] = ("prediction", "truth")) -> tuple[Tensor, Tensor]:
    """Two MASKs (see `as_frames`) as [B,H,W] of one size, a single frame repeated; a mismatch raises with both shapes."""
    first, second = (as_frames(mask, name) for mask, name in zip((first, second), names, strict=True))
    if first.shape[1:] != second.shape[1:]:
        found = " and ".join(f"{name} is {m.shape[1]} x {m.shape[2]}" for m, name in zip((first, second), names, strict=True))
        raise ValueError(f"The masks differ in size: {found} (height x width).{_why_so_small(first, second, names)}")
    if 1 < len(first) != len(second) > 1:
        raise ValueError(
            f"{names[0]} has {len(first)} frames and {names[1]} {len(second)}; give both as many, or one of them a single frame."
        )
    frames = max(len(first), len(second))
    return first.expand(frames, -1, -1), second.expand(frames, -1, -1)


def _why_so_small(first: Tensor, second: Tensor, names: tuple[str, str]) -> str:
    for mask, name in zip((first, second), names, strict=True):
        if mask.shape[1:] == (EMPTY_SIDE, EMPTY_SIDE) and not mask.any():
            return (
                f" {name} looks like the MASK of Load Image for a photo without transparency: {EMPTY_SIDE} x {EMPTY_SIDE} "
                "zeros. Load a mask with Load Image (as Mask)."
            )
    return " Compare masks of the same image, or resize one of them."


def semantic_map(soft: Tensor, thresholds: Tensor) -> Tensor:
    """Class ids by per-pixel arg-max over the prompts (3.1): [B,K,H,W] → [B,H,W] int64, 0 background, k+1 for prompt k.

    thresholds: [K] in [0,1]; a class competes only where its soft mask is above its own τ.
    """
    allowed = soft > thresholds.to(soft).view(1, -1, 1, 1)
    best, index = torch.where(allowed, soft, soft.new_full((), -1.0)).max(1)
    return torch.where(best >= 0, index + 1, 0)


def outline(hard: Tensor, width: int = 1, border: bool = False) -> Tensor:
    """The inner contour of hard masks [N,H,W]: 1 within `width` pixels of what is not selected, else 0.

    border: what lies beyond the picture counts as not selected.
    """
    outside = F.pad(1.0 - hard.float().unsqueeze(1), (width,) * 4, value=float(border))  # [N,1,H+2w,W+2w]
    near = F.max_pool2d(F.max_pool2d(outside, (1, 2 * width + 1), 1), (2 * width + 1, 1), 1).squeeze(1)
    return hard * near


def overlay(image: Tensor, hard: Iterable[Tensor], colours: Tensor, opacity: float = 0.55) -> Tensor:
    """Masks painted over a photo: tinted inside, with a solid contour; the rest stays as it is.

    image [B,H,W,3] in [0,1]; hard: K masks [B,H,W] in {0,1}, looked at one by one; colours [K,3] in [0,1]. Returns [B,H,W,3]
    in [0,1].
    """
    out = image.clone()
    width = max(1, round(min(image.shape[1:3]) / 256))
    for mask, colour in zip(hard, colours.to(image), strict=True):
        if mask.any():
            out = out + mask.unsqueeze(-1) * opacity * (colour - out)  # [B,H,W,1] * [3]
            out = out + outline(mask, width).unsqueeze(-1) * (colour - out)
    return out.clamp(0.0, 1.0)
