"""A tiny real stack (random weights) and a small folder data set for the trainer's tests."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from digseg_nodes.core.checkpoint import CheckpointConfig, save_checkpoint
from train.networks.bases import plain_config

V_SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip
EPSILON_SCHEDULER = {**V_SCHEDULER, "prediction_type": "epsilon", "rescale_betas_zero_snr": False}


def tiny_unet(in_channels: int = 4) -> UNet2DConditionModel:
    """A U-Net of a few thousand weights with cross-attention."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=in_channels, out_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=32,
    )  # fmt: skip


def tiny_base(path: Path, in_channels: int = 4, scheduler: dict = V_SCHEDULER, seed: int = 0) -> Path:
    """Write a random base (U-Net, VAE with a factor of 8, CLIP text encoder) as a single file."""
    torch.manual_seed(seed)
    unet = tiny_unet(in_channels)
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text_config = CLIPTextConfig(
        vocab_size=49408, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    text = CLIPTextModel(text_config)
    config = CheckpointConfig(
        unet=plain_config(unet),
        scheduler=scheduler,
        vae=plain_config(vae),
        text_encoder=text_config.to_dict(),
        resolution=64,
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    save_checkpoint(path, {name: part.state_dict() for name, part in parts.items()}, config, title="tiny")
    return path


def write_config(path: Path, base: Path, data: Path, cache: Path, steps: int, every: int, images: int) -> Path:
    """A configuration of a few steps with a state after `every` and `images` to validate on; the run goes beside the file."""
    path.write_text(
        f"""base: {base}
data: {data}
output: {path.parent / "run"}
cache: {cache}
resolution: 64
steps: {steps}
batch_size: 2
log_every: 1
optimizer: {{lr: 1.0e-3, warmup_steps: 2}}
validation: {{every: 100, images: {images}}}
checkpoints: {{every: {every}}}
export: {{dtype: fp32}}
""",
        encoding="utf-8",
    )
    return path


def folder_dataset(root: Path, count: int = 4, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """images/ and masks/{box,disc}/ of `count` photos (height, width = size), and a data YAML; returns the YAML."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True, exist_ok=True)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    for index in range(count):
        image = rng.integers(0, 90, (height, width, 3), np.uint8)
        y, x = rng.integers(height // 4, height // 2), rng.integers(width // 4, width // 2)
        shapes = {
            "box": (abs(rows - y) < 8) & (abs(columns - x) < 8),
            "disc": (rows - y) ** 2 + (columns - x) ** 2 < 100,
        }
        name, mask = list(shapes.items())[index % 2]
        image[mask] = (230, 220, 30)
        Image.fromarray(image).save(root / "images" / f"{index:03d}.png")
        for folder in shapes:
            (root / "masks" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).convert("L").save(root / "masks" / name / f"{index:03d}.png")
    part = "{type: folder, images: images, masks: masks}"
    yaml = root / "data.yaml"
    yaml.write_text(f"name: shapes\ntrain: {part}\nvalidation: {part}\ntest: {part}\n", encoding="utf-8")
    return yaml
