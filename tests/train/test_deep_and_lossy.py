"""Photos of more than 8 bits and of several pages (K6), labels in formats that change numbers (K16, K17), MATLAB structs
(K18), and files that nobody should open."""

import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from train.data.base import DataError
from train.data.folder import FolderConfig, FolderSource
from train.data.matlab import read_matlab
from train.data.paired import IndexConfig, IndexSource
from train.data.pixels import TURNS, opened, read_colours, read_numbers, read_photo, turned

SHAPE = (30, 40)
RAMP = np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE)


def png(path, values: np.ndarray, bits: int, kind: int = 0) -> None:
    """A PNG of 1 to 16 bits, kind 0 (grey) or 2 (RGB, 16 bits)."""
    rows = []
    for row in values.reshape(values.shape[0], -1):
        if bits == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
            continue
        unpacked = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows.append(b"\0" + np.packbits(unpacked.astype(np.uint8).ravel()).tobytes())
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def folder(root, photos: dict[str, np.ndarray], **settings) -> FolderSource:
    (root / "images").mkdir(exist_ok=True)
    (root / "masks/a").mkdir(parents=True, exist_ok=True)
    for name, values in photos.items():
        path = root / "images" / name
        tifffile.imwrite(path, values) if name.endswith("tif") else png(path, values, 16, 2 if values.ndim == 3 else 0)
        Image.new("L", values.shape[1::-1], 255).save(root / "masks/a" / f"{path.stem}.png")
    return FolderSource(FolderConfig(type="folder", images=root / "images", masks=root / "masks", **settings))


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_few_bits_in_sixteen_are_declared_or_refused(tmp_path, top, channels):
    values = (RAMP * top).astype(np.uint16)
    values = np.dstack([values] * 3) if channels == 3 else values
    with pytest.raises(DataError, match=rf"range: \[0, {top}\].*range: measured"):
        folder(tmp_path, {"x.png": values}).sample(0)
    expected = values.astype(int) * 255 // top
    for scale in ([0, top], "measured"):
        image = folder(tmp_path, {"x.png": values}, range=scale).sample(0).image
        assert np.abs(image.astype(int) - (expected if channels == 3 else expected[..., None])).max() <= 1


def test_one_photo_of_full_range_speaks_for_a_dark_one(tmp_path):
    photos = {"a.png": (RAMP * 4095).astype(np.uint16), "b.png": (RAMP * 65535).astype(np.uint16)}
    source = folder(tmp_path, photos)
    assert source.sample(0).image.max() == 15
    assert source.sample(1).image.max() == 255


def test_the_measured_range_is_that_of_all_photos_and_part_of_their_identity(tmp_path):
    source = folder(tmp_path, {"a.tif": (RAMP * 1000 - 500).astype(np.int16)}, range="measured")
    before = source.identity(0)
    assert source.sample(0).image.min() == 0
    source = folder(tmp_path, {"b.tif": (RAMP * 1000 - 1500).astype(np.int16)}, range="measured")
    assert source.sample(0).image.min() > 120
    assert source.identity(0) != before


def test_numbers_below_zero_and_fractions_need_a_range(tmp_path):
    for values in ((RAMP * 900 - 400).astype(np.int16), RAMP.astype(np.float32)):
        with pytest.raises(DataError, match="whose black and white nobody can know"):
            folder(tmp_path, {"a.tif": values}).sample(0)
    assert folder(tmp_path, {"a.tif": RAMP.astype(np.float32)}, range=[0, 1]).sample(0).image.max() == 255


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour_tiffs_of_16_bit_keep_their_low_byte(tmp_path, order, compression):
    values = np.dstack([(RAMP * 4095).astype(np.uint16)] * 3)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", byteorder=order, compression=compression)
    assert np.abs(read_photo(tmp_path / "x.tif").astype(int) - values.astype(int) * 255 // 4095).max() == 0


def test_several_pages_need_a_number(tmp_path):
    pages = [Image.new("RGB", (8, 6), colour) for colour in ("black", "red")]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"has 2 pages.*`page:`"):
        read_photo(tmp_path / "x.tif")
    assert (read_photo(tmp_path / "x.tif", page=2) == (255, 0, 0)).all()
    with pytest.raises(DataError, match="a later one"):
        read_photo(tmp_path / "x.tif", page=3)


@pytest.mark.parametrize("number", TURNS)
def test_arrays_turn_as_pillow_turns(number):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert np.array_equal(turned(values, TURNS[number]), np.asarray(Image.fromarray(values).transpose(TURNS[number])))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_class_numbers_are_those_that_are_stored(tmp_path, bits):
    values = np.arange(30 * 40).reshape(SHAPE) % min(2**bits, 5)
    png(tmp_path / "x.png", values, bits)
    assert np.array_equal(read_numbers(tmp_path / "x.png"), values)


