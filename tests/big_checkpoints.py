"""Random files of the full-size models that the painting graphs ask for, in the layout in which they are published.

Shapes are those of diffusers' and transformers' classes on the meta device, names those of the original files. Whether both
are right is for ComfyUI to say, which logs every weight it misses and every one it has no place for.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from digseg_nodes.core.ldm_names import translate, unet_modules, vae_modules

Shapes = dict[str, tuple[int, ...]]
Rules = tuple[tuple[str, str], ...]

BLOCK, SHIFTS = 2**22, 2**16
CODES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float8_e5m2: "F8_E5M2"}
FLUX_DEPTH, FLUX_SINGLE_DEPTH = 1, 2
"""Blocks of the Flux files made here; the published model has 19 and 38. ComfyUI counts them from the names."""

SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX_FILL = {
    "in_channels": 384,  # 64 of the picture, 64 of the masked picture, 256 of the mask
    "out_channels": 64,
    "num_layers": FLUX_DEPTH,
    "num_single_layers": FLUX_SINGLE_DEPTH,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
FLUX_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}

ADDED_NAMES: Rules = ((r"^add_embedding\.linear_1", "label_emb.0.0"), (r"^add_embedding\.linear_2", "label_emb.0.2"))
CLIP_NAMES: Rules = ((r"^(?!text_model\.)", "text_model."),)
OPENCLIP_NAMES: Rules = (
    (r"^text_projection\.weight", "text_projection"),
    (r"^(text_model\.)?encoder\.layers\.", "transformer.resblocks."),
    (r"^(text_model\.)?embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^(text_model\.)?embeddings\.", ""),
    (r"^(text_model\.)?final_layer_norm", "ln_final"),
    (r"self_attn\.[qkv]_proj\.", "attn.in_proj_"),
    (r"self_attn\.", "attn."),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"layer_norm(\d)", r"ln_\1"),
)
FLUX_NAMES: Rules = (
    (r"^x_embedder", "img_in"),
    (r"^context_embedder", "txt_in"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^proj_out", "final_layer.linear"),
    (r"^time_text_embed\.timestep_embedder", "time_in"),
    (r"^time_text_embed\.text_embedder", "vector_in"),
    (r"^time_text_embed\.guidance_embedder", "guidance_in"),
    (r"linear_1", "in_layer"),
    (r"linear_2", "out_layer"),
    (r"^(single_transformer_blocks\.\d+)\.(attn\.to_[qkv]|proj_mlp)", r"\1.linear1"),
    (r"^(single_transformer_blocks\.\d+)\.proj_out", r"\1.linear2"),
    (r"^(single_transformer_blocks\.\d+)\.norm\.linear", r"\1.modulation.lin"),
    (r"^(single_transformer_blocks\.\d+)\.attn\.norm_", r"\1.norm."),
    (r"attn\.to_(q|k|v)\.", "img_attn.qkv."),
    (r"attn\.add_(q|k|v)_proj\.", "txt_attn.qkv."),
    (r"attn\.to_out\.0", "img_attn.proj"),
    (r"attn\.to_add_out", "txt_attn.proj"),
    (r"attn\.norm_added_", "txt_attn.norm."),
    (r"attn\.norm_", "img_attn.norm."),
    (r"norm\.q\.weight", "norm.query_norm.scale"),
    (r"norm\.k\.weight", "norm.key_norm.scale"),
    (r"norm1\.linear", "img_mod.lin"),
    (r"norm1_context\.linear", "txt_mod.lin"),
    (r"ff\.net\.(0\.proj|2)", r"img_mlp.\1"),
    (r"ff_context\.net\.(0\.proj|2)", r"txt_mlp.\1"),
    (r"mlp\.0\.proj", "mlp.0"),
    (r"^single_transformer_blocks", "single_blocks"),
    (r"^transformer_blocks", "double_blocks"),
)


class ModelFile(NamedTuple):
    """A file below ComfyUI/models: its tensors and their type."""

    path: str
    shapes: Shapes
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values()) * self.dtype.itemsize


def build(make: Callable[[], nn.Module]) -> tuple[Shapes, object]:
    """Names and shapes of a network's weights, and its config; no memory is taken."""
    with torch.device("meta"):
        network = make()
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, network.config


def renamed(shapes: Shapes, rules: Rules) -> Shapes:
    """Every rule (pattern, replacement) on every name, in order; tensors that end up with one name are stacked in one."""
    out: Shapes = {}
    for old, shape in shapes.items():
        name = old
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = (out[name][0] + shape[0], *shape[1:]) if name in out else shape
    return out


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def unet(**settings) -> Shapes:
    """A Stable Diffusion U-Net in the original names."""
    shapes, config = build(lambda: UNet2DConditionModel(**settings))
    table = unet_modules(config)
    return renamed({translate(name, table) or name: shape for name, shape in shapes.items()}, ADDED_NAMES)


