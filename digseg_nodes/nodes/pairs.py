"""From the graph to the trainer: photos and masks as a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import host
from ..core import masks as mask_ops
from ..core.draw import draw_overlay
from ..core.notes import with_words
from ..core.training_pairs import DATA_FILE, check_class_name, make_pairs, save_pairs
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.masks import Masks


class DiGSegSavePair(io.ComfyNode):
    """A photo and its mask → one more pair of a data set for training."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSavePair",
            search_aliases=["training data", "dataset", "fine-tune"],
            advanced=["threshold"],
            display_name="DiGSeg Save Training Pair",
            category=CATEGORY,
            is_output_node=True,
            description="Saves photos with their masks as a data set that train/finetune.py takes as it is, in ComfyUI's folder "
            "output/digseg-data. An empty mask teaches that the thing is not there.",
            inputs=[
                io.Image.Input("image", tooltip="One photo or a batch of frames; every frame becomes a pair."),
                io.String.Input(
                    "class_name",
                    default="",
                    multiline=True,
                    tooltip="What the mask shows, as you will ask for it. With DiGSeg masks: which of their names to save, one a "
                    "line; empty saves all of them.",
                ),
                io.String.Input(
                    "data_set",
                    default="my-data",
                    tooltip="Name of the data set: its folder in ComfyUI/output/digseg-data. Pairs are added to what is there.",
                ),
                types.threshold_input(),
                io.Mask.Input("mask", optional=True, tooltip="The mask of the class, as large as the photo; empty: not there."),
                types.DigsegMasks.Input("masks", optional=True, tooltip="DiGSeg masks instead, each under its own name."),
                io.String.Input(
                    "pair_id",
                    default="",
                    optional=True,
                    tooltip="Empty: a photo gets an id of its own, and nothing that is there is overwritten. The id of a saved "
                    "pair: its mask is replaced. Any other: the pair gets this name.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="data file", tooltip="The data.yaml to train with, as a path."),
                io.String.Output(display_name="ids", tooltip="Ids of the pairs saved, one a line: the names of their files."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        class_name: str,
        data_set: str,
        threshold: float,
        mask: Tensor | None = None,
        masks: Masks | None = None,
        pair_id: str = "",
    ) -> io.NodeOutput:
        if masks is None:
            check_class_name(class_name)
        found = mask_ops.of_photo(masks, mask, image, class_name)
        choice = found.choose(class_name if masks is not None else "", threshold)
        hard = {found.names[index]: choice.mask(index, "hard") for index in choice.chosen}
        folder = host.data_set_folder(data_set)
        ids = save_pairs(folder, make_pairs(found.image, hard), pair_id)
        shown = with_words(draw_overlay(found.select(list(choice.chosen)), threshold), f"saved in {folder.name}")
        return io.NodeOutput(str(folder / DATA_FILE), "\n".join(ids), ui=ui.PreviewImage(shown, cls=cls))
