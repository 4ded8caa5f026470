"""Photos to segment: a folder, a list of files, or tar shards as WebDataset writes them."""

import glob
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digseg_nodes.core.file_names import safe_names
from train.data.base import DataError
from train.data.by_others import is_file, read_text
from train.data.names import is_foreign
from train.data.pixels import IMAGE_SUFFIXES, read_photo
from train.settings.yaml_config import expand, shortened


@dataclass(frozen=True)
class Photo:
    """One photo. name: what tells it from all others. stem: its results' file name. size: bytes of its file.

    read: gives uint8 [H,W,3]; raises DataError for a file that is no photo.
    """

    name: str
    stem: str
    size: int
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class _Found:
    """A photo before its results have a name; `label` is what they are named after, where nothing else has that name."""

    name: str
    label: str
    size: int
    read: Callable[[], np.ndarray]


class _Member(io.BytesIO):
    """A photo from a tar shard; errors show where it lies."""

    name = ""

    def __str__(self) -> str:
        return self.name


def find_photos(images: str) -> tuple[list[Photo], list[str]]:
    """Every photo behind `--images`, in order, and the names of hidden files that were left out.

    images: a folder, an image, a text file with one path a line (relative to that file), a tar shard, or a pattern of
    shards such as "shards/*.tar". Raises DataError when there is nothing.
    """
    try:
        path = expand(Path(images))
    except ValueError as error:
        raise DataError(f"--images {shortened(images)}: {error}.") from error
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        shards = sorted(path.glob("*.tar"))
    elif path.suffix.lower() == ".tar" or glob.has_magic(images):
        files, shards = [], [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207 (absolute patterns too)
    else:
        files, shards = _listed(path), []
    hidden = [file.name for file in files if is_foreign(file.name)]
    found = [_of_file(file, path) for file in files if not is_foreign(file.name)]
    found = found or [photo for shard in shards for photo in _of_shard(shard)]
    if not found:
        raise DataError(
            f"--images {shortened(images)} holds no photos; expected a folder of files ending in {', '.join(IMAGE_SUFFIXES)}, "
            "a .txt with one path a line, or .tar shards."
        )
    stems = safe_names([one.label for one in found], [one.name for one in found])
    return [Photo(one.name, stem, one.size, one.read) for one, stem in zip(found, stems, strict=True)], hidden


def _listed(path: Path) -> list[Path]:
    """The files a list names, each once; or the one photo that `path` is."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path] if path.is_file() else []
    if not path.is_file():
        raise DataError(f"There is no image folder, list or shard {path}.")
    lines = read_text(path).splitlines()
    return [path.parent / line.strip() for line in dict.fromkeys(lines) if line.strip()]


def _of_file(file: Path, images: Path) -> _Found:
    """A photo on disk; one that is missing or no regular file is found out when it is read."""
    name = file.name if images.is_dir() else str(file)
    return _Found(name, file.stem, file.stat().st_size if is_file(file) else -1, lambda: _read_file(file))


def _read_file(file: Path) -> np.ndarray:
    if not is_file(file):  # opening a pipe would wait for ever
        raise DataError(f"{shortened(file)} is not there, or is no regular file.")
    return read_photo(file)


def _of_shard(shard: Path) -> list[_Found]:
    """The photos of one tar file, their bytes left where they are."""
    if not shard.is_file():
        raise DataError(f"{shard} is no regular file; expected a tar shard.")
    try:
        with tarfile.open(shard, "r:") as archive:
            members = [member for member in archive if member.isfile() and _is_photo(member.name)]
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} cannot be read as a tar file without compression ({error}).") from error
    return [
        _Found(
            f"{shard.name}/{member.name}",
            f"{shard.stem}_{Path(member.name).stem}",
            member.size,
            lambda offset=member.offset_data, size=member.size, name=member.name: _read_member(shard, name, offset, size),
        )
        for member in members
    ]


def _is_photo(name: str) -> bool:
    parts = (part for part in Path(name).parts if part != "..")
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not any(map(is_foreign, parts))


def _read_member(shard: Path, name: str, offset: int, size: int) -> np.ndarray:
    with shard.open("rb") as file:
        file.seek(offset)
        content = _Member(file.read(size))
    content.name = f"{shard}/{name}"
    return read_photo(content)


def share_of(photos: Sequence[Photo], rank: int, processes: int) -> Sequence[Photo]:
    """The photos of process `rank` of `processes`: every processes-th."""
    return photos[rank::processes]
