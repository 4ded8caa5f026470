"""Writing a checkpoint in the layouts that others read: diffusers folder, U-Net alone, original Stable Diffusion names."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from digseg_nodes.core.checkpoint import (
    LDM_CONV_IN,
    LDM_LAYOUT,
    TEXT_PREFIX,
    CheckpointConfig,
    CheckpointError,
    describe_config,
    pad_token,
    save_checkpoint,
    write_safetensors,
)
from digseg_nodes.core.diffusers_folder import OWN_CONFIG
from digseg_nodes.core.files import write_text
from digseg_nodes.core.latent_space import SCALING_FACTOR, SEGMENTER_CHANNELS, segments
from digseg_nodes.core.ldm_names import LDM_PREFIX, translate, unet_modules, vae_modules
from digseg_nodes.core.mask_decoder import PREFIX
from digseg_nodes.core.schedule import STABLE_DIFFUSION

Components = dict[str, dict[str, Tensor]]

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "mask_decoder": "model.safetensors",
}
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
}
ARCHITECTURES = {"text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}}


def write_single(path: Path, components: Components, config: CheckpointConfig, metadata: dict[str, str]) -> None:
    """The DiGSeg checkpoint, docs/checkpoint-format.md; modelspec fields of `metadata` are kept."""
    save_checkpoint(path, components, config, title=metadata.get("modelspec.title", path.stem), extra_metadata=metadata)


def write_unet(path: Path, components: Components, config: CheckpointConfig, metadata: dict[str, str]) -> None:
    """A DiGSeg checkpoint of the U-Net alone: VAE and CLIP come from the user's Stable Diffusion."""
    kept = {name: components[name] for name in ("unet", "mask_decoder") if name in components}
    write_single(path, kept, replace(config, vae=None, text_encoder=None), metadata)


def write_folder(path: Path, components: Components, config: CheckpointConfig, metadata: dict[str, str]) -> None:
    """A diffusers folder that MarigoldDepthPipeline.from_pretrained opens, with what it cannot say in its own file."""
    configs = {name: getattr(config, name) for name in WEIGHTS}
    for name, tensors in components.items():
        write_safetensors(path / name / WEIGHTS[name], _contiguous(tensors), {"format": "pt"})
        _write_json(path / name / "config.json", {**ARCHITECTURES.get(name, {}), **configs[name]})
    unsaid = {**STABLE_DIFFUSION, "set_alpha_to_one": True}  # diffusers' own default, which a config may leave out
    _write_json(path / "scheduler" / "scheduler_config.json", {**unsaid, **config.scheduler})
    index = {name: CLASSES[name] for name in components if name in CLASSES} | {"scheduler": ["diffusers", "DDIMScheduler"]}
    if "text_encoder" in components:
        _write_tokenizer(path / "tokenizer", config.text_encoder)
        index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    _write_json(
        path / "model_index.json",
        {
            "_class_name": "MarigoldDepthPipeline",
            "default_denoising_steps": config.default_steps,
            "default_processing_resolution": config.resolution,
            **index,
        },
    )
    _write_json(path / OWN_CONFIG, {"config": json.loads(config.to_json()), "metadata": metadata})


def _write_tokenizer(folder: Path, text_encoder: dict) -> None:
    from train.networks.tokenizer import clip_tokenizer  # brings transformers along, which nothing else here needs

    tokenizer = clip_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token(text_encoder))
    tokenizer.save_pretrained(folder)


def write_ldm(path: Path, components: Components, config: CheckpointConfig, metadata: dict[str, str]) -> None:
    """One file in the original Stable Diffusion names, which ComfyUI's InstructPixToPix nodes run.

    They concatenate [noisy, image] and do not scale the image latent: conv_in is rearranged and scaled for them, and
    kept beside as it was, so that our loaders compute with the very same weights.
    """
    if not segments(config.unet):
        raise CheckpointError(
            f"Only models with {SEGMENTER_CHANNELS} input channels have an InstructPixToPix form; this one has "
            f"{config.unet['in_channels']}."
        )
    unet = components["unet"]
    tensors = _renamed(unet, LDM_PREFIX["unet"], unet_modules(config.unet))
    tensors[LDM_CONV_IN] = unet["conv_in.weight"].clone()
    tensors[f"{LDM_PREFIX['unet']}input_blocks.0.0.weight"] = _instruct_conv(unet["conv_in.weight"])
    if "vae" in components:
        vae = _renamed(components["vae"], LDM_PREFIX["vae"], vae_modules(config.vae))
        tensors |= {k: v[:, :, None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in vae.items()}
    text, extra = components.get("text_encoder", {}), {"digseg.layout": LDM_LAYOUT}
    if text and not any(k.startswith(TEXT_PREFIX) for k in text):
        text, extra = {TEXT_PREFIX + k: v for k, v in text.items()}, {**extra, "digseg.text_prefix": TEXT_PREFIX}
    tensors |= {LDM_PREFIX["text_encoder"] + k: v for k, v in text.items()}
    tensors |= {PREFIX + k: v for k, v in components.get("mask_decoder", {}).items()}
    said = describe_config(config, metadata.get("modelspec.title", path.stem))
    write_safetensors(path, _contiguous(tensors), {**said, **metadata, **extra})


def _instruct_conv(weight: Tensor) -> Tensor:
    """[image, noisy] for scaled latents → [noisy, image] for an unscaled image latent: [C,8,3,3]."""
    image, noisy = weight.float().chunk(2, dim=1)
    return torch.cat([noisy, image * SCALING_FACTOR], dim=1).to(weight.dtype)


def _renamed(tensors: dict[str, Tensor], prefix: str, modules: dict[str, str]) -> dict[str, Tensor]:
    names = {name: translate(name, modules) for name in tensors}
    unknown = [name for name, theirs in names.items() if theirs is None]
    if unknown:
        raise CheckpointError(f"{len(unknown)} tensors have no place in a Stable Diffusion file, e.g. {unknown[0]}.")
    return {prefix + names[name]: tensor for name, tensor in tensors.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
