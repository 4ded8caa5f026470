"""A U-Net-only checkpoint with the CLIP and the VAE that the user has: ComfyUI's own loaders, files of the real sizes."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from digseg_nodes.core.checkpoint import open_checkpoint, save_checkpoint
from digseg_nodes.core.prompts import parse_prompts
from tests.parity.builders import SCHEDULERS, TEXTS, VAES, config_for, deviation, fill_quickly, make_unet

TOKENS = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
DEMO = Path(__file__).resolve().parents[2] / "digseg_nodes/models/digseg-demo.safetensors"
LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def text_encoder(family: str, **changes) -> CLIPTextModel:
    return fill_quickly(lambda: CLIPTextModel(CLIPTextConfig(**TOKENS, **{**TEXTS[family], **changes})), 0, torch.float16)


def stock_clip(path, text: CLIPTextModel):
    """ComfyUI's CLIP of the file that people have: transformers' names with their prefix."""
    import comfy.sd

    tensors = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in text.state_dict().items()}
    save_file(tensors, path)
    return comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)


@pytest.mark.parametrize("family", ["sd15", "sd21"])
def test_unet_alone_with_the_users_clip_and_vae(host, tmp_path, family):
    """The masks are those of the same networks in one DiGSeg checkpoint, whose SD 2.x text encoder ends one layer earlier."""
    import comfy.sd

    from digseg_nodes.core import inference

    layers = TEXTS[family]["num_hidden_layers"] + (family == "sd21")
    text = text_encoder(family, num_hidden_layers=layers)
    vae = fill_quickly(lambda: AutoencoderKL(latent_channels=4, **LEVELS, **VAES["sd"]), 1, torch.float16)
    unet = make_unet("one_head_width", cross_attention_dim=TEXTS[family]["hidden_size"])
    users_clip = stock_clip(tmp_path / "clip.safetensors", text)
    users_vae = comfy.sd.VAE(sd=dict(vae.state_dict()))

    ours = text_encoder(family)
    ours.load_state_dict({k: text.state_dict()[k] for k in ours.state_dict()})
    config = config_for(unet, vae, ours, SCHEDULERS["v"], resolution=64)
    parts = {"unet": unet.state_dict(), "vae": vae.state_dict(), "text_encoder": ours.state_dict()}
    save_checkpoint(tmp_path / "all.safetensors", parts, config, title="r")
    alone = config_for(unet, scheduler=SCHEDULERS["v"], resolution=64)
    save_checkpoint(tmp_path / "unet.safetensors", {"unet": unet.state_dict()}, alone, title="r")

    opened, photo = open_checkpoint(tmp_path / "all.safetensors"), torch.rand(1, 64, 64, 3)
    prompts, settings = parse_prompts("a red (circle)"), inference.SamplerSettings(steps=2)
    whole = (host.load_model(opened), host.load_clip(opened), host.load_vae(opened))
    pieces = (host.load_model(open_checkpoint(tmp_path / "unet.safetensors")), users_clip, users_vae)
    masks = [
        inference.segment(host.HostEngine(*models), photo, prompts, settings, inference.ImageSettings()).soft
        for models in (whole, pieces)
    ]
    assert masks[0].std() > 0.01
    assert deviation(masks[1], masks[0]) <= 1e-4


def test_parts_of_other_models_or_none_are_refused_by_name(host):
    import comfy.sd
    import comfy.taesd.taesd

    from digseg_nodes.core import inference
    from digseg_nodes.core.encoded import EncodedImage
    from digseg_nodes.core.geometry import plan_geometry

    sixteen = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD(latent_channels=16).state_dict())
    photo = torch.rand(1, 64, 64, 3)
    with pytest.raises(ValueError, match=r"makes latents of 16 channels, DiGSeg models read 4\. Use the VAE of"):
        inference.encode_image(host.HostEngine(vae=sixteen), photo, inference.ImageSettings(64))
    with pytest.raises(ValueError, match="There is no VAE: the loader it comes from found none"):
        encoded = EncodedImage(torch.zeros(1, 4, 8, 8), photo, plan_geometry(64, 64, 64), None)
        inference.decode_masks(host.HostEngine(), inference.empty_mask(encoded, "a cat"))
    with pytest.raises(ValueError, match="There is no CLIP: the loader it comes from found none"):
        inference.encode_prompts(host.HostEngine(), parse_prompts("a cat"))


def test_what_previews_are_read_by_is_encoded_once_for_every_vae(host, monkeypatch):
    opened = open_checkpoint(DEMO)
    first, second = host.load_vae(opened), host.load_vae(opened)
    calls = []
    encode = host.encode_image
    monkeypatch.setattr(host, "encode_image", lambda vae, pixels: calls.append(vae) or encode(vae, pixels))
    probes = [host.HostEngine(vae=vae).preview_probe() for vae in (first, first, second)]
    assert calls == [first, second]
    assert probes[0] is probes[1] and torch.equal(probes[0], probes[2])
    assert probes[0].shape == (2, 4) and not torch.equal(*probes[0])
