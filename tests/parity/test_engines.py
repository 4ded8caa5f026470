"""The two engines of the one inference loop, ComfyUI's and diffusers', draw the same masks of the bundled models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from digseg_nodes.core import inference
from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from digseg_nodes.core.mask_decoder import LORA_CONFIG, PREFIX
from digseg_nodes.core.prompts import parse_prompts
from tests.parity.builders import make_mask_decoder, with_mask_decoder
from tests.parity.lora_formats import FORMATS, random_lora
from train.data.demo import DemoSource
from train.data.source_config import DemoConfig
from train.networks.bases import load_networks
from train.networks.engine import DiffusersEngine
from train.networks.lora import merge_lora
from train.scoring.predictions import as_float

MODELS = Path(__file__).resolve().parents[2] / "digseg_nodes" / "models"
DEMO, DIFFUSION, BASE = (MODELS / f"digseg-demo{kind}.safetensors" for kind in ("", "-diffusion", "-base"))
GUIDED = "the demo model with a mask decoder"
PROMPTS = parse_prompts("red circle: crimson disc\nthe star\neverything blue")
BOUND = 1e-5
CASES = {
    "plain": (DEMO, "binary", SamplerSettings(), ImageSettings()),
    "overlay": (DEMO, "overlay", SamplerSettings(), ImageSettings()),
    "mirror": (DEMO, "binary", SamplerSettings(), ImageSettings(mirror=True)),
    "mirrored overlay in tiles": (DEMO, "overlay", SamplerSettings(), ImageSettings(tile=96, mirror=True)),
    "tiles": (DEMO, "binary", SamplerSettings(), ImageSettings(resolution=96, tile=80)),
    "guided": (GUIDED, "binary", SamplerSettings(), ImageSettings()),
    "guided as shipped": (DEMO, "binary", SamplerSettings(), ImageSettings()),
    "guided, painted, mirrored, in tiles": (GUIDED, "overlay", SamplerSettings(), ImageSettings(tile=80, mirror=True)),
    "ensemble": (DIFFUSION, "binary", SamplerSettings(seed=7, steps=2, ensemble=3), ImageSettings()),
}


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A scene that is not square, [1,96,128,3]."""
    image = DemoSource(DemoConfig(type="demo", split="test", scenes=1)).sample(0).image
    return as_float(image)[:, :96]


@pytest.fixture(scope="module")
def guided(tmp_path_factory) -> dict[str, Path]:
    """The demo model with a small random mask decoder, by what its masks are said to be drawn on."""
    folder = tmp_path_factory.mktemp("guided")
    targets = ("binary", "overlay")
    return {target: with_mask_decoder(DEMO, folder / f"{target}.safetensors", mask_target=target) for target in targets}


def host_engine(host, checkpoint: Path, target: str):
    parts = open_checkpoint(BASE if checkpoint == DIFFUSION else checkpoint, in_channels=4 if checkpoint == DIFFUSION else 8)
    return host.HostEngine(
        host.load_model(open_checkpoint(checkpoint, mask_target=target)), host.load_clip(parts), host.load_vae(parts)
    )


def train_engine(checkpoint: Path, target: str) -> DiffusersEngine:
    networks = load_networks(checkpoint, BASE if checkpoint == DIFFUSION else None).eval()
    return DiffusersEngine(replace(networks, config=replace(networks.config, mask_target=target)))


@pytest.mark.parametrize("case", CASES)
def test_both_engines_draw_the_same_masks(host, photo, guided, case):
    checkpoint, target, settings, look = CASES[case]
    checkpoint, decoder = (
        (guided[target], "guided") if checkpoint == GUIDED else (checkpoint, "guided" if "guided" in case else "vae")
    )
    found = []
    for engine in (host_engine(host, checkpoint, target), train_engine(checkpoint, target)):
        work = inference.segment_workload(engine.config, photo, PROMPTS, settings, look, uncertainty=True)
        progress = engine.progress(work.total)
        with torch.inference_mode():
            found.append(
                inference.segment(engine, photo, PROMPTS, settings, look, uncertainty=True, progress=progress, decoder=decoder)
            )
        assert progress.done == work.total
    ours, theirs = found
    assert ours.decoder == theirs.decoder == decoder
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


def test_the_mask_decoder_is_the_hosts_to_unload_and_is_its_own_in_a_lora(host, photo, guided, tmp_path):
    """Bit for bit the same after it was unloaded; a clone keeps it; a LoRA's own takes its place, unless its strength is 0."""
    engine = host_engine(host, guided["binary"], "auto")
    latent = sampled(engine, photo)
    before = inference.decode_masks(engine, latent).soft
    network = engine.mask_decoder.patcher.model
    assert any(entry.model.model is network for entry in host.mm.current_loaded_models if entry.model is not None)
    host.mm.unload_all_models()
    assert torch.equal(inference.decode_masks(engine, latent).soft, before)
    path = tmp_path / "lora.safetensors"
    save_file(FORMATS["kohya"](random_lora(load_networks(DEMO).unet)), path)
    assert host.HostEngine(host.apply_lora(engine.model, path)).mask_decoder is engine.mask_decoder
    own = make_mask_decoder(seed=9)
    tensors = {**load_file(path), **{PREFIX + key: value for key, value in own.state_dict().items()}}
    save_file(tensors, path, {LORA_CONFIG: json.dumps(own.config.to_dict())})
    patched = host.HostEngine(host.apply_lora(engine.model, path))
    assert torch.equal(patched.mask_decoder.patcher.model.out[3].weight, own.out[3].weight)
    assert host.HostEngine(host.apply_lora(engine.model, path, 0.0)).mask_decoder is engine.mask_decoder
    ours, theirs = train_engine(guided["binary"], "binary"), load_networks(guided["binary"]).eval()
    theirs.mask_decoder = merge_lora(theirs.unet, path)
    engines = (replace(engine, model=patched.model), DiffusersEngine(theirs))
    replaced = [inference.decode_masks(one, sampled(one, photo)).soft for one in engines]
    assert (replaced[0] - replaced[1]).abs().max() <= BOUND
    assert (replaced[0] - inference.decode_masks(ours, sampled(ours, photo)).soft).abs().max() > 0.01


def sampled(engine, photo: torch.Tensor) -> dict:
    """Mask latents of the first prompt."""
    encoded = inference.encode_image(engine, photo, ImageSettings())
    return inference.sample_masks(engine, inference.encode_prompts(engine, PROMPTS[:1]), encoded, SamplerSettings())
