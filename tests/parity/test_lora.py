"""LoRAs of every format apply completely and equal peft's own arithmetic; what does not fit is named."""

import json
import logging

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.ddim import initial_noise
from digseg_nodes.core.schedule import ddim_schedule
from tests.bad_loras import BAD_NAMES, FIT, UNFIT, layer_of
from tests.parity.builders import SCHEDULERS, deviation, make_unet, reference_ddim, write_checkpoint
from tests.parity.lora_formats import FORMATS, PROCESSORS

BOUND = 1e-4
SCALE = 0.18215
SCHEDULER = SCHEDULERS["v"]
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.2", "conv_in", "conv1", "time_emb_proj"]


def with_lora(**options):
    """A small U-Net with a random peft LoRA, and its tensors under peft's names without a prefix."""
    unet = make_unet("one_head_width")
    settings = {"r": 4, "lora_alpha": 4, "target_modules": TARGETS, **options}
    unet.add_adapter(LoraConfig(**settings))
    generator = torch.Generator().manual_seed(4)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator).abs().sqrt())
    return unet, {k: v.clone() for k, v in get_peft_model_state_dict(unet).items()}


@pytest.fixture(scope="module")
def model(host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    return host.load_model(write_checkpoint(folder / "u.safetensors", make_unet("one_head_width"), scheduler=SCHEDULER))


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(9)
    return (
        torch.randn(1, 77, 64, generator=generator),
        torch.randn(1, 4, 8, 8, generator=generator) / SCALE,
        initial_noise(1, 0, (1, 4, 8, 8)),
    )


def ours(host, model, given):
    return host.sample(model, *given, ddim_schedule(SCHEDULER, 2)) * SCALE


def reference(unet, given):
    words, latents, noise = given
    return reference_ddim(unet, words, latents * SCALE, noise, SCHEDULER, 2)


def check(host, model, given, unet, path):
    patched = host.apply_lora(model, path)
    assert deviation(ours(host, patched, given), reference(unet, given)) <= BOUND
    assert deviation(ours(host, model, given), reference(unet, given)) > 100 * BOUND  # the LoRA is not a no-op


@pytest.mark.parametrize("name", FORMATS)
def test_formats(host, tmp_path, model, given, name):
    unet, tensors = with_lora()
    save_file(FORMATS[name](tensors), tmp_path / "lora.safetensors")
    check(host, model, given, unet, tmp_path / "lora.safetensors")


def test_old_attention_processors(host, tmp_path, model, given):
    unet, tensors = with_lora(target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    save_file(PROCESSORS(tensors), tmp_path / "lora.safetensors")
    check(host, model, given, unet, tmp_path / "lora.safetensors")


def test_written_by_diffusers_with_its_metadata(host, tmp_path, model, given):
    """lora_alpha ≠ r travels in the file's metadata."""
    unet, _ = with_lora(lora_alpha=12)
    unet.save_lora_adapter(tmp_path, weight_name="plain.safetensors")
    from diffusers.loaders.lora_base import _pack_dict_with_prefix

    packed = _pack_dict_with_prefix(unet.peft_config["default"].to_dict(), "unet")
    metadata = {"lora_adapter_metadata": json.dumps(packed, default=sorted)}
    save_file(FORMATS["diffusers"](get_peft_model_state_dict(unet)), tmp_path / "lora.safetensors", metadata)
    check(host, model, given, unet, tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "options", [{"lora_alpha": 12}, {"lora_alpha": 4, "use_rslora": True}, {"lora_alpha": 4, "alpha_pattern": {"attn2.to_k": 16}}]
)
def test_peft_folder(host, tmp_path, model, given, options):
    """adapter_model.safetensors with the adapter_config.json that peft writes beside it."""
    plain = UNet2DConditionModel.from_config(dict(make_unet("one_head_width").config)).eval().requires_grad_(False)
    plain.load_state_dict(make_unet("one_head_width").state_dict())
    wrapped = get_peft_model(plain, LoraConfig(r=4, target_modules=TARGETS, **{"lora_alpha": 4, **options})).eval()
    generator = torch.Generator().manual_seed(4)
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(tmp_path)
    check(host, model, given, wrapped, tmp_path / "adapter_model.safetensors")


def test_strength_scales_and_original_stays(host, tmp_path, model, given):
    _, tensors = with_lora()
    save_file(FORMATS["kohya"](tensors), tmp_path / "lora.safetensors")
    plain = ours(host, model, given)
    assert torch.equal(ours(host, host.apply_lora(model, tmp_path / "lora.safetensors", 0.0), given), plain)
    assert torch.equal(ours(host, model, given), plain)


def test_stock_loader_reads_our_names(host, tmp_path, model, given):
    """What we write under kohya's names, LoraLoaderModelOnly applies just the same."""
    import comfy.sd

    _, tensors = with_lora()
    lora = FORMATS["kohya"](tensors)
    save_file(lora, tmp_path / "lora.safetensors")
    stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    assert len(stock.patches) == len(lora) // 2
    assert torch.equal(ours(host, stock, given), ours(host, host.apply_lora(model, tmp_path / "lora.safetensors"), given))


def test_what_does_not_fit_is_named(host, tmp_path, model):
    path = tmp_path / "lora.safetensors"
    _, tensors = with_lora(target_modules=["to_q"])
    fits = FORMATS["kohya"](tensors)
    te = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 64),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(64, 4),
    }
    first = next(k for k in fits if k.endswith("lora_down.weight"))
    cases = [
        ({**fits, **te}, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"),
        ({**fits, "lora_unet_nowhere.lora_down.weight": torch.zeros(1)}, "lora_unet_nowhere.lora_down.weight"),
        ({**fits, first: torch.zeros(4, 999)}, first.removesuffix(".lora_down.weight")),
        ({k: v for k, v in fits.items() if k != first}, first.removesuffix(".lora_down.weight")),
        ({**fits, "something_else": torch.zeros(1)}, "something_else"),
        ({**fits, "unet.mid_block.attn1.to_q.lora_magnitude_vector": torch.zeros(1)}, "a peft DoRA"),
    ]
    for lora, named in cases:
        save_file(lora, path)
        with pytest.raises(CheckpointError, match=named):
            host.apply_lora(model, path)
    path.write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match="is a pickle"):
        host.apply_lora(model, path)


