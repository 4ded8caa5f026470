"""Loading nodes: a DiGSeg checkpoint as MODEL, CLIP and VAE."""

from comfy_api.latest import io

from .. import host
from .schema import schema
from .types import CATEGORY, checkpoint_options, mask_target_input


class DiGSegCheckpointLoader(io.ComfyNode):
    """A DiGSeg checkpoint with everything in it → MODEL, CLIP, VAE."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegCheckpointLoader",
            search_aliases=["load segmentation model", "text to mask"],
            advanced=["mask_target"],
            display_name="Load DiGSeg Checkpoint",
            category=CATEGORY,
            description="Loads a DiGSeg checkpoint: the segmentation U-Net with its text encoder and VAE.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    **checkpoint_options(),
                    tooltip="A .safetensors file (or a diffusers folder) in ComfyUI/models/digseg. The demo models come "
                    "with the pack.",
                ),
                mask_target_input(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The segmentation U-Net."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder the U-Net was trained with."),
                io.Vae.Output(display_name="VAE", tooltip="The VAE the U-Net was trained with."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, mask_target: str = "auto") -> tuple:
        """Reload when the file changes, as it does while its owner trains it."""
        return (host.fingerprint(checkpoint), mask_target)

    @classmethod
    def execute(cls, checkpoint: str, mask_target: str = "auto") -> io.NodeOutput:
        opened = host.open_named(checkpoint, mask_target=mask_target)
        return io.NodeOutput(host.load_model(opened), host.load_clip(opened), host.load_vae(opened))


class DiGSegUNETLoader(io.ComfyNode):
    """Only the U-Net of a checkpoint → MODEL, in a chosen precision."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DiGSegUNETLoader",
            search_aliases=["load segmentation unet"],
            advanced=["mask_target"],
            display_name="Load DiGSeg U-Net",
            category=CATEGORY,
            description="Loads only the segmentation U-Net; CLIP and VAE come from the Stable Diffusion checkpoint it was "
            "trained from (Load Checkpoint).",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    **checkpoint_options(),
                    tooltip="A .safetensors file (or a diffusers folder) in ComfyUI/models/digseg.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(host.WEIGHT_DTYPES),
                    default="default",
                    tooltip="Precision the weights are stored in. default follows the file and ComfyUI's own "
                    "rules; fp8 halves the memory of fp16 and changes a few mask pixels.",
                ),
                mask_target_input(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The segmentation U-Net.")],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, weight_dtype: str, mask_target: str = "auto") -> tuple:
        """Reload when the file or the precision changes."""
        return (host.fingerprint(checkpoint), weight_dtype, mask_target)

    @classmethod
    def execute(cls, checkpoint: str, weight_dtype: str, mask_target: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(host.load_model(host.open_named(checkpoint, mask_target=mask_target), weight_dtype))
