"""diffusers U-Net configs in the host's words, and refusal of what the host would compute differently."""

import pytest

from digseg_nodes.core.bare_unet import STABLE_DIFFUSION_UNETS
from digseg_nodes.core.ldm_names import inverse, translate, unet_modules, vae_modules
from digseg_nodes.core.unet_layout import UnsupportedUNet, head_counts, host_layout

SD15, SD21 = STABLE_DIFFUSION_UNETS[768], STABLE_DIFFUSION_UNETS[1024]


def test_stable_diffusion_layouts():
    first, uneven = host_layout(SD15)
    assert (first["num_heads"], first["num_head_channels"], uneven) == (8, -1, False)
    assert (first["model_channels"], first["channel_mult"], first["in_channels"]) == (320, [1, 2, 4, 4], 8)
    assert first["transformer_depth"] == [1, 1, 1, 1, 1, 1, 0, 0]
    assert first["transformer_depth_output"] == [1] * 9 + [0] * 3
    second, uneven = host_layout(SD21)
    assert (second["num_heads"], second["num_head_channels"], uneven) == (-1, 64, False)
    assert second["use_linear_in_transformer"]
    assert second["context_dim"] == 1024


def test_transformer_blocks_differ_by_level():
    layout, _ = host_layout({**SD15, "transformer_layers_per_block": [1, 2, 3, 4]})
    assert layout["transformer_depth"] == [1, 1, 2, 2, 3, 3, 0, 0]
    assert layout["transformer_depth_output"] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 0, 0, 0]
    assert layout["transformer_depth_middle"] == 4


def test_heads_uneven_in_count_and_width():
    assert host_layout({**SD15, "attention_head_dim": [5, 5, 10, 20]})[1]
    assert head_counts({**SD15, "attention_head_dim": [5, 5, 10, 20]}) == [5, 5, 10, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"norm_num_groups": 16}, "norm_num_groups=16"),
        ({"block_out_channels": [320, 640, 1000, 1280]}, "block_out_channels"),
        ({"attention_head_dim": 7}, "attention_head_dim"),
        ({"layers_per_block": [1, 2, 2, 2]}, "layers_per_block"),
        ({"cross_attention_dim": [768, 768, 768, 1024]}, "cross_attention_dim"),
        ({"only_cross_attention": True}, "only_cross_attention"),
        ({"down_block_types": ["AttnDownBlock2D"] + SD15["down_block_types"][1:]}, "AttnDownBlock2D"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
    ],
)
def test_refused(change, message):
    with pytest.raises(UnsupportedUNet, match=message):
        host_layout({**SD15, **change})


@pytest.mark.parametrize("modules", [unet_modules(SD15), vae_modules({"block_out_channels": [128, 256, 512, 512]})])
def test_ldm_names_are_one_to_one(modules):
    assert len(inverse(modules)) == len(modules)
    for ours, theirs in modules.items():
        assert translate(f"{ours}.weight", modules) == f"{theirs}.weight"
        assert translate(f"{theirs}.weight", inverse(modules)) == f"{ours}.weight"
    assert translate("nothing.weight", modules) is None
