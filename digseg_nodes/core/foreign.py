"""Says what a file is that is not a DiGSeg checkpoint, from its tensor names and shapes, and what to do about it."""

from __future__ import annotations

import zipfile
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]

_CONV_IN = ("model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight", "conv_in.weight",
            "unet.conv_in.weight")


def describe_not_safetensors(path: Path, error: Exception) -> str:
    """An error text for a file that safetensors cannot read (a pickle, half a download, a text page)."""
    head = path.open("rb").read(64)
    if zipfile.is_zipfile(path) or head[:1] == b"\x80":
        return (f"{path.name} is a pickle (.ckpt/.pt). Pickles can run code when opened, so they never are. "
                "Convert it to .safetensors, or download the safetensors version.")
    if head.startswith(b"version https://git-lfs"):
        return f"{path.name} is a Git LFS pointer, not the weights. Download the real file."
    return f"{path.name} is not a readable .safetensors file ({path.stat().st_size} bytes; {error}). Download it again."


def describe_foreign(path: Path, shapes: Shapes) -> str:
    """An error text for a safetensors file without DiGSeg metadata: names its kind and the way out."""
    return f"{path.name} is {_kind(shapes)}"


def _kind(shapes: Shapes) -> str:
    if any("lora_" in k or ".lora." in k for k in shapes):
        return "a LoRA, not a checkpoint. Load it with the node Load DiGSeg LoRA."
    channels = next((shapes[k][1] for k in _CONV_IN if k in shapes and len(shapes[k]) == 4), None)
    if any(k.startswith("conditioner.embedders.1") for k in shapes):
        return ("an SDXL checkpoint. DiGSeg checkpoints are fine-tuned from Stable Diffusion 1.x or 2.x with "
                "train/finetune.py.")
    if channels == 4:
        return ("a plain Stable Diffusion model (4 input channels): it paints, it cannot segment yet. Use it for CLIP "
                "and VAE, or as `base:` of python train/finetune.py.")
    if channels == 9:
        return ("a Stable Diffusion inpainting model (9 input channels). Use it to inpaint, and a DiGSeg checkpoint to "
                "segment.")
    if channels == 8:
        return ("an 8-channel U-Net without DiGSeg metadata, so its noise schedule and mask format are unknown. "
                "Wrap it with python train/convert.py, or open the diffusers folder it came from.")
    if any(k.startswith(("encoder.down", "decoder.up", "first_stage_model")) for k in shapes):
        return "a VAE. Load it with Load VAE; a DiGSeg checkpoint is needed here."
    if any("text_model.encoder" in k for k in shapes):
        return "a text encoder. Load it with Load CLIP; a DiGSeg checkpoint is needed here."
    return "a .safetensors file of an unknown kind (no DiGSeg metadata). Choose a checkpoint made by train/finetune.py."
