"""Low-rank adapters through peft: adding them to a U-Net, writing them in kohya's names, merging them back."""

from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from digseg_nodes.core.checkpoint import CheckpointError, write_safetensors
from digseg_nodes.core.foreign import describe_not_safetensors
from digseg_nodes.core.lora_names import adapter_settings, kohya_layer, layers_of, to_kohya
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


def save_lora(path: Path, unet: nn.Module, alpha: float, dtype: torch.dtype, metadata: dict[str, str]) -> None:
    """Write a U-Net's adapters as ComfyUI's and other LoRA loaders expect them."""
    adapters = get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    tensors = to_kohya(adapters, peft_config={"lora_alpha": alpha})
    write_safetensors(path, {key: tensor.detach().cpu().to(dtype).contiguous() for key, tensor in tensors.items()}, metadata)


def read_lora(path: Path) -> dict[str, Tensor]:
    """A LoRA's tensors under kohya's names; CheckpointError when the file is none."""
    check_header(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
        return to_kohya(load_file(path), metadata, adapter_settings(path))
    except SafetensorError as error:
        raise CheckpointError(describe_not_safetensors(path, error)) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is no LoRA for a DiGSeg model: {error}") from error


def merge_lora(unet: nn.Module, path: Path, strength: float = 1.0) -> None:
    """Add a LoRA file's product to a U-Net's weights: W + strength * alpha / rank * up @ down, with the alpha that the file, its
    metadata or peft's adapter_config.json beside it says, as the node takes it."""
    lora = read_lora(path)
    modules = {kohya_layer(f"unet.{name}"): module for name, module in unet.named_modules()}
    for layer, names in layers_of(lora).items():
        if layer not in modules:
            raise CheckpointError(f"{path} changes {layer}, which the U-Net does not have. It was made for another model.")
        if other := sorted({name.removeprefix(layer) for name in names} - MERGED):
            raise CheckpointError(
                f"{path} changes {layer} by {', '.join(other)}; only plain LoRAs ({', '.join(sorted(MERGED))}) can be "
                "merged here. Use it with the node Load DiGSeg LoRA."
            )
        with torch.no_grad():
            modules[layer].weight += strength * _product(lora, layer).view_as(modules[layer].weight)


def _product(lora: dict[str, Tensor], layer: str) -> Tensor:
    down, up = lora[f"{layer}.lora_down.weight"].float(), lora[f"{layer}.lora_up.weight"].float()
    alpha = float(lora.get(f"{layer}.alpha", down.shape[0]))
    return alpha / down.shape[0] * up.flatten(1) @ down.flatten(1)
