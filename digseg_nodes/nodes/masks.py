"""Nodes that take DIGSEG_MASKS apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io, ui

from .. import host
from ..core import masks as mask_ops
from ..core.notes import with_words
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from ..core.masks import Masks


class DiGSegPickMask(io.ComfyNode):
    """DIGSEG_MASKS and names → one MASK."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegPickMask",
            search_aliases=["choose mask", "union of masks", "subtract mask", "inpaint mask"],
            has_intermediate_output=True,
            display_name="DiGSeg Pick Mask",
            category=CATEGORY,
            is_output_node=True,
            description="Picks the mask of one prompt, or the union of several, as a MASK for any other node.",
            inputs=[
                types.DigsegMasks.Input("masks", tooltip="Masks of DiGSeg Segment or DiGSeg Decode Masks."),
                types.names_input(),
                types.mode_input(),
                types.threshold_input(),
                io.Boolean.Input("invert", default=False, tooltip="Select everything else."),
                types.if_empty_input(),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="[frames, H, W], the size of the photo."),
                io.Float.Output(
                    display_name="coverage",
                    tooltip="Share of pixels selected, 0 to 1, mean over the frames. 0 means nothing was found.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, masks: Masks, names: str, mode: str, threshold: float, invert: bool, if_empty: str = mask_ops.EMPTY_MASK
    ) -> io.NodeOutput:
        mask = mask_ops.pick(masks, names, mode, threshold)
        hard = mask if mode == "hard" else mask_ops.pick(masks, names, "hard", threshold)
        if invert:
            mask, hard = 1.0 - mask, 1.0 - hard
        mask = mask_ops.fill_empty(mask, hard, if_empty)
        shown = mask.unsqueeze(-1).expand(-1, -1, -1, 3)
        if note := mask_ops.empty_note(hard, if_empty):
            shown = with_words(shown, note)
        skips = if_empty == mask_ops.SKIP and note
        return io.NodeOutput(host.skipped() if skips else mask, float(hard.mean()), ui=ui.PreviewImage(shown, cls=cls))


class DiGSegListMasks(io.ComfyNode):
    """DIGSEG_MASKS → every prompt's mask by itself, as a batch and as a list with names."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegListMasks",
            search_aliases=["mask batch", "mask list", "masks by name"],
            advanced=["frame"],
            display_name="DiGSeg List Masks",
            category=CATEGORY,
            description="Gives the masks of all prompts one by one: as a batch, and as a list, for nodes that then run once for "
            "every mask.",
            inputs=[
                types.DigsegMasks.Input("masks", tooltip="Masks of DiGSeg Segment or DiGSeg Decode Masks."),
                types.names_input(),
                types.mode_input(),
                types.threshold_input(),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=0,
                    max=99999,
                    tooltip="Whose masks the batch holds, 0 for the first frame; past the end, the last one.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="batch", tooltip="One mask a prompt of a single frame, [prompts, H, W]."),
                io.Mask.Output(
                    display_name="list",
                    is_output_list=True,
                    tooltip="One mask a prompt, each with all frames, [frames, H, W]. What hangs here runs once a prompt.",
                ),
                io.String.Output(display_name="name list", is_output_list=True, tooltip="The prompts' names, in the same order."),
            ],
        )

    @classmethod
    def execute(cls, masks: Masks, names: str, mode: str, threshold: float, frame: int) -> io.NodeOutput:
        choice = masks.choose(names, threshold)
        every = [choice.mask(index, mode) for index in choice.chosen]
        batch = torch.stack([mask[min(frame, len(mask) - 1)] for mask in every])
        return io.NodeOutput(batch, every, list(choice.names()))