def vae(**settings) -> Shapes:
    """An autoencoder in the original names, whose attention is made of 1x1 convolutions."""
    shapes, config = build(lambda: AutoencoderKL(**VAE, **settings))
    table = vae_modules(config)
    convolved = {n: (*s, 1, 1) if ".attentions." in n and len(s) == 2 else s for n, s in shapes.items()}
    return {translate(name, table): shape for name, shape in convolved.items()}


def clip_l() -> Shapes:
    return renamed(build(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L)))[0], CLIP_NAMES)


def clip_g() -> Shapes:
    shapes, _ = build(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G)))
    return {**renamed(shapes, OPENCLIP_NAMES), "logit_scale": ()}


def t5_xxl() -> Shapes:
    shapes, _ = build(lambda: T5EncoderModel(T5Config(**T5_XXL)))
    return {name: shape for name, shape in shapes.items() if name != "encoder.embed_tokens.weight"}  # shared.weight again


def flux_fill() -> Shapes:
    return renamed(build(lambda: FluxTransformer2DModel(**FLUX_FILL))[0], FLUX_NAMES)


def sd15_inpainting() -> list[ModelFile]:
    """Stable Diffusion 1.5 inpainting, all of it: 9 channels go into the U-Net."""
    shapes = {
        **prefixed("model.diffusion_model.", unet(**SD15, in_channels=9)),
        **prefixed("cond_stage_model.transformer.", clip_l()),
        **prefixed("first_stage_model.", vae()),
    }
    return [ModelFile("checkpoints/sd-v1-5-inpainting.ckpt", shapes, torch.float16)]


def sdxl() -> list[ModelFile]:
    """Stable Diffusion XL base, all of it."""
    shapes = {
        **prefixed("model.diffusion_model.", unet(**SDXL)),
        **prefixed("conditioner.embedders.0.transformer.", clip_l()),
        **prefixed("conditioner.embedders.1.model.", clip_g()),
        **prefixed("first_stage_model.", vae()),
    }
    return [ModelFile("checkpoints/sd_xl_base_1.0.safetensors", shapes, torch.float16)]


def flux() -> list[ModelFile]:
    """Flux Fill at full width and few blocks, and its text encoders and autoencoder at full size.

    T5 is in fp8, which halves it; of the two kinds in e5m2, which a CPU widens to fp32 twice as fast.
    """
    return [
        ModelFile("diffusion_models/flux1-fill-dev.safetensors", flux_fill(), torch.bfloat16),
        ModelFile("text_encoders/clip_l.safetensors", clip_l(), torch.float16),
        ModelFile("text_encoders/t5xxl_fp16.safetensors", t5_xxl(), torch.float8_e5m2),
        ModelFile("vae/ae.safetensors", vae(**FLUX_VAE), torch.bfloat16),
    ]


FILES = {"inpaint_sd15": sd15_inpainting, "inpaint_sdxl": sdxl, "inpaint_flux_fill": flux}
"""The files that each painting graph asks for."""


@cache
def _block(spread: float, centre: float, dtype: torch.dtype) -> Tensor:
    values = torch.rand(BLOCK + SHIFTS, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (values * spread + centre).to(dtype)


def filled(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random weights of the usual spread, one block of numbers again and again: norms near 1, biases near 0."""
    count = math.prod(shape)
    if len(shape) < 2:
        block = _block(0.1, 0.0 if name.endswith("bias") else 1.0, dtype)
    else:
        block = _block((shape[0] / count) ** 0.5, 0.0, dtype)
    block = block.view(torch.uint8 if dtype.itemsize == 1 else torch.int16)  # fp8 cannot be repeated
    part = block[zlib.crc32(name.encode()) % SHIFTS :][: min(count, BLOCK)]
    return part.repeat(-(-count // BLOCK))[:count].clone().view(dtype).view(shape)


def write(file: ModelFile, models: Path) -> None:
    """Write below ComfyUI/models, tensor by tensor; a .ckpt the way PyTorch Lightning does."""
    path = models / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ckpt":
        torch.save({"state_dict": {name: filled(name, shape, file.dtype) for name, shape in file.shapes.items()}}, path)
        return
    header, end = {}, 0
    for name, shape in file.shapes.items():
        start, end = end, end + math.prod(shape) * file.dtype.itemsize
        header[name] = {"dtype": CODES[file.dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in file.shapes.items():
            filled(name, shape, file.dtype).view(-1).view(torch.uint8).numpy().tofile(out)
