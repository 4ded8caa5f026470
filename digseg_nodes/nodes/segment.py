"""Photo and text to masks, all in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import host
from ..core import inference, masks
from ..core.draw import draw_overlay, to_picture
from ..core.notes import told
from ..core.prompts import note_on_separators, parse_prompts
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..host import CLIP, VAE, ModelPatcher


class DiGSegSegment(io.ComfyNode):
    """Photo and text → masks, in one node."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSegment",
            search_aliases=[
                "segment",
                "text to mask",
                "semantic segmentation",
                "inpaint mask",
                "matting",
                "sam",
                "clipseg",
                "grounding",
            ],
            advanced=["seed", "steps", "ensemble", "resolution", "tile", "uncertainty", "mirror", "decoder"],
            essentials_category="Image Tools",
            display_name="DiGSeg Segment",
            category=CATEGORY,
            is_output_node=True,
            description="Type what you want to select, one thing a line, and get its mask. Something that is not in the "
            "picture gives an empty mask.",
            inputs=[
                io.Model.Input("model", tooltip="MODEL of Load DiGSeg Checkpoint or Load DiGSeg U-Net."),
                io.Clip.Input("clip", tooltip="CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
                io.Image.Input("image", tooltip="One photo or a batch of frames, any size."),
                types.text_input(),
                types.seed_input(),
                types.steps_input(),
                types.ensemble_input(),
                types.threshold_input(),
                types.resolution_input(),
                types.tile_input(),
                types.uncertainty_input(),
                types.mirror_input(),
                types.decoder_input(),
            ],
            outputs=[
                types.DigsegMasks.Output(display_name="masks", tooltip="Soft masks of all prompts, kept apart."),
                io.Mask.Output(display_name="union", tooltip="One hard 0/1 mask of all prompts together, [frames, H, W]."),
                io.Image.Output(display_name="overlay", tooltip="The photo with every mask in its own colour."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        image: Tensor,
        text: str,
        seed: int,
        steps: int,
        ensemble: int,
        threshold: float,
        resolution: int,
        tile: int,
        uncertainty: bool,
        mirror: bool = False,
        decoder: str = "auto",
    ) -> io.NodeOutput:
        engine, prompts = host.HostEngine(model, clip, vae), parse_prompts(text)
        settings, look = inference.SamplerSettings(seed, steps, ensemble), inference.ImageSettings(resolution, tile, mirror)
        inference.check_image(image, look)
        work = inference.segment_workload(engine.config, image, prompts, settings, look, uncertainty)
        progress = engine.progress(work.total)
        found = inference.segment(engine, image, prompts, settings, look, uncertainty, progress, decoder)
        overlay = draw_overlay(found, threshold)
        progress.advance(0, to_picture(overlay[0]))  # a node keeps showing its last preview
        united = masks.pick(found, "", "hard", threshold)
        shown = told(overlay, note_on_separators(prompts))
        return io.NodeOutput(found, united, overlay, ui=ui.PreviewImage(shown, cls=cls))
