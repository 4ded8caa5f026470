"""LoRA files as the programs in use name their tensors, from tensors under peft's names (`….lora_A.weight`)."""

from __future__ import annotations

from torch import Tensor, nn, randn

from digseg_nodes.core.lora_names import to_kohya

Tensors = dict[str, Tensor]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def diffusers_format(tensors: Tensors) -> Tensors:
    return {f"unet.{k}": v for k, v in tensors.items()}


def peft_format(tensors: Tensors) -> Tensors:
    return {f"base_model.model.{k}": v for k, v in tensors.items()}


def old_diffusers_format(tensors: Tensors) -> Tensors:
    return {f"unet.{k}".replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): v for k, v in tensors.items()}


def kohya_format(tensors: Tensors) -> Tensors:
    return {k: v for k, v in to_kohya(tensors).items() if not k.endswith(".alpha")}


def processor_format(tensors: Tensors) -> Tensors:
    """Attention layers only: …attn1.to_out.0.lora_A.weight → …attn1.processor.to_out_lora.down.weight."""
    renamed = {k.replace(".to_out.0.", ".to_out.").replace(".to_", ".processor.to_"): v for k, v in tensors.items()}
    return {k.replace(".lora_A.", "_lora.down.").replace(".lora_B.", "_lora.up."): v for k, v in renamed.items()}


FORMATS = {
    "diffusers": diffusers_format,
    "peft": peft_format,
    "diffusers, before peft": old_diffusers_format,
    "kohya": kohya_format,
    "peft, no prefix": dict,
}
"""Formats for any layer."""
PROCESSORS = processor_format


def random_lora(unet: nn.Module, rank: int = 4, only: tuple[str, ...] = ()) -> Tensors:
    """A LoRA for every Linear and Conv2d of a diffusers U-Net (whose tensors may be meta), or for names ending with `only`."""
    tensors = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and (not only or name.endswith(only)):
            outputs, inputs, *kernel = layer.weight.shape
            tensors[f"{name}.lora_A.weight"] = randn(rank, inputs, *kernel)
            tensors[f"{name}.lora_B.weight"] = 0.01 * randn(outputs, rank, *(1 for _ in kernel))
    return tensors
