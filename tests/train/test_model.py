"""Opening bases and widening the first convolution."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digseg_nodes.core.checkpoint import CheckpointError, save_checkpoint
from digseg_nodes.core.schedule import ddim_schedule
from tests.train.helpers import V_SCHEDULER, tiny_base, tiny_unet
from train.convert import convert, parse
from train.learning.start import load_base
from train.networks.bases import expand_conv_in, load_networks, open_base
from train.networks.text_encoding import prompt_tokens
from train.settings.train_config import load_config


def test_widened_unet_equals_the_base_on_the_averaged_input():
    torch.manual_seed(0)
    old = tiny_unet().eval()
    new = tiny_unet().eval()
    new.load_state_dict(old.state_dict())
    expand_conv_in(new)
    image, mask, text = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 77, 16)
    with torch.no_grad():
        expected = old((image + mask) / 2, 7, text).sample
        assert torch.allclose(new(torch.cat([image, mask], 1), 7, text).sample, expected, atol=1e-5)
    assert new.config.in_channels == 8


def test_bases_with_four_and_eight_channels_load_with_eight(base, tmp_path):
    assert load_networks(base).unet.config.in_channels == 8
    eight = tiny_base(tmp_path / "eight.safetensors", in_channels=8)
    networks = load_networks(eight)
    assert torch.equal(networks.unet.conv_in.weight, open_base(eight).state_dict("unet")["conv_in.weight"])


def test_random_initialisation_forgets_the_weights_and_is_seeded(base):
    pretrained, first, again = (load_networks(base, init=i, seed=3).unet for i in ("pretrained", "random", "random"))
    assert torch.equal(first.conv_out.weight, again.conv_out.weight)
    assert not torch.equal(first.mid_block.resnets[0].conv1.weight, pretrained.mid_block.resnets[0].conv1.weight)


def test_a_model_that_is_not_there_is_named_with_a_way_to_get_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file or folder .*nothing is downloaded") as raised:
        load_networks(tmp_path / "no.safetensors")
    assert "huggingface-cli" not in str(raised.value)
    with pytest.raises(CheckpointError, match="huggingface-cli download owner/name --local-dir name"):
        load_networks(Path("owner/name"))


def test_a_text_encoder_of_another_family_is_refused(base, tmp_path):
    other = open_base(base)
    wide = replace(other.config, text_encoder={**other.config.text_encoder, "hidden_size": 24})
    parts = {part: other.state_dict(part) for part in other.components}
    save_checkpoint(tmp_path / "other.safetensors", parts, wide, title="t")
    with pytest.raises(CheckpointError, match=r"are 24 numbers wide, the U-Net of .* reads 16"):
        load_networks(base, tmp_path / "other.safetensors")


def test_vae_and_text_encoder_are_frozen(base):
    networks = load_networks(base)
    frozen = [*networks.vae.parameters(), *networks.text_encoder.parameters()]
    assert frozen
    assert not any(parameter.requires_grad for parameter in frozen)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"notes\.safetensors"):
        open_base(path)


@pytest.mark.parametrize("objective", ["diffusion", "end_to_end"])
def test_a_model_that_spaced_its_steps_otherwise_is_recorded_as_trailing(config_file, tmp_path, objective):
    """With leading spacing the one step of `end_to_end` would be asked at t = 1, where nothing was trained (method 3.7)."""
    leading = {**V_SCHEDULER, "timestep_spacing": "leading", "steps_offset": 1}
    base = tiny_base(tmp_path / "leading.safetensors", in_channels=8, scheduler=leading)
    networks = load_base(load_config(config_file, [f"base={base}", f"objective={objective}"]))
    assert ddim_schedule(networks.config.scheduler, 1).timesteps == [999]


def test_a_lora_cannot_change_how_its_base_is_sampled(config_file, tmp_path):
    leading = {**V_SCHEDULER, "timestep_spacing": "leading"}
    base = tiny_base(tmp_path / "leading.safetensors", in_channels=8, scheduler=leading)
    with pytest.raises(CheckpointError, match=r"initial_noise=zero default_steps=1 .*spacing=trailing"):
        load_base(load_config(config_file, [f"base={base}", "lora={rank: 4}", "objective=end_to_end"]))


@pytest.mark.parametrize(("activation", "pad"), [("quick_gelu", 49407), ("gelu", 0)])
def test_prompts_are_padded_as_the_text_encoder_was_trained(base, activation, pad):
    encoder = load_networks(base).text_encoder
    encoder.config.hidden_act = activation
    tokens = prompt_tokens(encoder, ["a red circle", ""])
    assert tokens[0, :5].tolist()[-1] == 49407
    assert tokens[0, 5:].unique().tolist() == tokens[1, 2:].unique().tolist() == [pad]


def test_a_diffusers_folder_is_a_base_like_the_single_file(base, tmp_path):
    convert(parse([str(base), str(tmp_path / "folder")]))
    found, expected = load_networks(tmp_path / "folder"), load_networks(base)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(found, part).state_dict(), getattr(expected, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert found.config.prediction_type == expected.config.prediction_type
