"""Writing a mask decoder into a copy of the checkpoint, or of the LoRA, that it was trained for."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from digseg_nodes.core.checkpoint import Checkpoint, save_checkpoint, write_safetensors
from digseg_nodes.core.mask_decoder import LORA_CONFIG, PREFIX, MaskDecoder
from train.learning.divergence import refuse_not_finite

COMPONENT = "mask_decoder"


def decoder_tensors(decoder: MaskDecoder, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A decoder's weights as they are stored."""
    tensors = {name: weight.detach().cpu().to(dtype) for name, weight in decoder.state_dict().items()}
    refuse_not_finite(tensors, "The mask decoder was not written", "Its training has diverged; use a lower --lr.")
    return tensors


def write_with_decoder(path: Path, decoder: MaskDecoder, source: Checkpoint, lora: Path | None = None) -> None:
    """A copy of the checkpoint in the format's single file, its tensors bit for bit, or of the LoRA, with the decoder."""
    if lora is None:
        _write_checkpoint(path, decoder, source)
    else:
        _write_lora(path, decoder, lora)


def _write_checkpoint(path: Path, decoder: MaskDecoder, source: Checkpoint) -> None:
    parts = {name: source.state_dict(name) for name in source.components if name != COMPONENT}
    config = replace(source.config, mask_decoder=decoder.config.to_dict())
    kept = {key: value for key, value in source.metadata.items() if key.startswith("modelspec.")}
    title = kept.get("modelspec.title", source.path.stem)
    save_checkpoint(path, {**parts, COMPONENT: decoder_tensors(decoder)}, config, title=title, extra_metadata=kept)


def _write_lora(path: Path, decoder: MaskDecoder, lora: Path) -> None:
    with safe_open(str(lora), framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    tensors |= {PREFIX + name: tensor for name, tensor in decoder_tensors(decoder).items()}
    write_safetensors(path, tensors, {**metadata, LORA_CONFIG: json.dumps(decoder.config.to_dict())})
