"""train/convert.py: every layout and back again, bit for bit; precision, metadata, and what diffusers makes of it."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import MarigoldDepthPipeline
from safetensors.torch import load_file, save_file

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from tests.parity.builders import SCHEDULERS, make_text, make_unet, make_vae, write_checkpoint
from train.convert import convert, parse
from train.networks import single_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "full.safetensors"
    write_checkpoint(
        path,
        make_unet("one_head_count"),
        make_vae(),
        make_text(),
        SCHEDULERS["v_zero_snr"],
        mask_target="overlay",
        threshold=0.3,
        resolution=64,
        class_names=["cat", "dog"],
        default_steps=3,
    )
    return path


def run(*arguments) -> None:
    convert(parse([str(a) for a in arguments]))


def contents(path: Path):
    opened = open_checkpoint(path)
    return opened.config, {c: opened.state_dict(c) for c in opened.components}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


@pytest.mark.parametrize(
    ("name", "layout"), [("copy.safetensors", "single"), ("folder", "diffusers"), ("ldm.safetensors", "ldm")]
)
def test_there_and_back_is_bit_identical(tmp_path, source, name, layout):
    run(source, tmp_path / name, "--to", layout)
    between, between_tensors = contents(tmp_path / name)
    config, tensors = contents(source)
    assert between == config
    assert all(same(between_tensors[c], tensors[c]) for c in tensors)
    run(tmp_path / name, tmp_path / "back.safetensors")
    assert contents(tmp_path / "back.safetensors")[0] == config
    assert same(load_file(tmp_path / "back.safetensors"), load_file(source))
    assert open_checkpoint(tmp_path / "back.safetensors").metadata == open_checkpoint(source).metadata


def test_unet_alone_and_completed_again(tmp_path, source):
    run(source, tmp_path / "unet.safetensors", "--to", "unet")
    assert open_checkpoint(tmp_path / "unet.safetensors").components == ("unet",)
    run(tmp_path / "unet.safetensors", tmp_path / "full.safetensors", "--components", source)
    assert contents(tmp_path / "full.safetensors")[0] == contents(source)[0]
    assert same(load_file(tmp_path / "full.safetensors"), load_file(source))


def test_the_average_is_the_mean_of_the_unets_alone(tmp_path, source):
    config, tensors = contents(source)
    for name, factor in (("double", 2.0), ("nothing", 0.0)):
        changed = {k: v * factor if k.startswith("unet.") else v + 1 for k, v in load_file(source).items()}
        save_file(changed, tmp_path / f"{name}.safetensors", open_checkpoint(source).metadata)
    run(source, tmp_path / "mean.safetensors", "--average", tmp_path / "double.safetensors", tmp_path / "nothing.safetensors")
    mean_config, mean = contents(tmp_path / "mean.safetensors")
    assert mean_config == config and same(mean["vae"], tensors["vae"]) and same(mean["text_encoder"], tensors["text_encoder"])
    assert mean["unet"].keys() == tensors["unet"].keys()
    for name, tensor in tensors["unet"].items():
        assert mean["unet"][name].dtype == tensor.dtype
        assert torch.allclose(mean["unet"][name].float(), tensor.float(), atol=1e-6, rtol=1e-3), name
    run(source, tmp_path / "half.safetensors", "--average", tmp_path / "nothing.safetensors")
    weight = contents(tmp_path / "half.safetensors")[1]["unet"]["conv_in.weight"]
    assert torch.allclose(weight, tensors["unet"]["conv_in.weight"] / 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [("mask_target=binary", "another mask target"), ("scheduler.prediction_type=epsilon", "another prediction type")],
)
def test_models_of_another_kind_are_not_averaged(tmp_path, source, edit, message):
    run(source, tmp_path / "other.safetensors", "--set", edit)
    with pytest.raises(CheckpointError, match=message):
        run(source, tmp_path / "mean.safetensors", "--average", tmp_path / "other.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_a_unet_of_another_shape_is_not_averaged(tmp_path, source):
    other = tmp_path / "other.safetensors"
    deeper = make_unet("one_head_count", layers_per_block=2)
    write_checkpoint(other, deeper, make_vae(), make_text(), SCHEDULERS["v_zero_snr"], mask_target="overlay")
    with pytest.raises(CheckpointError, match="another U-Net architecture"):
        run(source, tmp_path / "mean.safetensors", "--average", other)


def test_short_text_encoder_names_survive_ldm(tmp_path, source):
    """Newer transformers omit `text_model.`, the original files have it."""
    tensors = {k.replace("text_encoder.text_model.", "text_encoder."): v for k, v in load_file(source).items()}
    short = tmp_path / "short.safetensors"
    save_file(tensors, short, open_checkpoint(source).metadata)
    run(short, tmp_path / "ldm.safetensors", "--to", "ldm")
    stored = load_file(tmp_path / "ldm.safetensors")
    assert any(k.startswith("cond_stage_model.transformer.text_model.encoder.layers.0.") for k in stored)
    run(tmp_path / "ldm.safetensors", tmp_path / "back.safetensors")
    assert same(load_file(tmp_path / "back.safetensors"), tensors)


def test_ldm_conv_in_is_arranged_for_instruct_nodes(tmp_path, source):
    """Fed [noisy, unscaled image], the stored conv_in answers as ours does to [scaled image, noisy]."""
    run(source, tmp_path / "ldm.safetensors", "--to", "ldm")
    stored = load_file(tmp_path / "ldm.safetensors")["model.diffusion_model.input_blocks.0.0.weight"]
    ours = contents(source)[1]["unet"]["conv_in.weight"]
    noisy, image = torch.randn(2, 1, 4, 8, 8)
    theirs = torch.nn.functional.conv2d(torch.cat([noisy, image], 1), stored)
    assert torch.allclose(theirs, torch.nn.functional.conv2d(torch.cat([image * 0.18215, noisy], 1), ours), atol=1e-5)


def test_diffusers_opens_the_folder(tmp_path, source):
    run(source, tmp_path / "folder")
    pipe = MarigoldDepthPipeline.from_pretrained(tmp_path / "folder")
    assert same(pipe.unet.state_dict(), contents(source)[1]["unet"])
    assert same(pipe.vae.state_dict(), contents(source)[1]["vae"])
    text = contents(source)[1]["text_encoder"]
    assert same(pipe.text_encoder.state_dict(), text)
    assert pipe.tokenizer("a red circle").input_ids[0] == 49406
    assert pipe.scheduler.config.rescale_betas_zero_snr
    assert pipe.default_denoising_steps == 3


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_precision(tmp_path, source, dtype):
    run(source, tmp_path / "small.safetensors", "--dtype", dtype)
    expected = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for key, tensor in load_file(source).items():
        small = load_file(tmp_path / "small.safetensors")[key]
        assert torch.equal(small, tensor.to(expected) if tensor.is_floating_point() else tensor)


def test_edit_in_place(tmp_path, source):
    path = tmp_path / "a.safetensors"
    run(source, path)
    run(
        path,
        path,
        "--set",
        "threshold=0.4",
        "title=Road signs",
        "class_names=[sign, post]",
        "scheduler.prediction_type=epsilon",
        "mask_target=binary",
    )
    config, tensors = contents(path)
    assert (config.threshold, config.class_names, config.prediction_type) == (0.4, ["sign", "post"], "epsilon")
    assert config.mask_target == "binary"
    assert open_checkpoint(path).metadata["modelspec.title"] == "Road signs"
    assert same(tensors["unet"], contents(source)[1]["unet"])
    for wrong in ("nonsense=1", "unet=1", "threshold", "vae."):
        with pytest.raises(CheckpointError, match="Cannot set") as raised:
            run(path, path, "--set", wrong)
    listed = re.search(r"with one of: (.*), or scheduler.NAME", str(raised.value))[1].split(", ")
    for key in listed:
        assert not re.search(r"unet|vae|text_encoder|mask_decoder|scheduler", key), "no part as a whole"
    assert {"threshold", "class_names", "photo_shape", "title"} <= set(listed)


def test_wrong_target_name(tmp_path, source):
    for name, layout in (("folder", "single"), ("a.safetensors", "diffusers")):
        with pytest.raises(CheckpointError, match="does not fit --to"):
            run(source, tmp_path / name, "--to", layout)


def test_command_tells_what_a_file_is(source):
    done = subprocess.run([sys.executable, ROOT / "train" / "convert.py", source], capture_output=True, text=True, check=True)
    told = yaml.safe_load(done.stdout)
    assert told["parts"]["unet"]["dtypes"] == {"float32": told["parts"]["unet"]["tensors"]}
    assert told["config"]["threshold"] == 0.3
    assert replace(open_checkpoint(source).config).class_names == told["config"]["class_names"]


def test_command_ends_with_one_message(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    command = [sys.executable, ROOT / "train" / "convert.py", tmp_path / "a.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "convert.py: a.safetensors is empty (0 bytes). Download it again."


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_is_one_message(source, tmp_path):
    """A limit on the size of files is the nearest thing to a full disk that needs no rights."""
    import resource

    target = tmp_path / "copy.safetensors"
    command = [sys.executable, ROOT / "train" / "convert.py", source, target]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "could not be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_parts_come_from_a_folder_too(tmp_path, source):
    run(source, tmp_path / "folder", "--to", "diffusers")
    run(source, tmp_path / "unet.safetensors", "--to", "unet")
    run(tmp_path / "unet.safetensors", tmp_path / "full.safetensors", "--components", tmp_path / "folder")
    assert same(contents(tmp_path / "full.safetensors")[1]["vae"], contents(source)[1]["vae"])


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
def test_a_vae_in_a_file_of_its_own_completes_a_unet(tmp_path, source, monkeypatch, prefix):
    config, parts = contents(source)
    monkeypatch.setattr(single_file, "VAE", config.vae)
    run(source, tmp_path / "ldm.safetensors", "--to", "ldm")
    tensors = load_file(tmp_path / "ldm.safetensors")
    vae = {name: tensor for name, tensor in tensors.items() if name.startswith("first_stage_model.")}
    save_file(
        {prefix + name.removeprefix("first_stage_model."): tensor for name, tensor in vae.items()}, tmp_path / "vae.safetensors"
    )
    run(source, tmp_path / "unet.safetensors", "--to", "unet")
    run(tmp_path / "unet.safetensors", tmp_path / "full.safetensors", "--components", tmp_path / "vae.safetensors")
    opened, found = contents(tmp_path / "full.safetensors")
    assert set(found) == {"unet", "vae"}
    assert same(found["vae"], parts["vae"])
    assert opened.vae == config.vae
