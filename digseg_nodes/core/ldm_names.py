"""Tensor names of the original Stable Diffusion files (LDM) against diffusers', for U-Net and VAE."""

from __future__ import annotations

from collections.abc import Iterable

LDM_PREFIX = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}

_TEXT_PREFIXES = (LDM_PREFIX["text_encoder"], "cond_stage_model.clip_l.transformer.", "cond_stage_model.clip_h.transformer.")
"""In original files, and as ComfyUI's save nodes name the text encoders of SD 1.x and 2.x."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_modules(config: dict) -> dict[str, str]:
    """diffusers module → LDM module for a UNet2DConditionModel config; inside attentions the names are the same."""
    modules = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
        **_resnet("mid_block.resnets.0", "middle_block.0"),
        **_resnet("mid_block.resnets.1", "middle_block.2"),
    }
    layers, levels = config.get("layers_per_block", 2), len(config["block_out_channels"])
    for i in range(levels):
        modules |= _down_level(i, layers, config["down_block_types"][i].startswith("Cross"))
        modules |= _up_level(i, layers, config["up_block_types"][i].startswith("Cross"))
    return modules


def _resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _RESNET.items()}


def _down_level(level: int, layers: int, attends: bool) -> dict[str, str]:
    first = 1 + level * (layers + 1)
    modules = {f"down_blocks.{level}.downsamplers.0.conv": f"input_blocks.{first + layers}.0.op"}
    for j in range(layers):
        modules |= _resnet(f"down_blocks.{level}.resnets.{j}", f"input_blocks.{first + j}.0")
        if attends:
            modules[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{first + j}.1"
    return modules


def _up_level(block: int, layers: int, attends: bool) -> dict[str, str]:
    first = block * (layers + 1)
    modules = {f"up_blocks.{block}.upsamplers.0.conv": f"output_blocks.{first + layers}.{2 if attends else 1}.conv"}
    for j in range(layers + 1):
        modules |= _resnet(f"up_blocks.{block}.resnets.{j}", f"output_blocks.{first + j}.0")
        if attends:
            modules[f"up_blocks.{block}.attentions.{j}"] = f"output_blocks.{first + j}.1"
    return modules


def vae_modules(config: dict) -> dict[str, str]:
    """diffusers module → LDM module for an AutoencoderKL config."""
    levels = len(config["block_out_channels"])
    modules = {}
    for side in ("encoder", "decoder"):
        modules |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_norm_out": f"{side}.norm_out",
            f"{side}.conv_out": f"{side}.conv_out",
            f"{side}.mid_block.resnets.0": f"{side}.mid.block_1",
            f"{side}.mid_block.resnets.1": f"{side}.mid.block_2",
        }
        modules |= {f"{side}.mid_block.attentions.0.{a}": f"{side}.mid.attn_1.{b}" for a, b in _VAE_ATTENTION.items()}
    for i in range(levels):
        for ours, theirs in (
            (f"encoder.down_blocks.{i}", f"encoder.down.{i}"),
            (f"decoder.up_blocks.{i}", f"decoder.up.{levels - 1 - i}"),
        ):
            modules |= _vae_level(ours, theirs, config.get("layers_per_block", 2) + 1)
    return {**modules, "quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}


def _vae_level(ours: str, theirs: str, layers: int) -> dict[str, str]:
    modules = {f"{ours}.downsamplers.0.conv": f"{theirs}.downsample.conv", f"{ours}.upsamplers.0.conv": f"{theirs}.upsample.conv"}
    for j in range(layers):
        modules[f"{ours}.resnets.{j}"] = f"{theirs}.block.{j}"
        modules[f"{ours}.resnets.{j}.conv_shortcut"] = f"{theirs}.block.{j}.nin_shortcut"
    return modules


def translate(name: str, modules: dict[str, str]) -> str | None:
    """A tensor name with its longest known module replaced; None when no module of it is known."""
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        module = modules.get(".".join(words[:length]))
        if module is not None:
            return ".".join([module, *words[length:]])
    return None


def inverse(modules: dict[str, str]) -> dict[str, str]:
    """The same table the other way round."""
    return {theirs: ours for ours, theirs in modules.items()}


def names_from_ldm(component: str, stored: Iterable[str], config: dict) -> dict[str, str]:
    """Stored LDM name (prefix included) → diffusers / transformers name, for one component of a file."""
    if component == "text_encoder":
        return {name: name[len(start) :] for name in stored for start in _TEXT_PREFIXES if name.startswith(start)}
    prefix = LDM_PREFIX[component]
    inside = [name for name in stored if name.startswith(prefix)]
    modules = inverse(unet_modules(config) if component == "unet" else vae_modules(config))
    names = {name: translate(name.removeprefix(prefix), modules) for name in inside}
    return {name: ours if ours is not None else name for name, ours in names.items()}
