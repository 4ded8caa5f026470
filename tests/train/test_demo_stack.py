"""Every stage of the demo stack takes real steps on a few scenes, resumes exactly and exports a file the trainer opens."""

import pytest
import torch

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.latent_space import SCALING_FACTOR
from train.demo import base_model, text_encoder, vae
from train.demo.runtime import Clock, train_stage
from train.demo.scene_cache import SceneCache, render
from train.demo.scenes import write
from train.networks.bases import load_networks
from train.networks.tokenizer import tokenize

SCENES = {"count": 12, "seed": 1}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A run folder with two steps of every stage: (folder, latent cache folder, exported base)."""
    out = tmp_path_factory.mktemp("stack")
    torch.set_num_threads(1)
    render(out / "scenes", SCENES["count"], SCENES["seed"])
    vae.train(out, seconds=None, steps=2).save_pretrained(out / "vae")
    encoder, figures = text_encoder.train(SceneCache(out / "scenes"), out, seconds=None, steps=2, size=12)
    assert set(figures) >= {"crop_named_seen", "crop_named_held_out"}
    encoder.save_pretrained(out / "text_encoder")
    assert base_model.encode_scenes(out, out / "cache", SCENES, 6) > 6
    config = {"block_out_channels": [32, 32, 32], "layers_per_block": 1, "attention_head_dim": 2}
    base_model.train(out, out / "cache", SCENES, config, seconds=None, steps=2, size=4).save_pretrained(out / "unet")
    base_model.export(out, out / "base.safetensors")
    return out


def test_latents_have_unit_deviation_after_folding_and_decoding_is_unchanged(stack):
    model, cache = vae.build().eval(), SceneCache(stack / "scenes")
    pictures = torch.from_numpy(cache.images[:8].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        before = model.decode(model.encode(pictures).latent_dist.mean).sample
        vae.fold_statistics(model, pictures)
        latents = model.encode(pictures).latent_dist.mean
        after = model.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-4)
    scaled = latents * SCALING_FACTOR
    assert scaled.mean((0, 2, 3)).abs().max() < 1e-3
    assert (scaled.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_the_export_opens_as_a_text_to_image_base_and_samples_finite_pictures(stack):
    checkpoint = open_checkpoint(stack / "base.safetensors", in_channels=4)
    assert set(checkpoint.components) == {"unet", "vae", "text_encoder"}
    assert checkpoint.config.prediction_type == "v_prediction"
    assert load_networks(stack / "base.safetensors").unet.config.in_channels == 8
    unet = base_model.UNet2DConditionModel.from_pretrained(stack / "unet")
    pictures = base_model.sample(unet, *base_model.frozen_parts(stack), ["a red circle on grass"], steps=2)
    assert pictures.shape == (1, 3, 128, 128)
    assert torch.isfinite(pictures).all()


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(tmp_path):
    def run(folder, break_at=None):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 3)

        def loss_of(generator, progress):
            if clock.step == break_at:
                raise KeyboardInterrupt
            return net(torch.randn(4, 3, generator=generator)).square().mean(), ""

        clock = Clock(None, 8)
        return train_stage("net", folder, clock, net, loss_of, peak=1e-2, decay=0.9, seed=3, save_every=0).module.weight

    straight = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", break_at=5)
    assert torch.equal(run(tmp_path / "broken"), straight)


def test_phrases_become_the_ids_of_clip():
    ids = tokenize(["a red circle", ""])
    assert ids.shape == (2, 77)
    assert ids[0, :5].tolist() == [49406, 320, 736, 7117, 49407]
    assert ids[1].tolist() == [49406] + [49407] * 76


def test_demo_scenes_list_a_mask_for_every_prompt_that_is_there(tmp_path):
    import json

    from PIL import Image

    write(tmp_path, chosen=(0, 1))
    listing = json.loads((tmp_path / "scenes.json").read_text())
    assert len(listing) == 2
    for scene in listing:
        size = Image.open(tmp_path / scene["image"]).size
        for prompt in scene["prompts"]:
            if prompt["mask"]:
                mask = Image.open(tmp_path / prompt["mask"])
                assert mask.size == size
                assert mask.convert("L").getextrema() == (0, 255)
        assert any(p["mask"] is None for p in scene["prompts"])
        assert any(p["held_out"] for p in scene["prompts"])
