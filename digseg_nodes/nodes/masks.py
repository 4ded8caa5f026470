"""Nodes that take DIGSEG_MASKS apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..core import masks as mask_ops
from . import types
from .types import CATEGORY

if TYPE_CHECKING:
    from ..core.masks import Masks


class DiGSegPickMask(io.ComfyNode):
    """DIGSEG_MASKS and names → one MASK."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DiGSegPickMask",
            display_name="DiGSeg Pick Mask",
            category=CATEGORY,
            is_output_node=True,
            description="Picks the mask of one prompt, or the union of several, as a MASK for any other node.",
            inputs=[
                types.DigsegMasks.Input("masks", tooltip="Masks of DiGSeg Segment or DiGSeg Decode Masks."),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="Names as typed in the prompt, one a line; several are united. Empty: all of them.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["hard", "soft"],
                    default="hard",
                    tooltip="hard: exactly 0 or 1. soft: the model's own values from 0 to 1.",
                ),
                types.threshold_input(),
                io.Boolean.Input("invert", default=False, tooltip="Select everything else."),
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
    def execute(cls, masks: Masks, names: str, mode: str, threshold: float, invert: bool) -> io.NodeOutput:
        mask = mask_ops.pick(masks, names, mode, threshold)
        hard = mask if mode == "hard" else mask_ops.harden(mask, masks.threshold_or(threshold))
        if invert:
            mask, hard = 1.0 - mask, 1.0 - hard
        return io.NodeOutput(mask, float(hard.mean()), ui=ui.PreviewMask(mask, cls=cls))
