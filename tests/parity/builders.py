"""Random networks with the architectures in use, as diffusers and transformers build them, and checkpoints of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from digseg_nodes.core.checkpoint import Checkpoint, CheckpointConfig, open_checkpoint, save_checkpoint
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig

SMALL = {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 1, "cross_attention_dim": 64}
FULL = {"block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
UNETS = {
    "one_head_count": {**SMALL, "attention_head_dim": 8},
    "one_head_width": {**SMALL, "attention_head_dim": (2, 4, 8, 8), "use_linear_projection": True, "upcast_attention": True},
    "uneven_heads": {**SMALL, "attention_head_dim": (2, 2, 8, 4), "use_linear_projection": True},
    "sd15": {**FULL, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {**FULL, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
}
"""U-Nets by head layout. (diffusers calls the number of heads `attention_head_dim`.)"""
VAES = {
    "small": {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1},
    "sd": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
}
TEXTS = {
    "small1": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    },
    "small2": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
    },
    "sd15": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "sd21": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 512,
    },
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "trailing",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
SCHEDULERS = {
    "epsilon": SCHEDULER,
    "v": {**SCHEDULER, "prediction_type": "v_prediction"},
    "v_zero_snr": {**SCHEDULER, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Every bias and norm non-trivial, so that a tensor loaded into the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def fill_quickly(build: Callable[[], nn.Module], seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A large network with weights of the usual spread, in a second: one block of random numbers, shifted per tensor."""
    with torch.device("meta"):
        module = build()
    module = module.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    block = torch.rand(2**22 + 2**16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    for number, (name, tensor) in enumerate(module.named_parameters()):
        values = block[number * 31 % 2**16 :][: 2**22].repeat(-(-tensor.numel() // 2**22))[: tensor.numel()]
        spread = 0.1 if tensor.ndim == 1 else (tensor.shape[0] / tensor.numel()) ** 0.5
        tensor.copy_(values.view(tensor.shape) * spread)
        if tensor.ndim == 1 and name.endswith("weight"):
            tensor.add_(1.0)  # norms
    for name, buffer in module.named_buffers():
        positions = name.endswith("position_ids")
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape) if positions else torch.zeros_like(buffer))
    return module


def make_unet(layout: str, in_channels: int = 8, seed: int = 0, **changes) -> UNet2DConditionModel:
    """A random U-Net of UNETS; `changes` replace settings of it."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=64, in_channels=in_channels, out_channels=4, **{**UNETS[layout], **changes})
    return randomise(unet, seed)


def make_vae(layout: str = "small", seed: int = 1) -> AutoencoderKL:
    """A random f=8 VAE of VAES with four latent channels."""
    torch.manual_seed(seed)
    return randomise(
        AutoencoderKL(
            latent_channels=4,
            norm_num_groups=32,
            sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            **VAES[layout],
        ),
        seed,
    )


def make_text(layout: str = "small1", seed: int = 2) -> CLIPTextModel:
    """A random CLIP text encoder of TEXTS with CLIP's own vocabulary."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "projection_dim": 64,
        **TEXTS[layout],
    }
    return randomise(CLIPTextModel(CLIPTextConfig(**settings)), seed)


def config_for(unet, vae=None, text=None, scheduler: dict = SCHEDULER, **fields) -> CheckpointConfig:
    """The checkpoint config of these networks."""
    return CheckpointConfig(
        unet=dict(unet.config),
        scheduler=scheduler,
        vae=vae and dict(vae.config),
        text_encoder=text and text.config.to_dict(),
        **fields,
    )


def write_checkpoint(path: Path, unet, vae=None, text=None, scheduler: dict = SCHEDULER, **fields) -> Checkpoint:
    """Save these networks as a single-file checkpoint and open it."""
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    save_checkpoint(
        path,
        {name: part.state_dict() for name, part in parts.items() if part is not None},
        config_for(unet, vae, text, scheduler, **fields),
        title="random",
    )
    return open_checkpoint(path, unet.config.in_channels)


def reference_ddim(unet, text: Tensor, image_latents: Tensor, noise: Tensor, scheduler: dict, steps: int) -> Tensor:
    """The straight diffusers loop, as in MarigoldDepthPipeline: scaled image latents in, scaled mask latents out."""
    ddim = DDIMScheduler.from_config(scheduler)
    ddim.set_timesteps(steps)
    x = noise.clone()
    for t in ddim.timesteps:
        output = unet(torch.cat([image_latents, x], dim=1), t, encoder_hidden_states=text).sample
        x = ddim.step(output, t, x).prev_sample
    return x


def deviation(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference, relative to the reference's largest value where that is above 1."""
    return ((ours - reference).abs().max() / reference.abs().max().clamp(min=1.0)).item()


def with_mask_decoder(checkpoint: Path, target: Path, seed: int = 4, guide: float = 2.0, mask_target: str = "auto") -> Path:
    """A copy of a checkpoint with a small random mask decoder, whose logits are large enough to show."""
    opened, decoder = open_checkpoint(checkpoint, mask_target=mask_target), make_mask_decoder(seed, guide)
    parts = {name: opened.state_dict(name) for name in opened.components} | {"mask_decoder": decoder.state_dict()}
    config = replace(opened.config, mask_decoder=decoder.config.to_dict())
    save_checkpoint(target, parts, config, title="with a mask decoder")
    return target


def make_mask_decoder(seed: int = 4, guide: float = 2.0) -> MaskDecoder:
    """A small random mask decoder."""
    torch.manual_seed(seed)
    decoder = MaskDecoder(MaskDecoderConfig(widths=(4, 8, 8, 8), blocks=1, guide=guide)).eval().requires_grad_(False)
    decoder.out[-1].weight.mul_(20)
    decoder.out[-1].bias.add_(1)
    return decoder
