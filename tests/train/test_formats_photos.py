"""Photos that are no 8-bit pictures: GeoTIFF with bands to choose from, 16 bits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import imwrite

from tests.train.exports import save_text
from train.check_data import main as check_data
from train.data.base import DataError, Source
from train.data.build import open_split
from train.data.config import load_data

HEIGHT, WIDTH = 40, 60
BANDS = (np.arange(HEIGHT * WIDTH * 4).reshape(HEIGHT, WIDTH, 4) % 3001).astype(np.uint16)
"""Reflectances of blue, green, red and near infrared as Sentinel-2 has them: up to some thousands, in 16 bits."""
GEO = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 399960.0, 5800020.0, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
    (42113, "s", 0, "0", True),
]
"""The tags of a GeoTIFF: pixel scale, tie point, keys (UTM 33N), GDAL's value without data."""


def write_photo(path: Path, values: np.ndarray, planar: str = "contig", compression: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    imwrite(path, stored, photometric="minisblack", planarconfig=planar, extratags=GEO, compression=compression)


def source(root: Path, **changes) -> Source:
    """Two photos with labels by number; `changes` are settings of the YAML."""
    (root / "masks").mkdir(exist_ok=True)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:20, 10:30] = 1
    for name in ("a", "b"):
        if not (root / f"images/{name}.tif").is_file():
            write_photo(root / f"images/{name}.tif", BANDS)
        Image.fromarray(labels).save(root / f"masks/{name}.png")
    more = "".join(f", {key}: {value}" for key, value in changes.items())
    yaml = f'{{type: index, root: ., images: images/*.tif, masks: "masks/{{1}}.png", classes: {{field: 1}}{more}}}'
    save_text(root / "data.yaml", f"train: {yaml}\n")
    return open_split(load_data(root / "data.yaml"), "train")[0][0]


@pytest.mark.parametrize(("planar", "compression"), [("contig", None), ("separate", None), ("contig", "zlib")])
def test_bands_are_chosen_and_scaled(tmp_path, planar, compression):
    write_photo(tmp_path / "images/a.tif", BANDS, planar, compression)
    sample = source(tmp_path, bands=[4, 1, 2], range=[0, 3000]).sample(0)
    assert np.array_equal(sample.image, BANDS[..., [3, 0, 1]].astype(int) * 255 // 3000)
    assert sample.queries[0].mask.sum() == 200


def test_bands_of_eight_bits_are_taken_as_they_are(tmp_path):
    bytes_ = (BANDS % 256).astype(np.uint8)
    write_photo(tmp_path / "images/a.tif", bytes_)
    assert np.array_equal(source(tmp_path, bands=[3, 2, 1]).sample(0).image, bytes_[..., [2, 1, 0]])


def test_the_range_of_bands_is_asked_for_or_measured(tmp_path):
    with pytest.raises(DataError, match=r"a.tif has 16 bits, but no value above 3000.* Say `range: \[0, 4095\]`"):
        source(tmp_path, bands=[3, 2, 1]).sample(0)
    write_photo(tmp_path / "images/b.tif", BANDS // 2 + 500)
    sample = source(tmp_path, bands=[3, 2, 1], range="measured").sample(0)
    assert np.array_equal(sample.image, BANDS[..., [2, 1, 0]].astype(int) * 255 // 3000)
    write_photo(tmp_path / "images/b.tif", BANDS.astype(np.float32) / 3000)
    with pytest.raises(DataError, match="whose black and white nobody can know"):
        source(tmp_path, bands=[3, 2, 1]).sample(1)
    assert source(tmp_path, bands=[3, 2, 1], range=[0, 1]).sample(1).image.max() == 255


def test_other_bands_are_another_sample(tmp_path):
    plain, other = source(tmp_path, bands=[3, 2, 1], range=[0, 3000]), source(tmp_path, bands=[4, 3, 2], range=[0, 3000])
    assert plain.identity(0) != other.identity(0)


def test_what_is_wrong_with_bands_is_said(tmp_path):
    with pytest.raises(DataError, match=r"Name three `bands:` if it has others than red, green and blue"):
        source(tmp_path).sample(0)
    with pytest.raises(DataError, match=r"a.tif has 4 bands; `bands: \[5, 2, 1\]` asks for number 5"):
        source(tmp_path, bands=[5, 2, 1]).sample(0)
    (tmp_path / "images/a.tif").write_bytes(b"no TIFF at all")
    with pytest.raises(DataError, match=r"a.tif cannot be read as TIFF .*`bands:` is for TIFF and GeoTIFF"):
        source(tmp_path, bands=[3, 2, 1]).sample(0)


def test_photos_whose_size_only_tifffile_can_tell(tmp_path):
    """YOLO's labels do not say the size of their photo."""
    write_photo(tmp_path / "images/a.tif", BANDS)
    save_text(tmp_path / "labels/a.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    save_text(tmp_path / "yolo.yaml", "train: images\nnames: [field]\n")
    save_text(tmp_path / "ours.yaml", "train: {type: yolo, file: yolo.yaml, bands: [3, 2, 1], range: [0, 3000]}\n")
    sample = open_split(load_data(tmp_path / "ours.yaml"), "train")[0][0].sample(0)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.queries[0].mask.sum() == HEIGHT * WIDTH / 4


def test_grey_photos_of_16_bits(tmp_path, capsys):
    """As microscopes save them: PNG of 16 bits, 12 of which are used."""
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(BANDS[..., 0]).save(tmp_path / f"images/{name}.tif")
    source(tmp_path)
    with pytest.raises(SystemExit, match="2 problems"):
        check_data([str(tmp_path / "data.yaml")])
    assert "Say `range: [0, 4095]`" in capsys.readouterr().out
    sample = source(tmp_path, range=[0, 4095]).sample(0)
    assert np.array_equal(sample.image, (BANDS[..., :1].astype(int) * 255 // 4095).repeat(3, axis=2))
