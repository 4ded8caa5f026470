"""The checkpoint file: round trips, atomic writing, and what else can be opened."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from digseg_nodes.core import checkpoint as module
from digseg_nodes.core.bare_unet import STABLE_DIFFUSION_UNETS
from digseg_nodes.core.checkpoint import (
    LDM_LAYOUT,
    CheckpointConfig,
    CheckpointError,
    describe_config,
    open_checkpoint,
    save_checkpoint,
)
from digseg_nodes.core.diffusers_folder import pipeline_folders
from digseg_nodes.core.host_saved import METADATA_TENSOR, metadata_tensor
from digseg_nodes.core.ldm_names import unet_modules
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig

UNET = {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 64}
SCHEDULER = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
CONFIG = CheckpointConfig(
    UNET,
    SCHEDULER,
    vae={"latent_channels": 4},
    threshold=0.4,
    resolution=128,
    class_names=["cat"],
    initial_noise="zero",
    default_steps=1,
    base_model="b",
)

MODELS = Path(__file__).resolve().parents[2] / "digseg_nodes" / "models"
TENSORS = {
    "unet": {"conv_in.weight": torch.randn(32, 8, 3, 3), "half": torch.randn(3).half()},
    "vae": {"encoder.conv_in.weight": torch.randn(4)},
}


def save(path: Path, config=CONFIG, tensors=TENSORS) -> Path:
    save_checkpoint(path, tensors, config, title="t", description="d", license="l")
    return path


def test_no_folder_of_the_maker_is_in_the_file(tmp_path):
    config = CheckpointConfig(UNET, SCHEDULER, text_encoder={"hidden_size": 64, "_name_or_path": "/home/me/secret"})
    assert b"/home/me" not in save(tmp_path / "a.safetensors", config).read_bytes()
    assert config.text_encoder["_name_or_path"] == "/home/me/secret"  # the caller's dictionary stays as it was


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_checkpoint_can_be_read_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "plain").touch()
    assert save(tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def edit_metadata(path: Path, **changes) -> Path:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = {**file.metadata(), **{f"digseg.{k}": v for k, v in changes.items()}}
    save_file(load_file(path), path, metadata)
    return path


def test_round_trip(tmp_path):
    opened = open_checkpoint(save(tmp_path / "deep" / "a.safetensors"))
    assert opened.config == CONFIG
    assert opened.components == ("unet", "vae")
    for component, tensors in TENSORS.items():
        read = opened.state_dict(component)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in tensors.items())
    assert opened.metadata["modelspec.title"] == "t"
    assert opened.metadata["modelspec.prediction_type"] == "v_prediction"


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def breaks(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", breaks)
    with pytest.raises(OSError, match="disk full"):
        save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("components", [{}, {"unet": {}}, {"unet": TENSORS["unet"], "other": {}}])
def test_what_may_be_saved(tmp_path, components):
    with pytest.raises(CheckpointError, match="at least the unet"):
        save_checkpoint(tmp_path / "a.safetensors", components, CONFIG, title="t")


def test_absent_component_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.safetensors has no text encoder \(it has: unet, vae\)"):
        open_checkpoint(save(tmp_path / "a.safetensors")).state_dict("text_encoder")


def test_a_part_that_is_needed_and_not_there_is_told_with_where_to_take_it_from(tmp_path):
    said = open_checkpoint(save(tmp_path / "a.safetensors")).lacks("text encoder (CLIP)")
    assert said.startswith("a.safetensors holds no text encoder (CLIP), only: unet, vae. Load it with Load DiGSeg U-Net")
    assert said.endswith("from the Stable Diffusion checkpoint it was trained from (node Load Checkpoint).")
    for name in ("digseg-demo-diffusion", "digseg-nuclei"):
        said = open_checkpoint(MODELS / f"{name}.safetensors").lacks("VAE")
        assert said.endswith("take CLIP and VAE from digseg-demo-base (node Load DiGSeg Base).")


def test_tensors_that_lack_or_are_left_over_are_named(tmp_path):
    opened = open_checkpoint(save(tmp_path / "a.safetensors"))
    opened.check_names("VAE", {"a", "b"}, {"a", "b"})
    opened.check_names("VAE", {"a"}, {"a", "b"}, optional="b")
    for found, words in (
        ({"a"}, "lacks 1 of 2 tensors and has 0 unknown ones, for example b"),
        ({"a", "b", "c"}, "0 of 2 .* example c"),
    ):
        with pytest.raises(CheckpointError, match=f"a.safetensors: its VAE .*{words}"):
            opened.check_names("VAE", found, {"a", "b"})


def test_newer_format_and_broken_metadata(tmp_path):
    path = save(tmp_path / "a.safetensors")
    for changes, message in (
        ({"format": "2"}, "format 2, this version reads up to 1"),
        ({"format": "x"}, "format x"),
        ({"format": "1", "config": "{"}, "digseg.config cannot be read"),
        ({"config": "[]"}, "digseg.config cannot be read"),
        ({"config": json.dumps({"unet": UNET})}, "digseg.config cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(edit_metadata(path, **changes))


def test_unknown_fields_of_newer_files_are_ignored_and_values_checked(tmp_path):
    fields = {**json.loads(CONFIG.to_json()), "invented_later": 1}
    assert CheckpointConfig.from_json(json.dumps(fields)) == CONFIG
    path = save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="mask_target is 'fog'; this version knows binary, overlay"):
        open_checkpoint(edit_metadata(path, config=json.dumps({**fields, "mask_target": "fog"})))


def test_mask_target_can_be_said(tmp_path):
    path = save(tmp_path / "a.safetensors")
    assert open_checkpoint(path).config.mask_target == "binary"
    assert open_checkpoint(path, mask_target="overlay").config.mask_target == "overlay"
    with pytest.raises(CheckpointError, match="fog"):
        open_checkpoint(path, mask_target="fog")


def test_base_is_told_from_segmenter(tmp_path):
    base = CheckpointConfig({**UNET, "in_channels": 4}, {**SCHEDULER, "timestep_spacing": "leading"})
    path = save(tmp_path / "base.safetensors", base)
    with pytest.raises(CheckpointError, match="4 input channels: a plain text-to-image model"):
        open_checkpoint(path)
    assert open_checkpoint(path, in_channels=4).config.scheduler["timestep_spacing"] == "trailing"
    with pytest.raises(CheckpointError, match="8 input channels"):
        open_checkpoint(save(tmp_path / "a.safetensors"), in_channels=4)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        open_checkpoint(tmp_path / "nothing.safetensors")


def bare(width: int, ldm: bool) -> dict:
    if ldm:
        prefix, conv, text = "model.diffusion_model.", "input_blocks.0.0.weight", "input_blocks.1.1"
    else:
        prefix, conv, text = "", "conv_in.weight", "down_blocks.0.attentions.0"
    return {
        f"{prefix}{conv}": torch.randn(320, 8, 3, 3),
        f"{prefix}{text}.transformer_blocks.0.attn2.to_k.weight": torch.zeros(320, width),
    }


@pytest.mark.parametrize("ldm", [True, False])
@pytest.mark.parametrize("width", [768, 1024])
def test_bare_unet_opens_once_its_masks_are_known(tmp_path, width, ldm):
    save_file(tensors := bare(width, ldm), tmp_path / "u.safetensors")
    with pytest.raises(CheckpointError, match="choose mask_target binary or overlay"):
        open_checkpoint(tmp_path / "u.safetensors")
    opened = open_checkpoint(tmp_path / "u.safetensors", mask_target="overlay")
    assert opened.config.unet == STABLE_DIFFUSION_UNETS[width]
    assert opened.config.prediction_type == ("v_prediction" if width == 1024 else "epsilon")
    read = opened.state_dict("unet")
    assert set(read) == {"conv_in.weight", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"}
    assert torch.equal(read["conv_in.weight"], next(iter(tensors.values())))


def test_modelspec_says_the_prediction_type_of_a_bare_unet(tmp_path):
    save_file(bare(1024, True), tmp_path / "u.safetensors", {"modelspec.prediction_type": "epsilon"})
    assert open_checkpoint(tmp_path / "u.safetensors", mask_target="binary").config.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("metadata", "extra", "found"),
    [
        ({"modelspec.predict_key": "epsilon"}, (), "epsilon"),
        ({"modelspec.predict_key": "v"}, (), "v_prediction"),
        ({"modelspec.prediction_type": "v_prediction", "modelspec.predict_key": "epsilon"}, (), "v_prediction"),
        ({}, ("v_pred",), "v_prediction"),
        ({}, ("v_pred", "ztsnr"), "v_prediction"),
        ({}, (), "epsilon"),
    ],
)
def test_what_comfyui_saves_says_the_prediction_type(tmp_path, metadata, extra, found):
    tensors = {**bare(768, True), **{name: torch.zeros(0) for name in extra}}
    save_file(tensors, tmp_path / "u.safetensors", metadata)
    scheduler = open_checkpoint(tmp_path / "u.safetensors", mask_target="binary").config.scheduler
    assert scheduler["prediction_type"] == found
    assert scheduler.get("rescale_betas_zero_snr", False) == ("ztsnr" in extra)


def test_an_unknown_prediction_type_is_refused(tmp_path):
    save_file(bare(768, True), tmp_path / "u.safetensors", {"modelspec.predict_key": "sample"})
    with pytest.raises(CheckpointError, match="predicts 'sample'"):
        open_checkpoint(tmp_path / "u.safetensors", mask_target="binary")


@pytest.mark.parametrize("prefix", ["unet.module.", "module.unet.", "module.unet.module.", "_orig_mod.unet."])
def test_wrapped_names_are_those_of_the_network(tmp_path, prefix):
    path = tmp_path / "c.safetensors"
    config = CheckpointConfig(UNET, SCHEDULER)
    save_file({f"{prefix}conv_in.weight": torch.zeros(32, 8, 3, 3)}, path, describe_config(config, "t"))
    assert list(open_checkpoint(path).state_dict("unet")) == ["conv_in.weight"]


def test_a_unet_of_unknown_size_is_not_told_to_choose_what_it_chose(tmp_path):
    save_file({"conv_in.weight": torch.zeros(32, 8, 3, 3)}, tmp_path / "u.safetensors")
    with pytest.raises(CheckpointError, match="nothing says how its layers are built") as raised:
        open_checkpoint(tmp_path / "u.safetensors", mask_target="binary")
    assert "choose mask_target" not in str(raised.value)


def test_diffusers_folders_are_found_at_any_depth(tmp_path):
    for name in ("a", "hub/snapshots/abc", "hub/snapshots/abc/unet", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
    (tmp_path / "hub/circle").symlink_to(tmp_path / "hub")
    assert pipeline_folders(tmp_path) == ["a", "hub/snapshots/abc"]


def test_metadata_in_a_tensor_is_read_as_the_files_own(tmp_path):
    """ComfyUI's save nodes drop metadata that is not theirs, so it travels as a tensor."""
    path, names = tmp_path / "saved.safetensors", unet_modules(LAYOUT)
    metadata = {**describe_config(CheckpointConfig(LAYOUT, SCHEDULER, threshold=0.3), "t"), "digseg.layout": LDM_LAYOUT}
    tensors = {f"model.diffusion_model.{names['conv_in']}.weight": torch.randn(32, 8, 3, 3)}
    save_file({**tensors, METADATA_TENSOR: metadata_tensor(metadata)}, path, {"modelspec.predict_key": "v"})
    opened = open_checkpoint(path)
    assert opened.config.threshold == 0.3 and list(opened.state_dict("unet")) == ["conv_in.weight"]
    for broken in (torch.zeros(3), torch.tensor(list(b"{"), dtype=torch.uint8), torch.tensor(list(b"[1]"), dtype=torch.uint8)):
        save_file({**tensors, METADATA_TENSOR: broken}, path)
        with pytest.raises(CheckpointError, match=r"saved\.safetensors: the tensor digseg\.metadata, .* cannot be read"):
            open_checkpoint(path)


