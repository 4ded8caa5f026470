"""From trained weights to the checkpoint that the nodes open."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from digseg_nodes.core.checkpoint import DTYPES, save_checkpoint
from digseg_nodes.core.mask_decoder import PREFIX, MaskDecoder
from train.learning.divergence import refuse_not_finite
from train.networks.bases import Networks
from train.networks.lora import save_lora
from train.settings.train_config import TrainConfig

OVERFLOW = "The training has diverged, or its weights do not fit export.dtype: {}; go on from an earlier state, or with fp32."


def export(
    path: Path,
    trained: dict[str, dict[str, Tensor]],
    networks: Networks,
    config: TrainConfig,
    class_names: list[str],
    steps: int,
) -> None:
    """Write the trained networks by name (usually their averaged weights) after `steps` steps and what the nodes need; VAE and
    text encoder as configured."""
    kept = {} if networks.mask_decoder is None else {"mask_decoder": networks.mask_decoder.state_dict()}
    components = {**kept, **trained}
    full = config.export.content == "full"
    if full:
        components |= {"vae": networks.vae.state_dict(), "text_encoder": networks.text_encoder.state_dict()}
    dtype = DTYPES[config.export.dtype]
    cast = {name: {key: _cast(tensor, dtype) for key, tensor in tensors.items()} for name, tensors in components.items()}
    for name in trained:
        refuse_not_finite(cast[name], f"{path} was not written", OVERFLOW.format(config.export.dtype))
    description = f"{config.objective} objective, {steps} steps from {networks.config.base_model}"
    settings = replace(
        networks.config,
        vae=networks.config.vae if full else None,
        text_encoder=networks.config.text_encoder if full else None,
        default_steps=config.sampling_steps,
        initial_noise=config.initial_noise,
        threshold=config.export.threshold,
        resolution=config.resolution,
        class_names=class_names,
    )
    save_checkpoint(path, cast, settings, title=config.export.title, description=description, license=config.export.license)


def export_lora(
    path: Path, unet: torch.nn.Module, config: TrainConfig, steps: int, mask_decoder: MaskDecoder | None = None
) -> None:
    """Write the adapters of `unet` after `steps` steps under kohya's names, with what LoRA loaders and people like to know, and
    the mask decoder that was trained along with them."""
    rank, alpha = config.lora.rank, config.lora.alpha
    description = f"{config.objective} objective, {steps} steps on {config.base.name}"
    metadata = {"modelspec.title": config.export.title, "modelspec.description": description}
    metadata |= {"modelspec.license": config.export.license, "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    adapters = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    if mask_decoder is not None:
        adapters |= {PREFIX + name: weight for name, weight in mask_decoder.named_parameters()}
    refuse_not_finite(adapters, f"{path} was not written", OVERFLOW.format(config.export.dtype))
    save_lora(path, unet, alpha, DTYPES[config.export.dtype], metadata, mask_decoder)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
