"""Stable Diffusion 1.x and 2.x in one .safetensors file of the original names, as a base to fine-tune."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from digseg_nodes.core.bare_unet import STABLE_DIFFUSION_UNETS, bare_scheduler
from digseg_nodes.core.checkpoint import Checkpoint, CheckpointConfig, CheckpointError, Part
from digseg_nodes.core.latent_space import LATENT_CHANNELS, PROMPT_TOKENS, SCALING_FACTOR
from digseg_nodes.core.ldm_names import LDM_PREFIX, names_from_ldm
from digseg_nodes.core.untrusted import check_header

OPENCLIP_PREFIX = "cond_stage_model.model."
TEXT_WIDTH = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_TEXT = {"vocab_size": 49408, "max_position_embeddings": PROMPT_TOKENS, "bos_token_id": 49406, "eos_token_id": 49407}
TEXT_ENCODERS = {
    768: {**_TEXT, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "hidden_act": "quick_gelu", "projection_dim": 768},
    1024: {**_TEXT, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
           "hidden_act": "gelu", "projection_dim": 512},
}  # fmt: skip
"""Text encoders of SD 1.x and 2.x; the latter's last layer is left out, as Stable Diffusion does."""
VAE = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": LATENT_CHANNELS,
    "layers_per_block": 2, "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32, "act_fn": "silu", "sample_size": 512,
    "scaling_factor": SCALING_FACTOR,
}  # fmt: skip
_OPENCLIP = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_OPENCLIP_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


class SingleFile(Checkpoint):
    """A checkpoint whose text encoder may be OpenCLIP's, with query, key and value in one tensor."""

    def state_dict(self, component: str, read=None) -> dict[str, Tensor]:
        tensors = super().state_dict(component, read)
        if component != "text_encoder" or not any(name.startswith(OPENCLIP_PREFIX) for name in tensors):
            return tensors
        layers = self.config.text_encoder["num_hidden_layers"]
        return from_openclip({k.removeprefix(OPENCLIP_PREFIX): v for k, v in tensors.items()}, layers)


_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.")


def is_single_file(path: Path) -> bool:
    """Whether a file holds a Stable Diffusion U-Net with the input channels of one latent in the original names."""
    try:
        shapes = _shapes(path)
    except (OSError, SafetensorError, CheckpointError):
        return False
    shape = shapes.get(LDM_PREFIX["unet"] + "input_blocks.0.0.weight", ())
    return len(shape) == 4 and shape[1] == LATENT_CHANNELS


def open_single_file(path: Path) -> Checkpoint:
    """Headers of a single-file Stable Diffusion 1.x or 2.x; raises CheckpointError for other sizes."""
    shapes = _shapes(path)
    width = shapes.get(LDM_PREFIX["unet"] + TEXT_WIDTH, (0, 0))[-1]
    if width not in STABLE_DIFFUSION_UNETS or width not in TEXT_ENCODERS:
        raise CheckpointError(
            f"{path.name} is a U-Net with text of width {width}; Stable Diffusion 1.x has 768 and 2.x has 1024. "
            "Use one of these as `base:`."
        )
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    unet = {**STABLE_DIFFUSION_UNETS[width], "in_channels": LATENT_CHANNELS}
    configs = {"unet": unet, "vae": VAE, "text_encoder": TEXT_ENCODERS[width]}
    parts = {name: Part([path], names=names_from_ldm(name, shapes, configs[name])) for name in configs}
    parts = {name: part for name, part in parts.items() if part.names}
    openclip = {name: name for name in shapes if name.startswith(OPENCLIP_PREFIX)}
    if openclip:
        parts["text_encoder"] = Part([path], names=openclip)
    config = CheckpointConfig(**configs, scheduler=bare_scheduler(width, metadata, shapes), base_model=path.stem)
    return SingleFile(path, config, parts, metadata)


def open_vae_file(path: Path) -> Checkpoint | None:
    """A Stable Diffusion VAE alone in a .safetensors file, in the original names or diffusers'; None for anything else."""
    if not path.is_file():
        return None
    try:
        shapes = _shapes(path)
    except (OSError, SafetensorError):
        return None
    plain = {name.removeprefix(LDM_PREFIX["vae"]).removeprefix("vae.") for name in shapes}
    if not {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= plain or not all(one.startswith(_VAE_PARTS) for one in plain):
        return None
    stored = {LDM_PREFIX["vae"] + name.removeprefix(LDM_PREFIX["vae"]).removeprefix("vae."): name for name in shapes}
    names = {stored[name]: ours for name, ours in names_from_ldm("vae", stored, VAE).items()}
    names = {name: ours.removeprefix(LDM_PREFIX["vae"]) for name, ours in names.items()}
    config = CheckpointConfig(unet={}, scheduler={}, vae=VAE, base_model=path.stem)
    return Checkpoint(path, config, {"vae": Part([path], names=names)})


def from_openclip(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """OpenCLIP's text tower in transformers' names, its first `layers` layers; CheckpointError for one that lacks something."""
    try:
        return _renamed_openclip(tensors, layers)
    except KeyError as error:
        raise CheckpointError(
            f"The base's text encoder (OpenCLIP) lacks {error.args[0]}; the file was cut or edited. Download it again."
        ) from error


def _renamed_openclip(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    out = {ours: tensors[theirs] for theirs, ours in _OPENCLIP_ENDS.items()}
    for number in range(layers):
        theirs, ours = f"transformer.resblocks.{number}.", f"encoder.layers.{number}."
        for kind in ("weight", "bias"):
            for old, new in _OPENCLIP.items():
                out[f"{ours}{new}.{kind}"] = tensors[f"{theirs}{old}.{kind}"]
            projections = torch.chunk(tensors[f"{theirs}attn.in_proj_{kind}"], 3)  # [3D, ...] -> 3 x [D, ...]
            for letter, projection in zip("qkv", projections, strict=True):
                out[f"{ours}self_attn.{letter}_proj.{kind}"] = projection
    return out


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    check_header(path)
    with safe_open(str(path), framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
