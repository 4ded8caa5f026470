"""DiGSeg Segment taken apart, so that a change of one input repeats only the work behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import host
from ..core import inference
from ..core.prompts import PRESETS, note_on_separators, parse_prompts, preset_text
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.encoded import EncodedImage, EncodedPrompts, MaskLatent
    from ..host import CLIP, VAE, ModelPatcher, Sampler

NO_PRESET = "none"


class DiGSegPrompts(io.ComfyNode):
    """CLIP and text → DIGSEG_PROMPTS."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegPrompts",
            search_aliases=["segmentation prompt", "class list"],
            display_name="DiGSeg Text Prompts",
            category=CATEGORY,
            description="Encodes what to select: one class a line, or the class list of a public data set.",
            inputs=[
                io.Clip.Input("clip", tooltip="CLIP of the DiGSeg checkpoint, or of the Stable Diffusion it was made from."),
                types.text_input(),
                io.Combo.Input(
                    "preset",
                    options=[NO_PRESET, *PRESETS],
                    default=NO_PRESET,
                    tooltip="A data set's class list, added to the text. With a preset the text may be empty.",
                ),
            ],
            outputs=[types.DigsegPrompts.Output(display_name="prompts", tooltip="Encoded classes with their names.")],
        )

    @classmethod
    def execute(cls, clip: CLIP, text: str, preset: str) -> io.NodeOutput:
        listed = "" if preset == NO_PRESET else preset_text(preset)
        prompts = parse_prompts(f"{text}\n{listed}")
        if note := note_on_separators(prompts):
            logging.warning("DiGSeg Text Prompts: %s.", note)
        return io.NodeOutput(inference.encode_prompts(host.HostEngine(clip=clip), prompts))


class DiGSegEncodeImage(io.ComfyNode):
    """VAE and IMAGE → DIGSEG_IMAGE."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegEncodeImage",
            search_aliases=["segmentation image"],
            advanced=["tile", "mirror"],
            display_name="DiGSeg Encode Image",
            category=CATEGORY,
            description="Encodes photos once, to be asked about many times.",
            inputs=[
                io.Vae.Input("vae", tooltip="VAE of the DiGSeg checkpoint, or of the Stable Diffusion it was made from."),
                io.Image.Input("image", tooltip="One photo or a batch of frames, any size."),
                types.resolution_input(),
                types.tile_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional: the MODEL, read only for its training resolution when resolution is 0. "
                    "Without it, 0 means the VAE's checkpoint's resolution, or 512.",
                ),
                types.mirror_input(),
            ],
            outputs=[types.DigsegImage.Output(display_name="image", tooltip="Latents, and the way back to the photo's pixels.")],
        )

    @classmethod
    def execute(
        cls, vae: VAE, image: Tensor, resolution: int, tile: int, model: ModelPatcher | None = None, mirror: bool = False
    ) -> io.NodeOutput:
        engine = host.HostEngine(vae=vae, resolution_from=model)
        return io.NodeOutput(inference.encode_image(engine, image, inference.ImageSettings(resolution, tile, mirror)))


class DiGSegSampler(io.ComfyNode):
    """MODEL, DIGSEG_PROMPTS and DIGSEG_IMAGE → LATENT of masks."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSampler",
            search_aliases=["segmentation sampler"],
            advanced=["seed", "ensemble"],
            display_name="DiGSeg Sampler",
            category=CATEGORY,
            description="Draws one mask latent per frame and prompt with deterministic DDIM.",
            inputs=[
                io.Model.Input("model", tooltip="MODEL of Load DiGSeg Checkpoint or Load DiGSeg U-Net."),
                types.DigsegPrompts.Input("prompts", tooltip="Of DiGSeg Text Prompts."),
                types.DigsegImage.Input("image", tooltip="Of DiGSeg Encode Image."),
                types.seed_input(),
                types.steps_input(),
                types.ensemble_input(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Optional: noise levels to visit instead of the checkpoint's trailing schedule.",
                ),
                io.Sampler.Input("sampler", optional=True, tooltip="Optional: a sampler to use instead of DDIM."),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="masks",
                    tooltip="Mask latents, frame by frame, within a frame prompt by prompt. For DiGSeg Decode Masks.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        prompts: EncodedPrompts,
        image: EncodedImage,
        seed: int,
        steps: int,
        ensemble: int,
        sigmas: Tensor | None = None,
        sampler: Sampler | None = None,
    ) -> io.NodeOutput:
        settings = inference.SamplerSettings(seed, steps, ensemble, sigmas, sampler)
        return io.NodeOutput(inference.sample_masks(host.HostEngine(model), prompts, image, settings))


class DiGSegDecodeMasks(io.ComfyNode):
    """VAE and LATENT of masks → DIGSEG_MASKS."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegDecodeMasks",
            search_aliases=["segmentation decode"],
            advanced=["uncertainty", "decoder"],
            display_name="DiGSeg Decode Masks",
            category=CATEGORY,
            description="Turns mask latents into soft masks on the photo's own pixels.",
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that encoded the image; the guided decoder does without it."),
                io.Latent.Input("masks", tooltip="Of DiGSeg Sampler, or of a stock sampler behind DiGSeg Conditioning."),
                types.uncertainty_input(),
                types.decoder_input(),
            ],
            outputs=[types.DigsegMasks.Output(display_name="masks", tooltip="Soft masks of all prompts, kept apart.")],
        )

    @classmethod
    def execute(cls, vae: VAE, masks: MaskLatent, uncertainty: bool, decoder: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(inference.decode_masks(host.HostEngine(vae=vae), masks, uncertainty, decoder=decoder))
