"""Nodes that measure and show masks: semantic map, uncertainty, comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io, ui

from .. import host
from ..core import draw, label_maps, metrics
from ..core import masks as mask_ops
from ..core.file_names import check_prefix
from ..core.prompts import parse_thresholds
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.masks import Masks


class DiGSegSemanticMap(io.ComfyNode):
    """DIGSEG_MASKS → every pixel's class, coloured over the photo with a legend."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSemanticMap",
            search_aliases=["semantic segmentation", "label map", "class map"],
            advanced=["class_thresholds", "save_prefix"],
            display_name="DiGSeg Semantic Map",
            category=CATEGORY,
            is_output_node=True,
            description="Gives every pixel to the class whose mask is strongest there; background where none is above its "
            "threshold.",
            inputs=[
                types.DigsegMasks.Input("masks", tooltip="Masks of DiGSeg Segment or DiGSeg Decode Masks."),
                types.threshold_input(),
                io.String.Input(
                    "class_thresholds",
                    default="",
                    multiline=True,
                    tooltip="Own thresholds for some classes, one a line, 0 to 1: person: 0.4",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly the colours cover the photo: 0 outlines alone, 1 completely.",
                ),
                io.Boolean.Input("legend", default=True, tooltip="Draw the classes found, with their share of the picture."),
                io.String.Input(
                    "save_prefix",
                    default="",
                    tooltip="Empty: nothing is saved. Otherwise palette PNGs of the class ids and a classes.txt "
                    "are written to ComfyUI's output folder under this name, ready for training.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="map", tooltip="The photo with coloured classes and the legend."),
                io.Image.Output(display_name="ids", tooltip="Class ids as grey levels: 0 background, 1 the first class ..."),
                io.String.Output(display_name="table", tooltip="Id, class, share of the pixels, as tab-separated lines."),
            ],
        )

    @classmethod
    def execute(
        cls, masks: Masks, threshold: float, class_thresholds: str, opacity: float, legend: bool, save_prefix: str
    ) -> io.NodeOutput:
        check_prefix(save_prefix)
        limits = parse_thresholds(class_thresholds, masks.names, masks.threshold_or(threshold))
        ids = mask_ops.semantic_map(masks.soft, torch.tensor(limits))
        shares = [float((ids == k + 1).float().mean()) for k in range(len(masks.names))]
        picture = label_maps.draw_map(masks, ids, shares, opacity, legend)
        if save_prefix:
            host.save_label_maps(ids, masks.names, save_prefix)
        lines = [f"{k + 1}\t{name}\t{100 * share:.2f} %" for k, (name, share) in enumerate(zip(masks.names, shares, strict=True))]
        return io.NodeOutput(picture, label_maps.grey_ids(ids), "\n".join(lines), ui=ui.PreviewImage(picture, cls=cls))


class DiGSegUncertainty(io.ComfyNode):
    """DIGSEG_MASKS → where the model is unsure."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegUncertainty",
            search_aliases=["confidence", "entropy", "heat map"],
            display_name="DiGSeg Uncertainty",
            category=CATEGORY,
            is_output_node=True,
            description="Shows where the ensemble's masks disagree (standard deviation per pixel). Without an ensemble, "
            "shows where the soft mask itself is undecided: sqrt(m (1 - m)), the same unit.",
            inputs=[
                types.DigsegMasks.Input(
                    "masks",
                    tooltip="Masks made with uncertainty on and an ensemble of 2 or more, or mirror; others "
                    "give the estimate from the soft mask.",
                ),
                io.String.Input("name", default="", tooltip="Which prompt's mask. Empty: the most uncertain at every pixel."),
                io.Float.Input(
                    "opacity",
                    default=0.75,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly the heat map covers the photo: 0 not at all, 1 completely.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="heat map", tooltip="The photo under a heat map: dark is sure, bright is unsure."),
                io.Mask.Output(
                    display_name="uncertainty",
                    tooltip="0 sure to 1 as unsure as can be (twice the standard deviation), [frames, H, W].",
                ),
            ],
        )

    @classmethod
    def execute(cls, masks: Masks, name: str, opacity: float) -> io.NodeOutput:
        chosen = masks.select([masks.index_of(name)]) if name.strip() else masks
        spread = chosen.spread if chosen.spread is not None else (chosen.soft * (1 - chosen.soft)).sqrt()
        unsure = (2 * mask_ops.union(spread)).clamp(0, 1)
        grey = chosen.image.mean(-1, keepdim=True) * 0.8
        picture = grey * (1 - opacity) + draw.heat(unsure) * opacity
        return io.NodeOutput(picture, unsure, ui=ui.PreviewImage(picture, cls=cls))


class DiGSegCompareMasks(io.ComfyNode):
    """Two MASKs → how well they agree."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegCompareMasks",
            search_aliases=["iou", "dice", "mask difference", "evaluate mask"],
            advanced=["tolerance"],
            display_name="DiGSeg Compare Masks",
            category=CATEGORY,
            is_output_node=True,
            description="Scores a mask against the truth, and shows how the score depends on the threshold (the paper's Fig. 2).",
            inputs=[
                io.Mask.Input("prediction", tooltip="The mask to judge, soft or hard, [frames, H, W]."),
                io.Mask.Input("truth", tooltip="What it should be, same size; one frame is compared with all."),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the prediction becomes hard (0 to 1). The truth is always cut at 0.5.",
                ),
                io.Int.Input(
                    "tolerance",
                    default=2,
                    min=1,
                    max=64,
                    tooltip="Pixels a contour may be off for the boundary F-score (1 to 64).",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="IoU", tooltip="Intersection over union, 0 to 1, mean over the frames."),
                io.Float.Output(display_name="Dice", tooltip="F1 score over pixels, 0 to 1."),
                io.Float.Output(display_name="precision", tooltip="Share of the selected pixels that are right."),
                io.Float.Output(display_name="recall", tooltip="Share of the right pixels that are selected."),
                io.Float.Output(display_name="boundary F", tooltip="F-score of the contours within the tolerance."),
                io.Image.Output(display_name="difference", tooltip="White: agreed. Orange: too much. Blue: missed."),
                io.Image.Output(display_name="threshold sweep", tooltip="IoU and Dice over the threshold."),
            ],
        )

    @classmethod
    def execute(cls, prediction: Tensor, truth: Tensor, threshold: float, tolerance: int) -> io.NodeOutput:
        prediction, truth = mask_ops.same_size(prediction, truth)
        hard, true = mask_ops.harden(prediction, threshold), mask_ops.harden(truth, 0.5)
        scores = [float(f(hard, true).mean()) for f in (metrics.iou, metrics.dice, metrics.precision, metrics.recall)]
        scores.append(float(metrics.boundary_f(hard, true, tolerance).mean()))
        picture, sweep = draw.difference(hard, true), draw.sweep_plot(prediction, true, threshold)
        return io.NodeOutput(*scores, picture, sweep, ui=ui.PreviewImage(picture, cls=cls))
