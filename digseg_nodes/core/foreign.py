"""Says what a file is that is not a DiGSeg checkpoint, from its tensor names and shapes, and what to do about it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from .bare_unet import Shapes, input_channels
from .latent_space import LATENT_CHANNELS, SEGMENTER_CHANNELS


def describe_not_safetensors(path: Path, error: Exception) -> str:
    """An error text for a file that safetensors cannot read (a pickle, half a download, a text page)."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return f"{path.name} is empty (0 bytes). Download it again."
    if zipfile.is_zipfile(path) or head[:1] == b"\x80":
        return (
            f"{path.name} is a pickle (.ckpt/.pt). Pickles can run code when opened, so they never are. "
            "Convert it to .safetensors, or download the safetensors version."
        )
    if head.startswith(b"GGUF"):
        return f"{path.name} is a GGUF file, which holds quantised weights. Take the .safetensors file of the same model."
    if head.startswith(b"version https://git-lfs"):
        return f"{path.name} is a Git LFS pointer, not the weights. Download the real file (git lfs pull)."
    if head.lstrip().startswith((b"<", b"{")) and head[8:9] != b"{":  # a safetensors header opens at byte 8
        return (
            f"{path.name} is a text page, not weights: the download was answered with a message. Open it in an editor "
            "to read it, then download again."
        )
    return (
        f"{path.name} is not a complete .safetensors file ({path.stat().st_size} bytes; {error}). "
        "The download may have been cut off: download it again."
    )


def describe_foreign(path: Path, shapes: Shapes, known_size: bool = True) -> str:
    """An error text for a safetensors file without DiGSeg metadata: names its kind and the way out.

    known_size: whether its U-Net could be opened as one of Stable Diffusion's, if it said how its masks are drawn.
    """
    kind = _kind(shapes)
    if kind == _KIND_BY_CHANNELS[SEGMENTER_CHANNELS] and not known_size:
        kind = _UNKNOWN_SIZE
    return f"{path.name} is {kind}"


_UNKNOWN_SIZE = (
    f"an {SEGMENTER_CHANNELS}-channel U-Net without DiGSeg metadata and of another size than Stable Diffusion 1.x and 2.x: "
    "nothing says how its layers are built. The metadata was lost where another tool saved the file; take the file that "
    "train/finetune.py or train/convert.py wrote."
)


def _kind(shapes: Shapes) -> str:
    if any("lora_" in k or ".lora." in k for k in shapes):
        return "a LoRA, not a checkpoint. Load it with the node Load DiGSeg LoRA."
    if any("control_model." in k or "controlnet_" in k for k in shapes):
        return "a ControlNet. A DiGSeg checkpoint is needed here."
    if any(k.startswith(("conditioner.embedders.1", "model.diffusion_model.label_emb")) or "add_embedding." in k for k in shapes):
        return "an SDXL checkpoint. DiGSeg checkpoints are fine-tuned from Stable Diffusion 1.x or 2.x with train/finetune.py."
    channels = input_channels(shapes)
    return _KIND_BY_CHANNELS.get(channels) or _part_kind(shapes, channels)


_KIND_BY_CHANNELS = {
    LATENT_CHANNELS: f"a plain Stable Diffusion model ({LATENT_CHANNELS} input channels): it paints, it cannot segment yet. "
    "Use it for CLIP and VAE, or as `base:` of python train/finetune.py.",
    5: "a Stable Diffusion model guided by depth (5 input channels): it paints. A DiGSeg checkpoint is needed here.",
    SEGMENTER_CHANNELS: f"an {SEGMENTER_CHANNELS}-channel U-Net without DiGSeg metadata: it does not say how its masks are "
    "drawn, and InstructPixToPix models, which paint, look the same. If it is a DiGSeg or Marigold style segmenter of Stable "
    "Diffusion 1.x or 2.x size, choose mask_target binary or overlay; python train/convert.py writes that into the file.",
    9: "a Stable Diffusion inpainting model (9 input channels). Use it to inpaint, and a DiGSeg checkpoint to segment.",
}


def _part_kind(shapes: Shapes, channels: int | None) -> str:
    if channels is not None:
        return f"a U-Net with {channels} input channels, of an unknown kind. A DiGSeg checkpoint has {SEGMENTER_CHANNELS}."
    if any("depth_head" in k for k in shapes):
        return "a depth model (Depth Anything), which knows no text. A DiGSeg checkpoint is needed here."
    if any(k.startswith(("encoder.down", "decoder.up", "first_stage_model")) for k in shapes):
        return "a VAE. Load it with Load VAE; a DiGSeg checkpoint is needed here."
    if any("encoder.layers.0.self_attn" in k or "resblocks.0.attn" in k for k in shapes):
        return "a text encoder (CLIP). Load it with Load CLIP; a DiGSeg checkpoint is needed here."
    return "a .safetensors file of an unknown kind (no DiGSeg metadata). Choose a checkpoint made by train/finetune.py."
