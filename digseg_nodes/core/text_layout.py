"""Which CLIP text encoders, by their transformers config, ComfyUI and the trainer compute alike."""

from __future__ import annotations

from .errors import CheckpointError
from .latent_space import PROMPT_TOKENS

_REQUIRED = {
    "hidden_act": ("quick_gelu", "gelu"),
    "max_position_embeddings": (PROMPT_TOKENS,),
    "vocab_size": (49408,),
    "layer_norm_eps": (1e-5,),
}
"""What the host hard-codes, and the two activations of Stable Diffusion's text encoders."""


def check_text_encoder(config: dict, name: str) -> None:
    """Raises CheckpointError, naming the setting, for a text encoder unlike Stable Diffusion's. name: of the file."""
    for key, allowed in _REQUIRED.items():
        if key in config and config[key] not in allowed:
            raise CheckpointError(_refusal(name, key, config[key], f"is {' or '.join(map(str, allowed))} in Stable Diffusion's"))
    width, heads = config.get("hidden_size", 512), config.get("num_attention_heads", 8)
    if width % heads:
        raise CheckpointError(_refusal(name, "num_attention_heads", heads, f"must divide hidden_size={width}"))


def _refusal(name: str, key: str, found: object, expected: str) -> str:
    shown = str(found)[:40]
    return f"{name} has a text encoder with {key}={shown}; it {expected}. The config was edited; export or download it again."
