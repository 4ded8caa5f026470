"""The demo's masks are the nodes' masks: what people are shown about a mask is not read as one."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from tools.api import Client
from tools.demo import Runner, load_scenes, true_mask


def test_what_is_not_in_a_scene_gives_a_mask_without_a_pixel(client: Client):
    scene = load_scenes()[0]
    masks, overlay = Runner(client, tqdm(disable=True)).masks(scene)
    for entry, mask in zip(scene.prompts, masks, strict=True):
        truth = true_mask(entry, overlay.size)
        assert mask.any() == truth.any(), entry["prompt"]
        assert (mask & truth).sum() >= 0.9 * (mask | truth).sum(), entry["prompt"]
    assert not all(entry["mask"] for entry in scene.prompts) and np.any(masks)