LAYOUT = {
    **UNET,
    "block_out_channels": [32],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
}


DECODER = MaskDecoderConfig(widths=(4, 4, 4, 4), blocks=0)


def with_decoder(path: Path, values: dict | None = None, **tensors) -> Path:
    """A checkpoint whose mask decoder says it is `values`, with some of its tensors replaced."""
    parts = {**TENSORS, "mask_decoder": {**MaskDecoder(DECODER).state_dict(), **tensors}}
    return save(path, replace(CONFIG, mask_decoder=values or DECODER.to_dict()), parts)


def test_a_mask_decoder_goes_round(tmp_path):
    opened = open_checkpoint(with_decoder(tmp_path / "a.safetensors"))
    decoder, stored = opened.mask_decoder(), load_file(tmp_path / "a.safetensors")
    assert decoder.config == DECODER and opened.config.mask_decoder == DECODER.to_dict()
    assert all(torch.equal(stored[f"mask_decoder.{k}"], v) for k, v in decoder.state_dict().items())
    assert open_checkpoint(save(tmp_path / "plain.safetensors")).mask_decoder() is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "unheard of"}, "this version knows kind guided"),
        ({"widths": [4, 4]}, "4 widths of 4 to 512"),
        ({"blocks": 99}, "0 to 16 blocks"),
        ({"widths": 7}, "mask decoder"),
    ],
)
def test_an_unknown_mask_decoder_is_refused_in_words(tmp_path, values, message):
    path = with_decoder(tmp_path / "a.safetensors")
    config = json.loads(open_checkpoint(path).config.to_json())
    edit_metadata(path, config=json.dumps({**config, "mask_decoder": {**config["mask_decoder"], **values}}))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_mask_decoder_that_does_not_fit_is_refused_in_words(tmp_path):
    wider = with_decoder(tmp_path / "a.safetensors", MaskDecoderConfig(widths=(4, 4, 4, 8), blocks=0).to_dict())
    with pytest.raises(CheckpointError, match=r"a.safetensors: \d+ tensors of its mask decoder do not fit"):
        open_checkpoint(wider).mask_decoder()
    extra = with_decoder(tmp_path / "b.safetensors", stranger=torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"1 tensors .* for example stranger \(\(2,\) instead of none\)"):
        open_checkpoint(extra).mask_decoder()
    broken = with_decoder(tmp_path / "c.safetensors", **{"out.3.bias": torch.full((1,), torch.nan)})
    with pytest.raises(CheckpointError, match=r"holds NaN or infinite values, for example in out.3.bias"):
        open_checkpoint(broken).mask_decoder()


def test_half_a_mask_decoder_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="belong together"):
        save(tmp_path / "a.safetensors", replace(CONFIG, mask_decoder=DECODER.to_dict()))
    path = with_decoder(tmp_path / "b.safetensors")
    config = json.loads(open_checkpoint(path).config.to_json())
    edit_metadata(path, config=json.dumps({**config, "mask_decoder": None}))
    with pytest.raises(CheckpointError, match="has its tensors and no configuration"):
        open_checkpoint(path).mask_decoder()
