"""The folder layout: what it gives, and errors that name the file and what to do."""

import shutil
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.train.helpers import folder_dataset
from train.data.base import DataError
from train.data.folder import FolderSource
from train.data.prepare import prepare
from train.data.source_config import FolderConfig


@pytest.fixture
def root(tmp_path):
    folder_dataset(tmp_path, count=3, size=(48, 64))
    return tmp_path


def source(root, **settings) -> FolderSource:
    return FolderSource(FolderConfig(type="folder", images=root / "images", masks=root / "masks", **settings))


def test_present_and_absent_classes(root):
    sample = source(root, classes={"box": "crate", "disc": ["disc", "coin"]}).sample(0)
    present, absent = sample.queries
    assert (present.name, present.prompts, present.group) == ("box", ("crate",), "seen")
    assert present.mask.any()
    assert (absent.name, absent.group, absent.mask) == ("disc", "absent_random", None)


def test_held_out_classes_are_marked(root):
    assert source(root, held_out=["box"]).sample(0).queries[0].group == "held_out"


def test_unknown_pixels_are_no_part_of_a_mask(root):
    path = root / "masks" / "box" / "000.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[:10] = 200
    Image.fromarray(mask).save(path)
    sample = source(root, ignore=200).sample(0)
    assert sample.ignore[:10].all()
    assert not sample.queries[0].mask[:10].any()


def test_a_mask_of_zeros_and_ones_is_not_taken_for_an_empty_one(root):
    path = root / "masks" / "box" / "000.png"
    Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    with pytest.raises(DataError, match="has no grey level above 1, so nothing"):
        source(root).sample(0)
    assert source(root, ignore=1).sample(0).queries  # where 1 says unknown, nothing is wrong


def test_photos_are_turned_upright_as_the_nodes_see_them(root):
    (photo,) = (root / "images").glob("000.*")
    photo.unlink()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (48, 64)).save(root / "images/000.jpg", exif=exif)  # 64 x 48 upright
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :20] = 255
    for folder in (root / "masks").iterdir():
        Image.fromarray(mask).save(folder / "000.png")
    assert source(root).sample(0).image.shape == (48, 64, 3)
    for folder in (root / "masks").iterdir():
        Image.fromarray(mask.T.copy()).save(folder / "000.png")
    assert source(root).sample(0).image.shape == (64, 48, 3)  # drawn on the pixels as they are stored


ORIENTATION_IN_WORDS = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, ExifTags.Base.Orientation, 2, 4, b"six\0", 0)


@pytest.mark.parametrize("exif", [ORIENTATION_IN_WORDS, b"garbage"])
def test_odd_exif_data_is_no_reason_to_stop(root, exif):
    (photo,) = (root / "images").glob("000.*")
    photo.unlink()
    Image.new("RGB", (64, 48)).save(root / "images/000.png", exif=exif)
    assert source(root).sample(0).image.shape == (48, 64, 3)


def test_a_mask_that_lies_as_its_photo_does_is_turned_with_it(root):
    (photo,) = (root / "images").glob("000.*")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for path in (photo, root / "masks/box/000.png"):
        Image.open(path).save(path, exif=exif)
    stored = np.asarray(Image.open(photo))
    sample = source(root).sample(0)
    assert np.array_equal(sample.image, stored[::-1, ::-1])
    assert np.array_equal(sample.queries[0].mask, np.asarray(Image.open(root / "masks/box/000.png"))[::-1, ::-1] >= 128)


def test_a_photo_of_16_bit_keeps_its_grey_levels(root):
    (photo,) = (root / "images").glob("000.*")
    ramp = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    photo.unlink()
    Image.fromarray(ramp).save(root / "images/000.png")
    image = source(root).sample(0).image
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    assert abs(image[..., 0].astype(int) - ramp / 257).max() <= 1


def test_a_photo_of_floating_point_numbers_is_refused(root):
    (photo,) = (root / "images").glob("000.*")
    photo.unlink()
    Image.fromarray(np.zeros((48, 64), np.float32)).save(root / "images/000.tif")
    with pytest.raises(DataError, match="whose black and white nobody can know"):
        source(root).sample(0)


def test_identity_follows_the_content(root):
    before = source(root).identity(1)
    assert before == source(root).identity(1)
    shutil.copy(root / "masks" / "box" / "000.png", root / "masks" / "disc" / "001.png")
    assert source(root).identity(1) != before


def test_prepared_samples_are_square_and_padding_is_unlabelled(root):
    prepared = prepare(source(root).sample(0), 64)
    assert prepared.pixels.shape == (3, 64, 64)
    assert prepared.masks.shape == (1, 64, 64)
    assert prepared.valid.shape == (8, 8)
    assert prepared.valid[:6].all()
    assert not prepared.valid[6:].any()
    assert prepared.pixels.abs().max() <= 1


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda root: shutil.rmtree(root / "masks"), "no mask folder"),
        (lambda root: shutil.rmtree(root / "images"), "no image folder"),
        (lambda root: [file.unlink() for file in (root / "images").iterdir()], "holds no images"),
        (lambda root: shutil.copy(root / "images" / "000.png", root / "images" / "000.jpg"), "share the name 000"),
        (lambda root: [file.unlink() for file in (root / "masks" / "disc").iterdir()], "No mask in .*disc"),
    ],
)
def test_a_damaged_folder_is_explained(root, damage, complaint):
    damage(root)
    with pytest.raises(DataError, match=complaint):
        source(root)


def test_a_mask_of_another_size_names_both_files(root):
    path = root / "masks" / "box" / "000.png"
    Image.open(path).resize((10, 10)).save(path)
    with pytest.raises(DataError, match=r"box.000\.png is 10x10 pixels but .*000\.png is 64x48"):
        source(root).sample(0)


def test_a_broken_image_is_named(root):
    (root / "images" / "001.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"001\.png cannot be read"):
        source(root).sample(1)
