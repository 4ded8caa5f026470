"""Masks out of the guided decoder: chunks, tiles, mirror, memory, who decodes, and the size of the guide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from digseg_nodes.core import decoding
from digseg_nodes.core.encoded import EncodedImage, MaskSource
from digseg_nodes.core.engine import Progress
from digseg_nodes.core.geometry import guide_geometry, plan_geometry
from digseg_nodes.core.inference import decode_masks
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig
from digseg_nodes.core.tiles import cut_tiles, plan_tiles


class OutOfMemoryError(Exception):
    """What this test's device raises."""


@dataclass
class Decoder:
    """A small mask decoder on the CPU that notes what it is asked; `fits`: masks that one call may hold."""

    network: MaskDecoder
    size: int = 3
    fits: int = 99
    guide: float = 2.0
    calls: list = field(default_factory=list)

    def photo_features(self, photo: Tensor) -> list[Tensor]:
        self.calls.append(("photo", tuple(photo.shape[-2:])))
        return self.network.photo_features(photo)

    def logits(self, latents: Tensor, features: list[Tensor]) -> Tensor:
        self.calls.append(("masks", len(latents)))
        if len(latents) > self.fits:
            raise OutOfMemoryError
        return self.network(latents, features)

    def chunk(self, _guide_size: tuple[int, int]) -> int:
        return self.size


class Engine:
    """Has a VAE that answers with noise's mean and nothing else."""

    mask_decoder = None

    def check_vae(self) -> None:
        """There is one."""

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)

    def decode_chunk(self, _latent_size: tuple[int, int]) -> int:
        return 4

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, OutOfMemoryError)

    def release_memory(self) -> None:
        """Nothing is cached."""

    def progress(self, total: int) -> Progress:
        return Progress(total)


@pytest.fixture(scope="module")
def network() -> MaskDecoder:
    torch.manual_seed(0)
    network = MaskDecoder(MaskDecoderConfig(widths=(4, 8, 8, 8), blocks=1, guide=2.0)).eval().requires_grad_(False)
    network.out[-1].weight.mul_(20)
    return network


def encoded(height: int, width: int, tile: int = 0, mirror: bool = False, frames: int = 1, resolution: int = 64) -> EncodedImage:
    generator = torch.Generator().manual_seed(height)
    photo = torch.rand(frames, height, width, 3, generator=generator)
    plan = plan_tiles(height, width, tile) if tile else None
    looked_at = cut_tiles(photo, plan) if plan else photo
    fitted = plan_geometry(*looked_at.shape[1:3], resolution)
    count = len(looked_at) * (2 if mirror else 1)
    return EncodedImage(torch.zeros(count, 4, *fitted.latent), photo, fitted, plan, mirrored=mirror)


def masks_latent(image: EncodedImage, prompts: int, decoder: Decoder | None, members: int = 1) -> dict:
    shape = (members, len(image.latents) * prompts, *image.latents.shape[1:])
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 5
    names = tuple(map(str, range(prompts)))
    return {
        "samples": drawn.mean(0),
        "digseg": MaskSource(image, names, members=drawn if members > 1 else None, mask_decoder=decoder),
    }


def part(latent: dict, prompt: int) -> dict:
    """The same LATENT asked for one prompt alone."""
    source, count = latent["digseg"], len(latent["digseg"].names)
    return {"samples": latent["samples"][prompt::count], "digseg": replace(source, names=(source.names[prompt],))}


@pytest.mark.parametrize("look", [{}, {"tile": 64}, {"mirror": True}, {"tile": 64, "mirror": True}, {"frames": 2}])
def test_a_mask_depends_on_its_photo_and_latent_alone(network, look):
    latent = masks_latent(encoded(96, 120, **look), 5, Decoder(network))
    together = decode_masks(Engine(), latent)
    assert together.decoder == "guided" and together.soft.shape == (look.get("frames", 1), 5, 96, 120)
    assert together.soft.std() > 0.05 and together.soft.min() >= 0 and together.soft.max() <= 1
    for size in (1, 5):
        latent["digseg"] = replace(latent["digseg"], mask_decoder=Decoder(network, size))
        torch.testing.assert_close(decode_masks(Engine(), latent).soft, together.soft, rtol=0, atol=1e-5)
    alone = decode_masks(Engine(), part(latent, 3))
    torch.testing.assert_close(alone.soft[:, 0], together.soft[:, 3], rtol=0, atol=1e-5)


def test_the_photo_is_looked_at_once_however_many_prompts_and_members(network):
    decoder = Decoder(network)
    decode_masks(Engine(), masks_latent(encoded(96, 120, frames=2), 7, decoder, members=3), uncertainty=True)
    assert [call for call in decoder.calls if call[0] == "photo"] == [("photo", (120, 120))] * 2
    assert sum(call[1] for call in decoder.calls if call[0] == "masks") == 2 * 7 * (1 + 3)


