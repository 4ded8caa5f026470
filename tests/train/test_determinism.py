"""One seed, one mask: whatever else is asked for, in whatever order and however it is cut into calls."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from digseg_nodes.core.inference import ImageSettings, SamplerSettings, segment
from digseg_nodes.core.prompts import parse_prompts
from train.networks.engine import DiffusersEngine, open_segmenter

CHECKPOINT = "digseg_nodes/models/digseg-demo-diffusion.safetensors"
BASE = "digseg_nodes/models/digseg-demo-base.safetensors"
NAMES = ("red circle", "green square", "blue star: azure star", "yellow ring")
ROUNDING = 1e-5
"""Between calls of different numbers of masks: matrix products round differently."""


@dataclass(frozen=True)
class Cut(DiffusersEngine):
    """An engine that decodes `decodes` masks in a call."""

    decodes: int = 1

    def decode_chunk(self, _latent_size):
        return self.decodes


@pytest.fixture(scope="module")
def networks(request):
    root = request.config.rootpath
    return open_segmenter(root / CHECKPOINT, root / BASE, device="cpu").engine.networks


@pytest.fixture(scope="module")
def photo():
    return torch.rand(2, 48, 64, 3, generator=torch.Generator().manual_seed(0))


def masks(networks, photo, names, batch=1, decodes=1, **settings):
    """{name: soft masks [B,H,W]} asked for in one call of the inference loop."""
    options = SamplerSettings(**{"seed": 3, "steps": 2, "ensemble": 2, **settings})
    found = segment(Cut(networks, batch, decodes), photo, parse_prompts("\n".join(names)), options, ImageSettings(64))
    return dict(zip(found.names, found.soft.unbind(1), strict=True))


@pytest.fixture(scope="module")
def expected(networks, photo):
    return masks(networks, photo, NAMES)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("again", {}),
        ("order", {"names": NAMES[::-1]}),
        ("fewer", {"names": NAMES[2:3]}),
        ("more", {"names": (*NAMES, "white cross", "black heart")}),
    ],
)
def test_with_one_mask_in_a_call_they_are_bit_identical_whatever_is_asked_beside_them(what, change, networks, photo, expected):
    found = masks(networks, photo, change.get("names", NAMES))
    assert all(torch.equal(found[name], expected[name]) for name in found if name in expected), what


@pytest.mark.parametrize(("batch", "decodes"), [(3, 1), (64, 1), (1, 5), (7, 64)])
def test_masks_do_not_depend_on_how_many_share_a_call(batch, decodes, networks, photo, expected):
    found = masks(networks, photo, NAMES, batch, decodes)
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) <= ROUNDING


@pytest.mark.parametrize("names", [NAMES[::-1], NAMES[2:3], (*NAMES, "white cross", "black heart")])
def test_with_eight_in_a_call_they_are_equal_but_for_rounding(names, networks, photo, expected):
    found = masks(networks, photo, names, batch=8)
    assert max(float((found[name] - expected[name]).abs().max()) for name in found if name in expected) <= ROUNDING


def test_a_frame_in_a_call_of_eight_has_the_mask_it_has_alone(networks, photo):
    both = masks(networks, photo, NAMES, batch=8)
    alone = [masks(networks, photo[number : number + 1], NAMES, batch=8) for number in range(len(photo))]
    assert max(float((both[name][n] - alone[n][name][0]).abs().max()) for name in both for n in range(len(photo))) <= ROUNDING


def test_a_frame_has_the_mask_it_has_alone(networks, photo, expected):
    for number in range(len(photo)):
        alone = masks(networks, photo[number : number + 1], NAMES)
        assert all(torch.equal(alone[name][0], expected[name][number]) for name in expected)


def test_another_seed_gives_another_mask(networks, photo, expected):
    """Otherwise the tests above would show nothing."""
    found = masks(networks, photo, NAMES, seed=4)
    assert all(not torch.equal(found[name], expected[name]) for name in expected)
