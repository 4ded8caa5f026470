"""Half precision on the bundled model and a demo scene, as mask pixels that end up on the other side of the threshold."""

import pytest
import torch

from tests.parity.precisions import hard_masks
from tools.demo import load_scenes


@pytest.fixture(scope="module")
def full(host):
    return hard_masks(host, load_scenes()[:1])


@pytest.mark.parametrize(
    ("unet", "vae", "allowed"),
    [
        ("fp16", torch.float32, 0.001),
        ("bf16", torch.float32, 0.01),
        ("fp8_e4m3fn", torch.float32, 0.01),
        ("fp32", torch.bfloat16, 0.01),
    ],
)
def test_share_of_flipped_pixels(host, full, unet, vae, allowed):
    """`python dev.py bench precisions` measures all scenes."""
    flipped = (hard_masks(host, load_scenes()[:1], unet, vae) != full).float().mean()
    print(f"{unet}, VAE {vae}: {flipped:.4%} of {full.numel()} pixels flip")
    assert 0.01 < full.float().mean() < 0.5
    assert flipped <= allowed
