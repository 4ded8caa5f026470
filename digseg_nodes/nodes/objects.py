"""The separate things in masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import host
from ..core import masks as mask_ops
from ..core import objects
from ..core.notes import with_words
from ..core.object_picture import draw_objects
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.masks import Masks


class DiGSegSplitObjects(io.ComfyNode):
    """Masks → the separate things in them, as masks, boxes and segments."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSplitObjects",
            search_aliases=["count objects", "bounding box", "instances", "connected components", "segs", "crop"],
            advanced=["largest", "fill_holes", "close_gaps", "connectivity", "padding", "crop_factor"],
            has_intermediate_output=True,
            display_name="DiGSeg Split Objects",
            category=CATEGORY,
            is_output_node=True,
            description="Splits masks into separate objects, one for every connected part: counts them, sorts them, and gives "
            "them as masks, boxes and segments.",
            inputs=_inputs(),
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        names: str,
        threshold: float,
        smallest: float,
        largest: float,
        fill_holes: float,
        close_gaps: int,
        connectivity: str,
        sort: str,
        keep: int,
        number: int,
        padding: int,
        crop_factor: float,
        masks: Masks | None = None,
        mask: Tensor | None = None,
        image: Tensor | None = None,
        if_empty: str = mask_ops.EMPTY_MASK,
    ) -> io.NodeOutput:
        settings = objects.ObjectSettings(smallest, largest, fill_holes, close_gaps, connectivity, sort, keep, number)
        found = mask_ops.as_masks(masks, mask, image)
        size, frames = tuple(found.image.shape[1:3]), len(found.image)
        parts = objects.split_objects(found.choose(names, threshold), settings)
        overlay = draw_objects(found.image, parts, padding)
        facts = objects.table(parts, size, padding), len(parts)
        if parts:
            return io.NodeOutput(*_given(parts, size, frames, padding, crop_factor), overlay, *facts, ui=_preview(cls, overlay))
        shown = _preview(cls, with_words(overlay, mask_ops.empty_note(objects.object_masks(parts, size), if_empty)))
        instead = objects.in_place_of_nothing(size, frames, if_empty)
        if instead is None:
            skipped = host.skipped()
            return io.NodeOutput(skipped, [skipped], skipped, skipped, overlay, *facts, ui=shown)
        return io.NodeOutput(*_given(instead, size, frames, 0, crop_factor), overlay, *facts, ui=shown)


def _given(parts: list[objects.FoundObject], size: tuple[int, int], frames: int, padding: int, crop_factor: float) -> tuple:
    """Mask batch, mask list, boxes and SEGS of some objects."""
    batch = objects.object_masks(parts, size)
    boxes = objects.bounding_boxes((p for p in parts if p.pixels), frames, size, padding)
    return batch, list(batch.split(1)), boxes, objects.segs((p for p in parts if p.pixels), size, padding, crop_factor)


def _preview(cls: type, pictures: Tensor) -> ui.PreviewImage:
    return ui.PreviewImage(pictures, cls=cls)


def _share_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.0001, round=0.000001, tooltip=tooltip)


def _inputs() -> list:
    return [
        types.names_input(),
        types.threshold_input(),
        _share_input("smallest", 0.001, "Smaller parts are dropped: least area as a share of the picture (0 to 1)."),
        _share_input("largest", 1.0, "Larger parts are dropped: greatest area as a share of the picture (0 to 1)."),
        _share_input("fill_holes", 0.0, "Holes up to this area, as a share of the picture, are filled first (0 to 1; 0 none)."),
        io.Int.Input(
            "close_gaps",
            default=0,
            min=0,
            max=256,
            tooltip="Gaps up to this many pixels are bridged first, so that a thing cut in two stays one (0 to 256).",
        ),
        io.Combo.Input(
            "connectivity",
            options=list(objects.CONNECTIVITIES),
            default=objects.CONNECTIVITIES[0],
            tooltip="8: pixels that touch at a corner belong together. 4: only those that share a side.",
        ),
        io.Combo.Input(
            "sort",
            options=list(objects.SORTS),
            default=objects.SORTS[0],
            tooltip="Order of a prompt's objects in a frame: largest, surest, leftmost, topmost or nearest to the centre first.",
        ),
        io.Int.Input(
            "keep", default=0, min=0, max=10000, tooltip="Keep only the first so many of each prompt and frame (0: all of them)."
        ),
        io.Int.Input(
            "number",
            default=0,
            min=0,
            max=10000,
            tooltip="Give only this one of each prompt and frame: 1 is the first in the order chosen (0: all of them).",
        ),
        io.Int.Input("padding", default=0, min=0, max=4096, tooltip="Pixels that boxes reach beyond their objects (0 to 4096)."),
        io.Float.Input(
            "crop_factor",
            default=3.0,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="For SEGS: how wide and high the part is that a detailer works on, in boxes (1 to 100).",
        ),
        types.DigsegMasks.Input(
            "masks", optional=True, tooltip="Masks of DiGSeg Segment or DiGSeg Decode Masks. Or connect any MASK below."
        ),
        io.Mask.Input("mask", optional=True, tooltip="Any MASK instead, [frames, H, W]; its objects are called: object."),
        io.Image.Input("image", optional=True, tooltip="The photo to draw the objects of a MASK on; DiGSeg masks bring theirs."),
        types.if_empty_input(),
    ]


def _outputs() -> list:
    return [
        io.Mask.Output(
            display_name="objects",
            tooltip="One hard mask an object, [objects, H, W]: frame by frame, within a frame prompt by prompt, then as sorted.",
        ),
        io.Mask.Output(
            display_name="object list",
            is_output_list=True,
            tooltip="The same one by one, [1, H, W] each: what hangs here runs once for every object.",
        ),
        types.BoundingBox.Output(
            display_name="boxes",
            tooltip="Per frame a list of x, y, width, height (pixels), label and score, for core nodes.",
        ),
        types.Segs.Output(
            display_name="SEGS", tooltip="For Impact Pack: label is the prompt, confidence the mean of the soft mask inside."
        ),
        io.Image.Output(display_name="overlay", tooltip="The photo with every object tinted, boxed and numbered."),
        io.String.Output(
            display_name="table", tooltip="JSON: number, frame, label, score, share of the picture, x, y, width, height."
        ),
        io.Int.Output(display_name="count", tooltip="How many objects there are, in all frames and prompts. 0: none was found."),
    ]