def test_class_numbers_of_other_formats(tmp_path):
    values = np.arange(30 * 40).reshape(SHAPE) % 5
    (tmp_path / "x.pgm").write_bytes(b"P5 40 30 15\n" + values.astype(np.uint8).tobytes())
    assert np.array_equal(read_numbers(tmp_path / "x.pgm"), values)
    tifffile.imwrite(tmp_path / "x.tif", values.astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(read_numbers(tmp_path / "x.tif"), values)
    Image.fromarray(np.dstack([values.astype(np.uint8)] * 3)).save(tmp_path / "x.png")
    assert np.array_equal(read_numbers(tmp_path / "x.png"), values)
    tifffile.imwrite(tmp_path / "f.tif", values.astype(np.float32))
    assert np.array_equal(read_numbers(tmp_path / "f.tif"), values)
    tifffile.imwrite(tmp_path / "f.tif", values.astype(np.float32) / 2)
    with pytest.raises(DataError, match="fractions"):
        read_numbers(tmp_path / "f.tif")


@pytest.mark.parametrize("read", [read_numbers, read_colours])
@pytest.mark.parametrize(("name", "options"), [("x.jpg", {}), ("x.webp", {"quality": 80}), ("renamed.png", {"format": "JPEG"})])
def test_labels_in_lossy_formats_are_refused(tmp_path, read, name, options):
    Image.new("L", (8, 8)).save(tmp_path / name, **options)
    with pytest.raises(DataError, match="smears class numbers and colours"):
        read(tmp_path / name)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "x.webp", lossless=True)
    assert (read_colours(tmp_path / "x.webp")[0] == (1, 2, 3)).all()


def test_maps_inside_matlab_structs_and_cells(tmp_path):
    numbers, path = np.arange(30 * 40).reshape(SHAPE) % 20, tmp_path / "x.mat"
    struct_of = {"Segmentation": numbers.astype(np.uint8), "Boundaries": np.zeros(3), "CategoriesPresent": [5]}
    savemat(path, {"GTcls": struct_of})
    for variable in ("GTcls", "GTcls.Segmentation", None):
        assert np.array_equal(read_matlab(path, variable), numbers)
    cell = np.empty((1, 1), object)
    cell[0, 0] = numbers
    savemat(path, {"cell": cell, "name": "text"})
    assert np.array_equal(read_matlab(path, "cell"), numbers)
    savemat(path, {"a": numbers, "b": numbers})
    with pytest.raises(DataError, match=r"2 label maps \(a, b\)"):
        read_matlab(path, None)
    savemat(path, {"a": numbers / 2, "t": "text"})
    for variable, said in (("a", "fractions"), ("t", "expected class numbers"), ("no", "no variable 'no'")):
        with pytest.raises(DataError, match=said):
            read_matlab(path, variable)


def test_odd_files_are_named_and_never_opened(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    os.mkfifo(tmp_path / "images/pipe.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    Image.new("L", (8, 8), 1).save(tmp_path / "labels/a.png")
    config = {"type": "index", "root": tmp_path, "images": "images/*.png", "masks": "labels/{1}.png", "classes": {"x": 1}}
    assert len(IndexSource(IndexConfig(**config))) == 1
    with pytest.raises(DataError, match="no regular file"), opened(tmp_path / "images/pipe.png"):
        pass
    for content in (b"\xd7\xcd\xc6\x9a" + bytes(60), b"", b"\x89PNG\r\n\x1a\n" + bytes(40)):  # a Windows metafile among them
        (tmp_path / "odd.png").write_bytes(content)
        with pytest.raises(DataError, match=r"odd\.png cannot be read as an image"):
            read_photo(tmp_path / "odd.png")


def test_pictures_that_would_fill_the_memory_are_not_decoded(tmp_path):
    png(tmp_path / "x.png", np.zeros((2, 2), int), 8)
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match="more than 178 million pixels"):
        read_photo(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": {}}, "one name at least"),
        ({"images": ""}, "one of them is empty"),
        ({"classes": {" ": 1}}, "none that is empty"),
    ],
)
def test_empty_settings_are_said(tmp_path, change, said):
    config = {"type": "index", "root": tmp_path, "images": "*.png", "masks": "{1}.png", "classes": {"x": 1}, **change}
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=said):
        IndexSource(IndexConfig(**config))
