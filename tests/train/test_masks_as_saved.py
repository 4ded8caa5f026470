"""K1: masks whose mark is a colour, a grey level, a palette entry or the alpha channel are read right, or are an error that
names what they could mean."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.train.helpers import folder_dataset
from train.check_data import main as check_data
from train.data.base import DataError
from train.data.folder import FolderConfig, FolderSource
from train.data.marks import read_mask

H, W = 64, 96
ROWS, COLUMNS = np.mgrid[:H, :W]
DISC = (ROWS - 26) ** 2 + (COLUMNS - 40) ** 2 < 14**2
GREY = np.where(DISC, 255, 0).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(40, 200, (H, W, 3), dtype=np.uint8)
FULL = np.full((H, W), 255, np.uint8)


def painted(colour, ground=(0, 0, 0)) -> np.ndarray:
    out = np.zeros((H, W, 3), np.uint8)
    out[:], out[DISC] = ground, colour
    return out


def palette(*colours, numbers=DISC) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def with_alpha(colours, alpha=GREY) -> np.ndarray:
    return np.dstack([colours, alpha])


CLEAR = {
    "white": GREY,
    "red": painted((255, 0, 0)),
    "blue": painted((0, 0, 255)),
    "cyan": painted((0, 255, 255)),
    "yellow": painted((255, 255, 0)),
    "magenta": painted((255, 0, 255)),
    "dark blue": painted((0, 0, 100)),
    "VOC's first colour": palette((0, 0, 0), (128, 0, 0)),
    "palette of two": palette((0, 0, 0), (255, 255, 255)),
    "grey 100": np.where(DISC, 100, 0).astype(np.uint8),
    "grey 20": np.where(DISC, 20, 0).astype(np.uint8),
    "1 bit": Image.fromarray(GREY).convert("1"),
    "16 bit": GREY.astype(np.uint16) * 257,
    "12 bit": np.where(DISC, 4095, 0).astype(np.uint16),
    "8 in 16 bit": GREY.astype(np.uint16),
    "alpha, white": with_alpha(np.dstack([FULL] * 3)),
    "alpha, black": with_alpha(np.zeros((H, W, 3), np.uint8)),
    "grey and alpha": Image.fromarray(np.dstack([FULL, GREY]), "LA"),
    "opaque alpha": with_alpha(painted((255, 255, 255)), FULL),
    "alpha and colour agree": with_alpha(painted((255, 0, 0))),
    "a layer over white": with_alpha(painted((255, 0, 0), (255, 255, 255))),
    "cut out of the photo": with_alpha(PHOTO * DISC[..., None]),
    "soft edge": Image.fromarray(GREY).resize((2 * W, 2 * H)).resize((W, H), Image.Resampling.BILINEAR),
}


def save(path, picture):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return path


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_clear_is_read(tmp_path, name):
    marked, unknown = read_mask(save(tmp_path / "m.png", CLEAR[name]))
    assert (marked != DISC).mean() < 0.005
    assert not unknown.any()


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255), (100, 100, 100)])
def test_a_mask_as_jpeg_is_read(tmp_path, colour):
    Image.fromarray(painted(colour)).save(tmp_path / "m.jpg", quality=85)
    assert (read_mask(tmp_path / "m.jpg")[0] != DISC).mean() < 0.005


def test_fractions_are_levels(tmp_path):
    assert np.array_equal(read_mask(save(tmp_path / "m.tif", DISC.astype(np.float32)))[0], DISC)


def test_all_and_nothing(tmp_path):
    assert read_mask(save(tmp_path / "m.png", FULL))[0].all()
    assert not read_mask(save(tmp_path / "m.png", GREY * 0))[0].any()


def test_a_blurred_mask_is_cut_at_half(tmp_path):
    blurred = Image.fromarray(GREY).filter(ImageFilter.GaussianBlur(4))
    assert np.array_equal(read_mask(save(tmp_path / "m.png", blurred))[0], np.asarray(blurred) >= 128)


SECOND = painted((255, 0, 0))
SECOND[50:60, 70:90] = (60, 20, 90)
TRIMAP = GREY.copy()
TRIMAP[:12] = 128
DOUBTFUL = {
    "levels of 0 and 1": (GREY // 255, "`type: index`"),
    "two colours": (SECOND, r"grey|\(255, 0, 0\) .* and \(60, 20, 90\)"),
    "red on white": (painted((255, 0, 0), (255, 255, 255)), "background that is not black"),
    "unknown level 128": (TRIMAP, "`ignore:`"),
    "all grey": (np.full((H, W), 100, np.uint8), "all or nothing"),
    "soft and dark": (np.asarray(Image.fromarray(GREY).filter(ImageFilter.GaussianBlur(6))) // 3, "too dark"),
    "a photo with a transparent part": (with_alpha(PHOTO), "ComfyUI's mask editor"),
    "a palette that hides the numbers": (palette((0, 0, 0), (0, 0, 0)), "in one colour"),
    "12 bit, soft": (np.where(DISC, COLUMNS * 40, 0).astype(np.uint16), "white is not 65535"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_could_mean_two_things_names_both(tmp_path, name):
    picture, said = DOUBTFUL[name]
    with pytest.raises(DataError, match=said):
        read_mask(save(tmp_path / "m.png", picture))


def test_the_data_yaml_decides_what_is_doubtful(tmp_path):
    path = save(tmp_path / "m.png", with_alpha(PHOTO))
    assert np.array_equal(read_mask(path, how="alpha")[0], DISC)
    assert np.array_equal(read_mask(path, how="transparent")[0], ~DISC)
    assert read_mask(save(path, SECOND), how="any")[0][50:60, 70:90].all()
    assert np.array_equal(read_mask(save(path, 255 - GREY), how="dark")[0], DISC)
    marked, unknown = read_mask(save(path, TRIMAP), ignore=128)
    assert np.array_equal(unknown, TRIMAP == 128)
    assert np.array_equal(marked, TRIMAP == 255)


def test_masks_that_all_cover_most_of_their_photo_may_be_inverted(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    for path in (tmp_path / "masks/box").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    check_data([str(data)])
    assert "WARNING class box: all 2 masks cover more than half of their photo" in capsys.readouterr().out
    source = FolderSource(FolderConfig(type="folder", images=tmp_path / "images", masks=tmp_path / "masks", marks="dark"))
    assert source.sample(0).queries[0].mask.mean() < 0.2
