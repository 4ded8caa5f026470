"""The live picture: where the tint lies, for either way of drawing masks."""

from dataclasses import replace

import numpy as np
import torch

from digseg_nodes.core.encoded import EncodedImage
from digseg_nodes.core.geometry import plan_geometry
from digseg_nodes.core.palettes import palette
from digseg_nodes.core.preview import SECONDS, SIZE, STRENGTH, MaskPreview

PROBE = torch.tensor([[0.0] * 4, [1.0] * 4])


def encoded(brightness: torch.Tensor) -> EncodedImage:
    """A grey photo [8h,8w] whose latent [4,h,w] is its brightness."""
    photo = brightness.repeat_interleave(8, 0).repeat_interleave(8, 1)
    geometry = plan_geometry(*photo.shape, max(photo.shape))
    return EncodedImage(brightness.expand(1, 4, -1, -1), photo[None, ..., None].expand(-1, -1, -1, 3), geometry, None, PROBE)


def tinted(target: str, painted: torch.Tensor, photo: torch.Tensor) -> np.ndarray:
    """Where the preview differs from the bare photo, in the middle of each latent pixel: bool [h,w]."""
    image = encoded(photo)
    previews = (
        MaskPreview(image, target).draw(0, 0, painted.expand(4, -1, -1)),
        MaskPreview(image).draw(0, 0, torch.zeros(4, 8, 8)),
    )
    mask, none = (np.asarray(preview).astype(int) for preview in previews)
    step = len(mask) // len(photo)
    return (np.abs(mask - none).max(-1) > 12)[step // 2 :: step, step // 2 :: step]


def test_white_on_black():
    mask = torch.zeros(8, 8)
    mask[2:5, 3:7] = 1
    assert np.array_equal(tinted("binary", mask, torch.full((8, 8), 0.8)), mask.bool().numpy())


def test_white_on_the_photo():
    """A bright half of the photo is no mask; read as white on black it would be."""
    photo, mask = torch.full((8, 8), 0.2), torch.zeros(8, 8)
    photo[:, 4:] = 0.7
    mask[2:5, 2:6] = 1
    painted = photo + mask * (1 - photo)
    assert np.array_equal(tinted("overlay", painted, photo), mask.bool().numpy())
    assert tinted("binary", painted, photo)[:, 4:].all()


def test_a_picture_is_never_larger_than_its_photo():
    assert MaskPreview(encoded(torch.zeros(8, 8))).draw(0, 0, torch.zeros(4, 8, 8)).size == (64, 64)
    wide = MaskPreview(encoded(torch.zeros(50, 100))).draw(0, 0, torch.zeros(4, 50, 100))
    assert wide.size == (SIZE, SIZE // 2)


def test_a_mirrored_views_mask_lies_on_the_photo_as_it_is():
    mask, photo = torch.zeros(8, 8), torch.full((8, 8), 0.5)
    mask[2:5, 1:3] = 1
    both = replace(encoded(photo), mirrored=True, latents=torch.zeros(2, 4, 8, 8))
    plain, turned = (
        np.asarray(MaskPreview(both).draw(view, 0, one.expand(4, -1, -1))) for view, one in ((0, mask), (1, mask.flip(1)))
    )
    assert np.array_equal(plain, turned)
    assert not np.array_equal(plain, np.asarray(MaskPreview(both).draw(1, 0, mask.expand(4, -1, -1))))


def test_every_prompt_has_the_colour_it_has_in_the_overlay():
    preview, everything = MaskPreview(encoded(torch.zeros(8, 8))), torch.ones(4, 8, 8)
    shown = [np.asarray(preview.draw(0, prompt, everything))[32, 32] for prompt in range(3)]
    assert np.allclose(shown, palette(3).numpy() * STRENGTH, atol=1)


def test_pictures_are_drawn_no_faster_than_anybody_sees(monkeypatch):
    now, preview = [100.0], MaskPreview(encoded(torch.full((8, 8), 0.5)))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert preview.due()
    preview.draw(0, 0, torch.zeros(4, 8, 8))
    assert not preview.due()
    now[0] += SECONDS
    assert preview.due()
