"""Half precision on the bundled model and a demo scene, as mask pixels that end up on the other side of the threshold."""

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.masks import harden
from digseg_nodes.core.prompts import parse_prompts
from tests.conftest import ROOT
from workflows.demo import SCENES, load_scenes

CHECKPOINT = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"


@pytest.fixture(scope="module")
def segment(host):
    """weight_dtype → hard masks of all prompts of the first demo scene: bool [N, H, W]."""
    from digseg_nodes import segmentation

    opened, scene = open_checkpoint(CHECKPOINT), load_scenes()[0]
    clip, vae = host.load_clip(opened), host.load_vae(opened)
    photo = pil_to_tensor(Image.open(SCENES / scene.image).convert("RGB")).movedim(0, -1)[None] / 255  # [1,H,W,3]
    prompts = parse_prompts("\n".join(dict.fromkeys(scene.texts)))

    def run(weight_dtype: str) -> torch.Tensor:
        model = host.load_model(opened, weight_dtype)
        masks, _ = segmentation.segment(model, clip, vae, photo, prompts, segmentation.SamplerSettings())
        return harden(masks.soft[0], masks.threshold)

    return run


@pytest.fixture(scope="module")
def full(segment):
    return segment("fp32")


@pytest.mark.parametrize(("weight_dtype", "allowed"), [("fp16", 0.001), ("bf16", 0.01), ("fp8_e4m3fn", 0.05)])
def test_share_of_flipped_pixels(segment, full, weight_dtype, allowed):
    """`python dev.py bench host_flags` measures all scenes and all precisions."""
    flipped = (segment(weight_dtype) != full).float().mean()
    print(f"{weight_dtype}: {flipped:.4%} of {full.numel()} pixels flip")
    assert 0.01 < full.float().mean() < 0.5
    assert flipped <= allowed
