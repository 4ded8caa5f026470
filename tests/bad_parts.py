# ruff: noqa: E501 - tables with a row a line
"""Checkpoints whose header is sound and whose parts are not: configs nothing can be built from, and tensors that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.bad_files import edited

QUERY = "encoder.layers.0.self_attn.q_proj.weight"
"""Behind the text encoder's prefix, which depends on the release of transformers."""


def more(tensor: Tensor) -> Tensor:
    """One row too many."""
    return torch.cat([tensor, tensor[:1]])


def whole_numbers(tensor: Tensor) -> Tensor:
    """int64."""
    return torch.ones_like(tensor, dtype=torch.int64)


def flags(tensor: Tensor) -> Tensor:
    """bool."""
    return torch.ones_like(tensor, dtype=torch.bool)


UNFIT = [
    ("U-Net tensor of another shape", {}, {"unet.conv_in.bias": more}, r"of its U-Net is \[33\]; by its config it is \[32\]"),
    ("VAE tensor of another shape", {}, {"vae.decoder.conv_out.weight": more}, r"of its VAE is \[4, 32, 3, 3\]; by its config it is \[3, 32, 3, 3\]"),
    ("VAE tensor of another rank", {}, {"vae.encoder.conv_in.weight": lambda t: t[0]}, "of its VAE is"),
    ("VAE attention of another shape", {}, {"vae.encoder.mid_block.attentions.0.to_q.weight": more}, r"of its VAE is \[33, 32\]"),
    ("text tensor of another shape", {}, {QUERY: more}, r"of its text encoder is \[17, 16\]; by its config it is \[16, 16\]"),
    ("U-Net of int64", {}, {"unet.conv_in.bias": whole_numbers}, "conv_in.bias of its U-Net is int64; floating-point"),
    ("U-Net of flags", {}, {"unet.conv_in.weight": flags}, "conv_in.weight of its U-Net is bool; floating-point"),
    ("VAE of int64", {}, {"vae.decoder.conv_out.bias": whole_numbers}, "conv_out.bias of its VAE is int64"),
    ("text encoder of flags", {}, {QUERY: flags}, "q_proj.weight of its text encoder is bool"),
    ("unknown activation of texts", {"text_encoder.hidden_act": "weird"}, {}, "hidden_act=weird; it is quick_gelu or gelu"),
    ("other activation of texts", {"text_encoder.hidden_act": "relu"}, {}, "hidden_act=relu; it is quick_gelu or gelu"),
    ("heads that do not divide", {"text_encoder.num_attention_heads": 5}, {}, "num_attention_heads=5; it must divide hidden_size=16"),
    ("another width of texts", {"text_encoder.hidden_size": 20, "unet.cross_attention_dim": 20}, {}, r"by its config it is \["),
    ("an odd width of texts", {"text_encoder.hidden_size": 49, "unet.cross_attention_dim": 49}, {}, r"must divide hidden_size=49|by its config it is"),
    ("78 tokens", {"text_encoder.max_position_embeddings": 78}, {}, "max_position_embeddings=78; it is 77"),
    ("eps of words", {"text_encoder.layer_norm_eps": "x"}, {}, "text_encoder.layer_norm_eps is 'x'; expected a number"),
    ("eps of another size", {"text_encoder.layer_norm_eps": 0.1}, {}, "layer_norm_eps=0.1; it is 1e-05"),
    ("VAE that makes no latents of four", {"vae.latent_channels": 5}, {}, "a VAE with .*latent"),
    ("VAE with another downsampling", {"vae.down_block_types": ["Strange"] * 4}, {}, "VAE .*(down_block_types|no VAE can be built)|no VAE can be built"),
    ("VAE with three blocks", {"vae.down_block_types": ["DownEncoderBlock2D"] * 3}, {}, "VAE .*down_block_types|config knows nothing of"),
    ("VAE with an unknown activation", {"vae.act_fn": "weird"}, {}, "a VAE with act_fn=weird|no VAE can be built"),
    ("VAE with an activation of numbers", {"vae.act_fn": 5}, {}, "vae.act_fn is 5; expected a name"),
    ("VAE of another size of words", {"vae.sample_size": "x"}, {}, "vae.sample_size is 'x'; expected"),
    ("VAE groups that do not divide", {"vae.norm_num_groups": 7}, {}, "a VAE with 7 norm groups|no VAE can be built"),
    ("dropout of words", {"unet.dropout": "x"}, {}, "unet.dropout is 'x'; expected"),
    ("eps of words in the U-Net", {"unet.norm_eps": "x"}, {}, "unet.norm_eps is 'x'; expected"),
    ("unknown activation", {"unet.act_fn": "weird"}, {}, "act_fn='weird'|no U-Net can be built"),
    ("unknown middle", {"unet.mid_block_type": "weird"}, {}, "mid_block_type='weird'|no U-Net can be built"),
    ("a projection more", {"unet.time_cond_proj_dim": 3}, {}, "time_cond_proj_dim=3|U-Net lacks 1 of"),
    ("kernel of five", {"unet.conv_in_kernel": 5}, {}, "conv_in_kernel=5|of its U-Net is"),
    ("kernel of words", {"unet.conv_in_kernel": "x"}, {}, "conv_in_kernel='x'|no U-Net can be built"),
    ("heads of levels that are not there", {"unet.attention_head_dim": [2, 2, 2]}, {}, "no U-Net can be built"),
    ("an unknown level", {"unet.down_block_types": ["weird", "DownBlock2D"]}, {}, "Block type weird|no U-Net can be built"),
]  # fmt: skip
"""(what is wrong, config fields, tensors, the error)."""
UNFIT_TRAINED = [
    ("an unknown precision", {"text_encoder.dtype": "weird"}, {}, "no text encoder can be built from its config"),
    ("labels of numbers", {"text_encoder.id2label": 5}, {}, "no text encoder can be built from its config"),
]
"""What ComfyUI does not read."""


def spoiled(good: Path, target: Path, fields: dict[str, object], tensors: dict) -> Path:
    """A copy of a DiGSeg file with config fields set and tensors changed."""
    with safe_open(good, "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    config = json.loads(metadata["digseg.config"])
    for field, value in fields.items():
        config = edited(config, field, value)
    for end, change in tensors.items():
        name = next(name for name in weights if name.endswith(end))
        weights[name] = change(weights[name])
    save_file(weights, target, {**metadata, "digseg.config": json.dumps(config)})
    return target
