"""Label maps in MATLAB files, plain or inside structs and cells."""

from pathlib import Path

import numpy as np

from train.data.base import DataError


def read_matlab(path: Path, variable: str | None) -> np.ndarray:
    """A label map [H,W] of whole numbers from a MATLAB file.

    variable: its name, with dots for the fields of structs (GTcls.Segmentation); a struct stands for its only field that is a
    map, None for the only variable that is one. Raises DataError naming what is there instead.
    """
    from scipy.io import loadmat  # needed by this layout only

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    except Exception as error:  # scipy raises whatever damaged bytes lead it to
        raise DataError(
            f"{path} cannot be read as a MATLAB file ({error}). Replace or remove the file, or save it with `-v7`."
        ) from error
    return _whole(_found(content, variable.split(".") if variable else [], path), path)


def _found(content: dict, names: list[str], path: Path) -> np.ndarray:
    """The map behind a chain of names in nested variables and fields."""
    if names and names[0] not in content:
        raise DataError(
            f"{path} has no variable {names[0]!r}, only {list(content)}. Name the label map as `variable:` (a field of a struct "
            "as `variable: struct.field`)."
        )
    if names:
        value = _unwrapped(content[names[0]])
        if names[1:] or _fields(value):
            return _found(_fields(value), names[1:], path)
        return value
    maps = {name: inner for name, value in content.items() if _is_map(inner := _unwrapped(value))}
    structs = {name: fields for name, value in content.items() if (fields := _fields(_unwrapped(value)))}
    if len(maps) == 1:
        return next(iter(maps.values()))
    if not maps and len(structs) == 1:
        return _found(next(iter(structs.values())), [], path)
    raise DataError(
        f"{path} has {len(maps)} label maps ({', '.join(maps) or 'none'}) among {list(content)}. Name the one to read as "
        "`variable:`, a field of a struct as `variable: struct.field`."
    )


def _unwrapped(value):
    """What is inside structs and cells of one element."""
    while isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.reshape(-1)[0]
    return value.toarray() if hasattr(value, "toarray") else value  # sparse


def _fields(value) -> dict:
    """The fields of a struct; none for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        return {name: value.reshape(-1)[0][name] for name in value.dtype.names}
    return {}


def _is_map(value) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "buif" and min(value.shape) > 1


def _whole(values, path: Path) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "buif":
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{path}: the label map is {found}; expected class numbers, [height, width].")
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise DataError(f"{path}: the label map holds fractions; expected whole class numbers.")
        return values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values
