"""Stable Diffusion in one file of the original names: the same networks as the diffusers parts it was written from."""

import pytest
import torch
from safetensors.torch import save_file

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.ldm_names import LDM_PREFIX, translate, unet_modules, vae_modules
from train.networks import single_file
from train.networks.bases import load_networks, open_base

WIDTH = 16


def ldm_parts(checkpoint) -> dict[str, torch.Tensor]:
    """U-Net and VAE of a base in the original names; the VAE's attention as 1x1 convolutions."""
    out = {}
    for part, modules in (("unet", unet_modules), ("vae", vae_modules)):
        table = modules(getattr(checkpoint.config, part))
        for name, tensor in checkpoint.state_dict(part).items():
            convolution = part == "vae" and ".attentions." in name and tensor.ndim == 2
            out[LDM_PREFIX[part] + (translate(name, table) or name)] = tensor[..., None, None] if convolution else tensor
    return out


def clip_parts(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": v for name, v in text.items()}


def openclip_parts(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as OpenCLIP stores them, with one layer more than is used."""
    text = {name.removeprefix("text_model."): value for name, value in text.items()}
    out = {theirs: text[ours] for theirs, ours in single_file._OPENCLIP_ENDS.items()}
    for kind in ("weight", "bias"):
        layer = {old: text[f"encoder.layers.0.{new}.{kind}"] for old, new in single_file._OPENCLIP.items()}
        fused = torch.cat([text[f"encoder.layers.0.self_attn.{letter}_proj.{kind}"] for letter in "qkv"])
        for number in (0, 1):
            out |= {f"transformer.resblocks.{number}.{name}.{kind}": value for name, value in layer.items()}
            out[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = fused
    return {single_file.OPENCLIP_PREFIX + name: value for name, value in out.items()}


@pytest.mark.parametrize("text_parts", [clip_parts, openclip_parts])
def test_the_networks_equal_those_of_the_parts(base, tmp_path, monkeypatch, text_parts):
    original = open_base(base)
    unet = {**original.config.unet, "in_channels": 8}
    monkeypatch.setattr(single_file, "STABLE_DIFFUSION_UNETS", {WIDTH: unet})
    monkeypatch.setattr(single_file, "TEXT_ENCODERS", {WIDTH: original.config.text_encoder})
    monkeypatch.setattr(single_file, "VAE", original.config.vae)
    tensors = {**ldm_parts(original), **text_parts(original.state_dict("text_encoder"))}
    path = tmp_path / "sd.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    found, expected = load_networks(path), load_networks(base)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(found, part).state_dict(), getattr(expected, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found.config.prediction_type == "epsilon"


def test_a_base_without_vae_takes_one_that_is_a_file_of_its_own(base, tmp_path, monkeypatch):
    original = open_base(base)
    monkeypatch.setattr(single_file, "STABLE_DIFFUSION_UNETS", {WIDTH: {**original.config.unet, "in_channels": 8}})
    monkeypatch.setattr(single_file, "TEXT_ENCODERS", {WIDTH: original.config.text_encoder})
    monkeypatch.setattr(single_file, "VAE", original.config.vae)
    tensors = {**ldm_parts(original), **clip_parts(original.state_dict("text_encoder"))}
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    vae = {name: tensor for name, tensor in tensors.items() if name.startswith("first_stage_model.")}
    path, alone = tmp_path / "sd.safetensors", tmp_path / "vae.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if name not in vae}, path)
    with pytest.raises(CheckpointError, match=r"has no vae\. Name a checkpoint that has one as `components:`"):
        load_networks(path)
    for prefix in ("", "first_stage_model."):
        save_file({prefix + name.removeprefix("first_stage_model."): tensor for name, tensor in vae.items()}, alone)
        found, expected = load_networks(path, alone), load_networks(base)
        assert all(torch.equal(a, b) for a, b in zip(found.vae.parameters(), expected.vae.parameters(), strict=True))


def test_the_published_sizes_have_the_published_names():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(single_file.VAE)
        unets = [UNet2DConditionModel.from_config(c) for c in single_file.STABLE_DIFFUSION_UNETS.values()]
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert [sum(p.numel() for p in unet.parameters()) // 1_000_000 for unet in unets] == [859, 865]


@pytest.mark.parametrize("lost", ["token_embedding.weight", "transformer.resblocks.0.attn.in_proj_bias"])
def test_an_incomplete_openclip_is_named(base, lost):
    original = open_base(base)
    parts = openclip_parts(original.state_dict("text_encoder"))
    tensors = {name.removeprefix(single_file.OPENCLIP_PREFIX): tensor for name, tensor in parts.items()}
    assert single_file.from_openclip(tensors, 1)
    del tensors[lost]
    with pytest.raises(CheckpointError, match=f"OpenCLIP.* lacks {lost}"):
        single_file.from_openclip(tensors, 1)