def test_out_of_memory_halves_until_it_fits(network):
    image = encoded(96, 120)
    expected = decode_masks(Engine(), masks_latent(image, 7, Decoder(network, 7))).soft
    decoder = Decoder(network, size=7, fits=2)
    found = decode_masks(Engine(), masks_latent(image, 7, decoder)).soft
    assert [call[1] for call in decoder.calls if call[0] == "masks"] == [7, 3, 1, 2, 4, 2, 2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(OutOfMemoryError):
        decode_masks(Engine(), masks_latent(image, 7, Decoder(network, fits=0)))


def test_a_mirrored_photo_gives_the_mirrored_mask(network):
    image = encoded(64, 96, mirror=True)
    latent = masks_latent(image, 1, Decoder(network))
    turned = replace(image, image=image.image.flip(2))
    other = {"samples": latent["samples"].flip(0), "digseg": replace(latent["digseg"], image=turned)}
    torch.testing.assert_close(decode_masks(Engine(), other).soft.flip(-1), decode_masks(Engine(), latent).soft)


def test_uncertainty_is_the_deviation_of_members_and_views(network):
    latent = masks_latent(encoded(64, 96, mirror=True), 2, Decoder(network), members=3)
    found, source = decode_masks(Engine(), latent, uncertainty=True), latent["digseg"]
    readings = []
    for member in source.members:
        for view in (0, 1):
            rows = member.unflatten(0, (2, 2))[view]  # [F*K,...] → [V,K,...]
            photo = source.image.image.flip(2) if view else source.image.image
            single = EncodedImage(torch.zeros(1, 4, 8, 8), photo, source.image.geometry, None)
            one = decode_masks(Engine(), {"samples": rows, "digseg": replace(source, image=single, members=None)}).soft
            readings.append(one.flip(-1) if view else one)
    torch.testing.assert_close(found.spread, torch.stack(readings).std(0, correction=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.soft, decode_masks(Engine(), latent).soft, rtol=0, atol=1e-6)
    alone = masks_latent(encoded(64, 96), 2, Decoder(network))
    assert decode_masks(Engine(), alone, uncertainty=True).spread is None


def test_painted_masks_are_read_by_the_guided_decoder_as_they_are(network):
    latent = masks_latent(encoded(64, 96), 2, Decoder(network))
    painted = {**latent, "digseg": replace(latent["digseg"], mask_target="overlay")}
    assert torch.equal(decode_masks(Engine(), painted).soft, decode_masks(Engine(), latent).soft)


def test_who_decodes(network):
    image = encoded(64, 96)
    with_one, without = masks_latent(image, 1, Decoder(network)), masks_latent(image, 1, None)
    kinds = {(decoder, "one"): decode_masks(Engine(), with_one, decoder=decoder).decoder for decoder in decoding.DECODERS}
    assert kinds == {("auto", "one"): "guided", ("vae", "one"): "vae", ("guided", "one"): "guided"}
    assert torch.equal(decode_masks(Engine(), with_one, decoder="vae").soft, decode_masks(Engine(), without).soft)
    with pytest.raises(ValueError, match=r"There is no guided mask decoder for these masks.*Choose decoder auto or vae"):
        decode_masks(Engine(), without, decoder="guided")
    with pytest.raises(ValueError, match="The decoder is 'best'; choose one of auto, vae, guided"):
        decode_masks(Engine(), with_one, decoder="best")


def test_only_the_guided_decoder_does_without_a_vae(network, monkeypatch):
    def nothing(_self) -> None:
        raise ValueError("There is no VAE")

    monkeypatch.setattr(Engine, "check_vae", nothing)
    latent = masks_latent(encoded(64, 96), 1, Decoder(network))
    assert decode_masks(Engine(), latent).decoder == "guided"
    with pytest.raises(ValueError, match="There is no VAE"):
        decode_masks(Engine(), latent, decoder="vae")


@pytest.mark.parametrize(
    ("photo", "resolution", "guide", "resized"),
    [
        ((512, 512), 128, 2.0, (256, 256)),
        ((512, 512), 128, 8.0, (512, 512)),
        ((360, 480), 128, 4.0, (360, 480)),
        ((64, 64), 128, 4.0, (128, 128)),
        ((2160, 3840), 512, 4.0, (1152, 2048)),
    ],
)
def test_the_guide_is_no_larger_than_the_photo_and_than_trained(photo, resolution, guide, resized):
    seen = plan_geometry(*photo, resolution)
    found = guide_geometry(seen, guide)
    assert found.original == photo and found.resized == resized


@pytest.mark.parametrize("photo", [(97, 65), (719, 1281), (100, 1000), (480, 641), (129, 128)])
@pytest.mark.parametrize("guide", [1.0, 1.7, 4.0])
def test_the_guide_lies_on_the_latents_grid(photo, guide):
    seen = plan_geometry(*photo, 128)
    found = guide_geometry(seen, guide)
    for axis in (0, 1):
        scale = found.padded[axis] / seen.padded[axis]
        assert 1 <= scale <= guide and found.padded[axis] % 8 == 0
        assert abs(found.resized[axis] - seen.resized[axis] * scale) <= 0.5
        assert found.resized[axis] <= max(photo[axis] + 1, seen.resized[axis])
