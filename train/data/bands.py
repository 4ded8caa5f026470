"""Photos of more bands than red, green and blue, as satellites and drones take them: TIFF and GeoTIFF files, through tifffile."""

from pathlib import Path

import numpy as np

from train.data.base import DataError


def read_bands(path: Path, bands: tuple[int, int, int]) -> np.ndarray:
    """The stored values [H,W,3] of three bands, counted from 1, in their order; DataError where the file has no such bands."""
    values = _opened(path, lambda page: (page.asarray(), page.axes))
    try:
        values = _bands_last(*values)
    except ValueError as error:
        raise DataError(f"{path} has the axes {error}; expected height, width and bands.") from error
    if max(bands) > values.shape[2]:
        raise DataError(f"{path} has {values.shape[2]} bands; `bands: {list(bands)}` asks for number {max(bands)} (from 1).")
    return values[..., [band - 1 for band in bands]]


def bands_size(path: Path) -> tuple[int, int]:
    """(height, width) of a TIFF file, from its header."""
    return _opened(path, lambda page: (page.imagelength, page.imagewidth))


def _opened(path: Path, read):
    """What `read` makes of the first page; whatever is wrong with the file is a DataError."""
    from tifffile import TiffFile  # needed by few

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with TiffFile(path) as file:
            return read(file.pages[0])
    except Exception as error:  # damaged bytes raise whatever they lead to
        more = " (pip install imagecodecs)" if "imagecodecs" in str(error) else ""
        raise DataError(
            f"{path} cannot be read as TIFF ({error}){more}; `bands:` is for TIFF and GeoTIFF files alone."
        ) from error


def _bands_last(values: np.ndarray, axes: str) -> np.ndarray:
    """[H,W,C] of values in the order that `axes` names: Y, X, and S for the bands."""
    if axes == "YX":
        return values[..., None]
    if axes == "SYX":
        return np.moveaxis(values, 0, 2)
    if axes != "YXS":
        raise ValueError(axes)
    return values
