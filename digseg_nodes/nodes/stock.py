"""Bridges to ComfyUI's own samplers and to the demo's text-to-image model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import host
from ..core import inference
from ..core.latent_space import LATENT_CHANNELS
from . import types
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from ..core.encoded import EncodedImage
    from ..host import ModelPatcher


class DiGSegConditioning(io.ComfyNode):
    """CONDITIONING and DIGSEG_IMAGE → CONDITIONING and LATENT for KSampler or SamplerCustom."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegConditioning",
            search_aliases=["segmentation conditioning", "ksampler mask"],
            display_name="DiGSeg Conditioning",
            category=CATEGORY,
            description="Lets ComfyUI's own samplers draw masks: ties the photo to the text. Sample at cfg 1.0.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Of CLIP Text Encode: what to select."),
                types.DigsegImage.Input("image", tooltip="Of DiGSeg Encode Image."),
                io.String.Input("name", default="mask", tooltip="Label of the mask."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional: the MODEL, read only for its threshold, for how it draws masks and for its mask decoder; "
                    "without it the VAE decodes.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="For positive (and negative) of the sampler."),
                io.Latent.Output(display_name="latent", tooltip="Empty latent of the right size, for latent_image."),
            ],
        )

    @classmethod
    def execute(cls, conditioning: list, image: EncodedImage, name: str, model: ModelPatcher | None = None) -> io.NodeOutput:
        engine = None if model is None else host.HostEngine(model)
        return io.NodeOutput(host.attach_image(conditioning, image.latents), inference.empty_mask(image, name, engine))


class DiGSegSigmas(io.ComfyNode):
    """MODEL → SIGMAS, trailing."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegSigmas",
            search_aliases=["segmentation scheduler", "trailing"],
            display_name="DiGSeg Scheduler",
            category=CATEGORY,
            description="The noise levels a DiGSeg model visits (trailing spacing), for SamplerCustom.",
            inputs=[io.Model.Input("model", tooltip="MODEL of a DiGSeg loader."), types.steps_input()],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="steps + 1 noise levels, the last one 0.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, steps: int) -> io.NodeOutput:
        return io.NodeOutput(host.stock_sigmas(inference.SamplerSettings(steps=steps).schedule(host.config_of(model))))


class DiGSegBaseLoader(io.ComfyNode):
    """A text-to-image base in DiGSeg's file format → MODEL, CLIP, VAE."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegBaseLoader",
            search_aliases=["demo model"],
            display_name="Load DiGSeg Base",
            category=CATEGORY,
            description="Loads the tiny text-to-image model the demo checkpoint was trained from, for painting into masks. "
            "Real Stable Diffusion checkpoints are loaded with Load Checkpoint.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    **types.checkpoint_options("digseg-demo-base.safetensors"),
                    tooltip="A text-to-image model in ComfyUI/models/digseg, such as digseg-demo-base.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The text-to-image U-Net."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output(display_name="VAE", tooltip="Its VAE."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str) -> float | str:
        """Reload when the file changes."""
        return host.fingerprint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        opened = host.open_named(checkpoint, in_channels=LATENT_CHANNELS)
        return io.NodeOutput(host.load_model(opened), host.load_clip(opened), host.load_vae(opened))
