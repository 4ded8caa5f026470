"""The guided mask decoder: shapes, independence of masks, cost, precision, config."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from digseg_nodes.core.errors import CheckpointError
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig

SMALL = MaskDecoderConfig(widths=(4, 8, 8, 8), blocks=1)


@pytest.fixture
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(SMALL).eval()


def photos(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def latents(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(count, 4, height, width, generator=torch.Generator().manual_seed(2)) * 5


@pytest.mark.parametrize(("grid", "guide"), [((8, 8), (64, 64)), ((4, 9), (97, 211)), ((16, 2), (128, 16)), ((3, 5), (24, 41))])
def test_logits_have_the_guides_size_whatever_the_latents(decoder, grid, guide):
    logits = decoder(latents(3, *grid), decoder.photo_features(photos(1, *guide)))
    assert logits.shape == (3, *guide) and logits.isfinite().all()


def test_a_mask_depends_on_its_own_latent_and_photo_alone(decoder):
    photo, latent, index = photos(2, 40, 56), latents(5, 5, 7), torch.tensor([0, 1, 1, 0, 1])
    together = decoder(latent, decoder.photo_features(photo), index)
    for number in range(5):
        alone = decoder(latent[number : number + 1], decoder.photo_features(photo[index[number]][None]))
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)
    swapped = decoder(latent, decoder.photo_features(photo.flip(0)), index)
    assert not torch.allclose(together, swapped, atol=1e-3)


def test_chunks_of_prompts_give_the_same_masks(decoder):
    features, latent = decoder.photo_features(photos(1, 64, 48)), latents(7, 8, 6)
    chunks = torch.cat([decoder(part, features) for part in latent.split(3)])
    torch.testing.assert_close(decoder(latent, features), chunks, rtol=1e-4, atol=1e-5)


def test_far_away_pixels_do_not_matter(decoder):
    """No statistics of the whole picture: what is padded beside a photo changes masks near the seam only."""
    photo, latent = photos(1, 64, 512), latents(1, 8, 64)
    other_photo, other_latent = photo.clone(), latent.clone()
    other_photo[..., 320:], other_latent[..., 40:] = 0.0, 0.0
    first = decoder(latent, decoder.photo_features(photo))
    second = decoder(other_latent, decoder.photo_features(other_photo))
    torch.testing.assert_close(first[..., :128], second[..., :128], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first[..., 320:], second[..., 320:], atol=1e-3)


def test_cost_at_512_pixels_stays_within_ten_gflop_per_photo_and_per_prompt():
    decoder = MaskDecoder()
    with torch.no_grad():
        with FlopCounterMode(display=False) as per_photo:
            features = decoder.photo_features(photos(1, 512, 512))
        with FlopCounterMode(display=False) as per_prompt:
            decoder(latents(1, 64, 64), features)
    assert 1e9 < per_photo.get_total_flops() <= 10e9
    assert 1e9 < per_prompt.get_total_flops() <= 10e9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same_masks(decoder, dtype):
    photo, latent = photos(1, 32, 32), latents(2, 4, 4)
    exact = decoder(latent, decoder.photo_features(photo))
    low = decoder.to(dtype)(latent.to(dtype), decoder.photo_features(photo.to(dtype)))
    assert low.dtype == dtype and low.isfinite().all()
    assert (low.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_config_survives_json_and_forgives_newer_files():
    config = MaskDecoderConfig(widths=(8, 8, 16, 32), blocks=2, guide=2)
    assert MaskDecoderConfig.from_dict(json.loads(json.dumps({**config.to_dict(), "newer": 1}))) == config
    assert MaskDecoderConfig.from_dict({}) == MaskDecoderConfig()


@pytest.mark.parametrize(
    "values",
    [{"kind": "other"}, {"widths": [16, 24]}, {"widths": [0, 8, 8, 8]}, {"blocks": 99}, {"guide": 0.5}, {"widths": 3}, []],
)
def test_config_out_of_bounds_is_refused_in_words(values):
    with pytest.raises(CheckpointError, match="mask decoder"):
        MaskDecoderConfig.from_dict(values)
