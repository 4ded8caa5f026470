"""Low-rank adapters through peft: adding them to a U-Net, writing them in kohya's names, merging them back."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from digseg_nodes.core.checkpoint import CheckpointError, write_safetensors
from digseg_nodes.core.foreign import describe_not_safetensors
from digseg_nodes.core.lora_fit import check_not_empty, does_not_fit, faults
from digseg_nodes.core.lora_names import adapter_settings, kohya_layer, layers_of, to_kohya
from digseg_nodes.core.mask_decoder import LORA_CONFIG, PREFIX, MaskDecoder, split_lora
from digseg_nodes.core.untrusted import check_header
from train.settings.yaml_config import ConfigError

ADAPTER = "default"
MERGED = {".lora_down.weight", ".lora_up.weight", ".alpha"}
"""What a plain LoRA holds for a layer."""


def add_lora(unet: nn.Module, rank: int, alpha: float, targets: Iterable[str], seed: int) -> None:
    """Freeze a U-Net and give the layers whose names end in `targets` trainable adapters that start at zero effect."""
    unet.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)), unet, ADAPTER)
        except ValueError as error:
            raise ConfigError(f"lora.targets: {list(targets)} cannot be adapted in this U-Net: {error}") from error


def save_lora(
    path: Path,
    unet: nn.Module,
    alpha: float,
    dtype: torch.dtype,
    metadata: dict[str, str],
    mask_decoder: MaskDecoder | None = None,
) -> None:
    """Write a U-Net's adapters as ComfyUI's and other LoRA loaders expect them, and the mask decoder trained along with them."""
    adapters = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    tensors = to_kohya(adapters, peft_config={"lora_alpha": alpha})
    if mask_decoder is not None:
        tensors |= {PREFIX + key: tensor for key, tensor in mask_decoder.state_dict().items()}
        metadata = {**metadata, LORA_CONFIG: json.dumps(mask_decoder.config.to_dict())}
    write_safetensors(path, {key: tensor.detach().cpu().to(dtype).contiguous() for key, tensor in tensors.items()}, metadata)


def read_lora(path: Path) -> tuple[dict[str, Tensor], MaskDecoder | None]:
    """A LoRA's tensors under kohya's names and the mask decoder it may carry; CheckpointError when the file is none."""
    check_header(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(describe_not_safetensors(path, error)) from error
    tensors, decoder = split_lora(tensors, metadata or {}, path.name)
    check_not_empty(tensors, decoder, path.name)
    try:
        return to_kohya(tensors, metadata, adapter_settings(path)), decoder
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is no LoRA for a DiGSeg model: {error}") from error


def merge_lora(unet: nn.Module, path: Path, strength: float = 1.0) -> MaskDecoder | None:
    """Add a LoRA file's product to a U-Net's weights: W + strength * alpha / rank * up @ down, with the alpha that the file, its
    metadata or peft's adapter_config.json beside it says, as the node takes it. Returns the mask decoder it carries, if any."""
    lora, decoder = read_lora(path)
    modules = {kohya_layer(f"unet.{name}"): module for name, module in unet.named_modules() if hasattr(module, "weight")}
    _check_layers(path, lora, modules)
    for layer in layers_of(lora):
        with torch.no_grad():
            modules[layer].weight += strength * _product(lora, layer).view_as(modules[layer].weight)
    return decoder


def _check_layers(path: Path, lora: dict[str, Tensor], modules: dict[str, nn.Module]) -> None:
    """CheckpointError, naming them, for layers that are not the U-Net's, are no plain LoRA, or have other shapes."""
    layers = layers_of(lora)
    for layer, names in layers.items():
        if layer not in modules:
            raise CheckpointError(f"{path} changes {layer}, which the U-Net does not have. It was made for another model.")
        if other := sorted({name.removeprefix(layer) for name in names} - MERGED):
            raise CheckpointError(
                f"{path} changes {layer} by {', '.join(other)}; only plain LoRAs ({', '.join(sorted(MERGED))}) can be "
                "merged here. Use it with the node Load DiGSeg LoRA."
            )
    wrong = faults(lora, {layer: tuple(modules[layer].weight.shape) for layer in layers}, {})
    if wrong:
        listed = [f"{layer} ({what})" for layer, what in sorted(wrong.items())]
        raise CheckpointError(does_not_fit(path, listed, len(layers), "cannot be applied"))


def _product(lora: dict[str, Tensor], layer: str) -> Tensor:
    down, up = lora[f"{layer}.lora_down.weight"].float(), lora[f"{layer}.lora_up.weight"].float()
    alpha = float(lora.get(f"{layer}.alpha", down.shape[0]))
    return alpha / down.shape[0] * up.flatten(1) @ down.flatten(1)
