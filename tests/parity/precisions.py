"""The bundled model on its demo scenes with U-Net and VAE really computing in a precision, as they do on GPUs."""

from __future__ import annotations

from unittest import mock

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.masks import harden
from digseg_nodes.core.prompts import parse_prompts
from tools.demo import ROOT, SCENES, Scene

CHECKPOINT = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"


def hard_masks(host, scenes: list[Scene], unet: str = "fp32", vae: torch.dtype = torch.float32) -> Tensor:
    """Hard masks of all scenes and prompts: bool [N, H, W].

    unet: a key of WEIGHT_DTYPES; fp16 and bf16 are computed in too, which ComfyUI by itself never does on a CPU.
    """
    from digseg_nodes.core import inference

    opened, found = open_checkpoint(CHECKPOINT), []
    native = mock.patch.object(host.mm, "unet_manual_cast", lambda *_: None) if unet in ("fp16", "bf16") else mock.MagicMock()
    with native, mock.patch.object(host.mm, "vae_dtype", lambda *_: vae):
        models = (host.load_model(opened, unet), host.load_clip(opened), host.load_vae(opened))
    for scene in scenes:
        photo = pil_to_tensor(Image.open(SCENES / scene.image).convert("RGB")).movedim(0, -1)[None] / 255  # [1,H,W,3]
        prompts = parse_prompts("\n".join(dict.fromkeys(scene.texts)))
        masks = inference.segment(
            host.HostEngine(*models), photo, prompts, inference.SamplerSettings(), inference.ImageSettings()
        )
        found.append(harden(masks.soft[0], masks.threshold))
    return torch.cat(found)
