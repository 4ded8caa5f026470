"""Photos are trained in the shape they are asked about in: the same pixels on both sides, batches of one shape, exact resume."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from digseg_nodes.core.checkpoint import CheckpointConfig, CheckpointError, open_checkpoint
from digseg_nodes.core.geometry import PHOTO_SHAPES, plan_geometry, shape_step
from digseg_nodes.core.inference import ImageSettings, encode_image
from digseg_nodes.core.pixels import from_bytes
from train.data.base import Query, Sample
from train.data.prepare import prepare
from train.learning.loop import Trainer
from train.learning.run_log import read_log
from train.networks.bases import load_networks
from train.networks.engine import DiffusersEngine
from train.settings.train_config import load_config

SIZES = ((96, 128), (128, 72), (64, 64), (200, 30), (53, 91))


@pytest.fixture
def wide_data(tmp_path):
    """Photos of four sizes with a bright box each."""
    rng = np.random.default_rng(0)
    for number in range(12):
        height, width = ((48, 64), (64, 48), (64, 64), (60, 110))[number % 4]
        photo, mask = rng.integers(0, 80, (height, width, 3), dtype=np.uint8), np.zeros((height, width), np.uint8)
        top, left = rng.integers(4, height - 28), rng.integers(4, width - 28)
        photo[top : top + 24, left : left + 24], mask[top : top + 24, left : left + 24] = 230, 255
        for folder, array in (("images", photo), ("masks/box", mask)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{number:02d}.png")
    part = "{type: folder, images: images, masks: masks}"
    (tmp_path / "data.yaml").write_text(f"train: {part}\nvalidation: {part}\n", encoding="utf-8")
    return tmp_path / "data.yaml"


def sample(height: int, width: int) -> Sample:
    rng = np.random.default_rng(height * width)
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return Sample(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (Query("box", ("box",), mask),))


@pytest.mark.parametrize("shape", PHOTO_SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_the_trainer_prepares_the_pixels_that_the_nodes_encode(base, size, shape, monkeypatch):
    engine, one, seen = DiffusersEngine(load_networks(base)), sample(*size), []
    engine.networks.config = replace(engine.networks.config, photo_shape=shape)
    monkeypatch.setattr(DiffusersEngine, "encode_pixels", lambda _self, pixels: seen.append(pixels) or torch.zeros(1, 4, 2, 2))
    encode_image(engine, from_bytes(one.image)[None], ImageSettings(resolution=128))
    assert torch.equal(seen[0][0] * 2 - 1, prepare(one, 128, shape).pixels)


@pytest.mark.parametrize("resolution", [64, 96])
def test_a_tile_is_seen_as_the_trainer_would_see_that_part_of_the_photo(base, resolution, monkeypatch):
    """Also at another resolution than the checkpoint's."""
    engine, one, seen = DiffusersEngine(load_networks(base)), sample(150, 200), []
    engine.networks.config = replace(engine.networks.config, photo_shape="own")

    def encode(_self, pixels):
        seen.extend(pixels)
        return torch.zeros(len(pixels), 4, 2, 2)

    monkeypatch.setattr(DiffusersEngine, "encode_pixels", encode)
    look = ImageSettings(resolution=resolution, tile=100)
    encode_image(engine, from_bytes(one.image)[None], look)
    corners = look.plan(from_bytes(one.image)[None]).corners
    assert len(seen) == len(corners) > 1
    for pixels, (top, left) in zip(seen, corners, strict=True):
        part = Sample(one.image[top : top + 100, left : left + 100], ())
        assert torch.equal(pixels * 2 - 1, prepare(part, resolution, "own").pixels)


@pytest.mark.parametrize("resolution", [64, 128, 500, 512])
def test_own_shapes_fill_nothing_up_and_keep_the_aspect_nearly(resolution):
    for height, width in ((480, 360), (1080, 1920), (700, 701), (333, 500)):
        geometry = plan_geometry(height, width, resolution, "own")
        short = min(geometry.resized)
        if short >= 64 and resolution % 8 == 0:
            assert geometry.padded == geometry.resized and max(geometry.resized) == resolution
        assert abs(short - resolution * min(height, width) / max(height, width)) <= max(
            shape_step(resolution) / 2, 64 - short + 1
        )


