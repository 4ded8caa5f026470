"""How many latents a U-Net call takes on a CPU."""

import pytest

from digseg_nodes.core.engine import sampled_at_once_on_cpu


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(16, 16, 8), (32, 32, 8), (32, 64, 4), (64, 64, 2), (96, 96, 1), (1, 1, 8), (512, 512, 1)]
)
def test_small_latents_share_a_call_and_large_ones_do_not(height, width, expected):
    assert sampled_at_once_on_cpu(height, width) == expected
