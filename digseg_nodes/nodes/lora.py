"""A LoRA on a DiGSeg model: every tensor of the file, or an error that names what does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .. import host
from .schema import schema
from .types import CATEGORY

if TYPE_CHECKING:
    from ..host import ModelPatcher


class DiGSegLoraLoader(io.ComfyNode):
    """A DiGSeg MODEL and a LoRA file → the MODEL with the LoRA."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegLoraLoader",
            search_aliases=["segmentation lora"],
            display_name="Load DiGSeg LoRA",
            category=CATEGORY,
            description="Applies a LoRA to a DiGSeg model: kohya, peft, diffusers and old attention-processor files. All of "
            "its layers apply, or the error names those that do not.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of a DiGSeg loader."),
                io.Combo.Input("lora", options=host.lora_names(), tooltip="A .safetensors file in ComfyUI/models/loras."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How strongly the LoRA acts (-10 to 10): 1 as trained, 0 not at all.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The segmentation U-Net with the LoRA.")],
        )

    @classmethod
    def fingerprint_inputs(cls, model: ModelPatcher, lora: str, strength: float) -> tuple:
        """Apply again when the file changes."""
        return (host.lora_fingerprint(lora), strength)

    @classmethod
    def execute(cls, model: ModelPatcher, lora: str, strength: float) -> io.NodeOutput:
        host.config_of(model)
        return io.NodeOutput(host.apply_lora(model, host.lora_path(lora), strength))