@pytest.mark.parametrize("resolution", [64, 128, 500, 512])
def test_square_photos_are_seen_alike_in_every_shape(resolution):
    assert len({plan_geometry(90, 90, resolution, shape) for shape in PHOTO_SHAPES}) == 1


def test_files_that_do_not_say_were_padded_to_a_square():
    config = CheckpointConfig(unet={}, scheduler={})
    assert config.photo_shape == "square"
    text = config.to_json().replace('"photo_shape": "square", ', "")
    assert "photo_shape" not in text and CheckpointConfig.from_json(text).photo_shape == "square"
    with pytest.raises(CheckpointError, match="photo_shape is 'round'"):
        replace(config, photo_shape="round")


@pytest.mark.parametrize(
    "settings", [[], ["cache_latents=false", "augment.variants=1", "augment.crop=0.5"]], ids=["cached", "fresh"]
)
def test_batches_hold_one_shape_and_a_stopped_run_goes_on_bit_for_bit(config_file, wide_data, settings):
    common = [
        f"data={wide_data}",
        "resolution=128",
        "objective=end_to_end",
        "batch_size=2",
        "gradient_accumulation=2",
        "checkpoints.every=2",
        *settings,
    ]
    straight = Trainer(load_config(config_file, [*common, "steps=4", f"output={config_file.parent / 'straight'}"]))
    shapes = [part.noise.shape[2:] for step in range(4) for part in straight.batches[step]]
    assert len(set(shapes)) > 1 and all(16 in shape for shape in shapes)
    straight.run()
    stopped = [*common, f"output={config_file.parent / 'stopped'}"]
    Trainer(load_config(config_file, [*stopped, "steps=2"])).run()
    again = Trainer(load_config(config_file, [*stopped, "steps=4"]))
    again.run()
    files = [load_file(one.config.output / "digseg.safetensors") for one in (straight, again)]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    exported = open_checkpoint(straight.config.output / "digseg.safetensors").config
    assert exported.photo_shape == "own"


def test_a_model_of_squares_is_asked_in_squares(base):
    """What the nodes show a model that was trained on padded photos is the padded photo."""
    engine, one = DiffusersEngine(load_networks(base)), sample(40, 64)
    engine.networks.config = replace(engine.networks.config, photo_shape="square")
    by_hand = np.pad(one.image, ((0, 24), (0, 0), (0, 0)), mode="edge")
    look = ImageSettings(resolution=64)
    images = [from_bytes(image)[None] for image in (one.image, by_hand)]
    assert torch.equal(*(encode_image(engine, image, look).latents for image in images))


def test_things_smaller_than_a_pixel_are_never_taught_as_an_empty_mask():
    one = sample(256, 192)
    masks = [np.zeros((256, 192), bool) for _ in range(24)]
    for number, mask in enumerate(masks):
        mask[7 * number + 3 : 7 * number + 4 + number % 3, 5 * number : 5 * number + 1 + number % 4] = True
    small = replace(one, queries=tuple(Query(f"{n}", ("x",), mask) for n, mask in enumerate(masks)))
    for resolution in (128, 64, 32):
        assert prepare(small, resolution).masks.flatten(1).any(1).all()


@pytest.mark.parametrize("shape", ["own", "square"])
def test_the_share_of_padding_is_said(config_file, wide_data, capsys, shape):
    plans = [plan_geometry(*size, 128, shape) for size in ((48, 64), (64, 48), (64, 64), (60, 110))]
    padding = 1 - sum(prod(plan.resized) for plan in plans) / sum(prod(plan.padded) for plan in plans)
    assert (padding == 0) == (shape == "own")
    config = load_config(config_file, [f"data={wide_data}", "steps=1", "resolution=128", f"photo_shape={shape}"])
    Trainer(config).run()
    assert f"; {padding:.1%} of it is padding" in capsys.readouterr().out
    assert read_log(config.output / "log.jsonl")[0]["padding"] == pytest.approx(padding, abs=1e-4)
    assert f"{padding:.1%} of the encoded pixels are padding" in (config.output / "report.html").read_text(encoding="utf-8")