LAYERS = {
    "linear": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
    "conv": "lora_unet_up_blocks_0_resnets_0_conv1",
    "norm": "lora_unet_mid_block_resnets_0_norm1",
}
"""Of other inputs than outputs, each kind."""


def changed(model, patched) -> set[str]:
    """Names of the weights that the host's own arithmetic makes other ones of."""
    import comfy.lora

    before = model.model.state_dict()
    after = {key: comfy.lora.calculate_weight(found, before[key].clone(), key) for key, found in patched.patches.items()}
    return {key for key, weight in after.items() if weight.shape == before[key].shape and not torch.equal(weight, before[key])}


def shape_of(model, kind: str) -> tuple:
    import comfy.lora

    return tuple(model.model.state_dict()[comfy.lora.model_lora_keys_unet(model.model, {})[LAYERS[kind]]].shape)


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in FIT], ids=[row[0] for row in FIT])
def test_every_kind_of_change_that_is_taken_is_calculated(host, tmp_path, model, caplog, kind, parts):
    save_file(layer_of(LAYERS[kind], parts, shape_of(model, kind)), tmp_path / "lora.safetensors")
    patched = host.apply_lora(model, tmp_path / "lora.safetensors")
    with caplog.at_level(logging.WARNING):
        assert changed(model, patched) == set(patched.patches)
    assert not caplog.records
    assert len(patched.patches) == 1 + bool({"diff_b", "b_norm"} & set(parts) and len(parts) > 1)


@pytest.mark.parametrize(("kind", "parts"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_changes_that_the_host_would_leave_out_are_refused_by_name(host, tmp_path, model, kind, parts):
    fits = layer_of("lora_unet_conv_in", {"diff_b": ["O"]}, (32,))
    save_file({**fits, **layer_of(LAYERS[kind], parts, shape_of(model, kind))}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=rf"{LAYERS[kind]}|is \[0, \d+\]; a matrix") as refused:
        host.apply_lora(model, tmp_path / "lora.safetensors")
    assert "conv_in" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("tensors", "settings", "words"), [row[1:] for row in BAD_NAMES], ids=[row[0] for row in BAD_NAMES])
def test_strengths_that_are_no_numbers_are_refused(host, tmp_path, model, tensors, settings, words):
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings or {}))
    with pytest.raises(CheckpointError, match=words):
        host.apply_lora(model, path)


def test_files_that_change_nothing_or_a_weight_twice_are_refused(host, tmp_path, model):
    path = tmp_path / "lora.safetensors"
    save_file({}, path)
    with pytest.raises(CheckpointError, match="it holds no tensors"):
        host.apply_lora(model, path)
    save_file({"lora_unet_conv_in.diff_b": torch.ones(32), "diffusion_model.input_blocks.0.0.diff_b": torch.ones(32)}, path)
    with pytest.raises(CheckpointError, match="change the same weight as another"):
        host.apply_lora(model, path)
