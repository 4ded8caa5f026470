"""Every kind of file that people mistake for a checkpoint gets an error that says what it is and what to do."""

import pytest
import torch
from safetensors.torch import save, save_file

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint

LDM = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def conv(channels: int) -> torch.Tensor:
    return torch.zeros(320, channels, 3, 3)


FOREIGN = {
    "SD checkpoint": ({LDM: conv(4)}, "plain Stable Diffusion model", "train/finetune.py"),
    "SD U-Net, diffusers": ({"conv_in.weight": conv(4)}, "plain Stable Diffusion model", "train/finetune.py"),
    "SD2 depth": ({LDM: conv(5)}, "guided by depth", "DiGSeg checkpoint is needed"),
    "inpainting": ({LDM: conv(9)}, "inpainting model", "DiGSeg checkpoint to segment"),
    "8 channels": ({LDM: conv(8), TEXT: torch.zeros(320, 768)}, "8-channel U-Net without DiGSeg metadata", "mask_target"),
    "8 channels, odd size": ({LDM: conv(8)}, "of another size than Stable Diffusion", "train/convert.py wrote"),
    "odd channels": ({LDM: conv(7)}, "7 input channels", "has 8"),
    "SDXL": ({LDM: conv(4), "conditioner.embedders.1.model.ln_final.weight": torch.zeros(1)}, "SDXL", "finetune"),
    "SDXL U-Net": ({"conv_in.weight": conv(8), "add_embedding.linear_1.weight": torch.zeros(1)}, "SDXL", "finetune"),
    "kohya LoRA": ({"lora_unet_mid_block_x.lora_down.weight": torch.zeros(1)}, "a LoRA", "Load DiGSeg LoRA"),
    "peft LoRA": ({"unet.mid_block.attn1.to_q.lora_A.weight": torch.zeros(1)}, "a LoRA", "Load DiGSeg LoRA"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": conv(4)}, "ControlNet", "DiGSeg checkpoint is needed"),
    "VAE": ({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "a VAE", "Load VAE"),
    "LDM VAE": ({"decoder.up.0.block.0.conv1.weight": torch.zeros(1)}, "a VAE", "Load VAE"),
    "whole VAE": ({"first_stage_model.quant_conv.weight": torch.zeros(1)}, "a VAE", "Load VAE"),
    "CLIP": ({"text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, "text encoder", "Load CLIP"),
    "CLIP, new names": ({"encoder.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, "text encoder", "Load CLIP"),
    "depth model": ({"depth_head.scratch.weight": torch.zeros(1)}, "knows no text", "DiGSeg checkpoint is needed"),
    "anything": ({"weight": torch.zeros(1)}, "unknown kind", "train/finetune.py"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_safetensors(tmp_path, name):
    tensors, kind, advice = FOREIGN[name]
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path / "file.safetensors")
    assert str(raised.value).startswith("file.safetensors is ")
    assert kind in str(raised.value)
    assert advice in str(raised.value)


WHOLE = save({"weight": torch.zeros(1000)})
BROKEN = {
    "empty": (b"", "is empty"),
    "old pickle": (b"\x80\x02}q\x00.", "Pickles can run code"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 40, "is a GGUF file"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><title>Login</title>", "a text page"),
    "JSON answer": (b'{"error": "not found"}', "a text page"),
    "cut in the data": (WHOLE[:-100], "cut off"),
    "cut in the header": (WHOLE[:20], "cut off"),
    "noise": (bytes(range(255, 100, -1)), "not a complete"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    content, kind = BROKEN[name]
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=kind):
        open_checkpoint(tmp_path / "file.safetensors")


def test_torch_pickle_is_never_opened(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_checkpoint(tmp_path / "model.safetensors")
