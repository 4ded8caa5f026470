"""The two engines of the one inference loop, ComfyUI's and diffusers', draw the same masks of the bundled models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digseg_nodes.core import inference
from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from digseg_nodes.core.prompts import parse_prompts
from train.data.demo import DemoSource
from train.data.source_config import DemoConfig
from train.networks.bases import load_networks
from train.networks.engine import DiffusersEngine
from train.scoring.predictions import as_float

MODELS = Path(__file__).resolve().parents[2] / "digseg_nodes" / "models"
DEMO, DIFFUSION, BASE = (MODELS / f"digseg-demo{kind}.safetensors" for kind in ("", "-diffusion", "-base"))
PROMPTS = parse_prompts("red circle: crimson disc\nthe star\neverything blue")
BOUND = 1e-4
CASES = {
    "plain": (DEMO, "binary", SamplerSettings(), ImageSettings()),
    "overlay": (DEMO, "overlay", SamplerSettings(), ImageSettings()),
    "mirror": (DEMO, "binary", SamplerSettings(), ImageSettings(mirror=True)),
    "mirrored overlay in tiles": (DEMO, "overlay", SamplerSettings(), ImageSettings(tile=96, mirror=True)),
    "tiles": (DEMO, "binary", SamplerSettings(), ImageSettings(resolution=96, tile=80)),
    "ensemble": (DIFFUSION, "binary", SamplerSettings(seed=7, steps=2, ensemble=3), ImageSettings()),
}


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A scene that is not square, [1,96,128,3]."""
    image = DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0).image
    return as_float(image)[:, :96]


def host_engine(host, checkpoint: Path, target: str):
    parts = open_checkpoint(BASE if checkpoint == DIFFUSION else checkpoint, in_channels=4 if checkpoint == DIFFUSION else 8)
    return host.HostEngine(
        host.load_model(open_checkpoint(checkpoint, mask_target=target)), host.load_clip(parts), host.load_vae(parts)
    )


def train_engine(checkpoint: Path, target: str) -> DiffusersEngine:
    networks = load_networks(checkpoint, BASE if checkpoint == DIFFUSION else None).eval()
    return DiffusersEngine(replace(networks, config=replace(networks.config, mask_target=target)))


@pytest.mark.parametrize("case", CASES)
def test_both_engines_draw_the_same_masks(host, photo, case):
    checkpoint, target, settings, look = CASES[case]
    found = []
    for engine in (host_engine(host, checkpoint, target), train_engine(checkpoint, target)):
        work = inference.segment_workload(engine.config, photo, PROMPTS, settings, look, uncertainty=True)
        progress = engine.progress(work.total)
        with torch.inference_mode():
            found.append(inference.segment(engine, photo, PROMPTS, settings, look, uncertainty=True, progress=progress))
        assert progress.done == work.total
    ours, theirs = found
    assert ours.names == theirs.names == ("red circle", "the star", "everything blue")
    assert ours.soft.shape == (1, 3, 96, 128)
    assert ours.soft.amax((0, 2, 3)).max() > 0.5, "an empty mask would agree with any other"
    assert (ours.soft - theirs.soft).abs().max() <= BOUND
    assert (ours.spread is None) == (theirs.spread is None) == (settings.ensemble == 1 and not look.mirror)
    if ours.spread is not None:
        assert (ours.spread - theirs.spread).abs().max() <= BOUND


@pytest.mark.parametrize(
    "look", [ImageSettings(tile=40), ImageSettings(resolution=16), ImageSettings(resolution=5000), ImageSettings(tile=-1)]
)
def test_impossible_requests_are_refused_before_any_network_is_called(host, photo, look):
    engine = host.HostEngine()  # has no parts: any call of them would say so instead
    with pytest.raises(ValueError, match=r"Tiles of|The resolution is"):
        inference.segment(engine, photo, PROMPTS, SamplerSettings(), look)
