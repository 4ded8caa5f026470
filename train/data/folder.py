"""Photos with one black-and-white mask per class: images/<name>.* and masks/<class>/<name>.png."""

from pathlib import Path

import numpy as np

from train.data.base import DataError
from train.data.config import FolderConfig
from train.data.labelled import LabelledSource, Labels, Wording, file_digest, read_mask, settings_digest, wrong_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; raises DataError when there are none or two share a name."""
    if not folder.is_dir():
        raise DataError(f"There is no image folder {folder}.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    stems: dict[str, Path] = {}
    for path in files:
        if path.stem in stems:
            other = stems[path.stem].name
            raise DataError(f"{path} and {other} share the name {path.stem}, so their masks cannot be told apart.")
        stems[path.stem] = path
    return files


class FolderSource(LabelledSource):
    """See FolderConfig."""

    def __init__(self, config: FolderConfig):
        self.config = config
        self.files = list_images(config.images)[: config.limit]
        classes = config.classes or {name: [name] for name in _subfolders(config.masks)}
        self.wording = Wording(config, classes)
        self._check_classes(classes)

    def _check_classes(self, classes: dict[str, list[str]]) -> None:
        names = {path.stem for path in self.files}
        for name in classes:
            folder = self.config.masks / name
            if not folder.is_dir():
                raise DataError(f'There is no folder {folder} for the class "{name}"; expected {folder}/<image name>.png.')
            if self.config.limit is None and not names & {path.stem for path in folder.glob("*.png")}:
                raise DataError(
                    f"No mask in {folder} has the name of an image in {self.config.images}; "
                    f"expected e.g. {folder / self.files[0].stem}.png."
                )

    def __len__(self) -> int:
        return len(self.files)

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        names = {path.stem for path in list_images(self.config.images)}
        folders = [self.config.masks / name for name in self.class_names]
        there = {path for folder in folders for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
        return there, {path for path in there if path.stem in names and path.with_suffix(".png").is_file()}

    def _mask_file(self, name: str, index: int) -> Path:
        return self.config.masks / name / f"{self.files[index].stem}.png"

    def photo(self, index: int) -> Path:
        return self.files[index]

    def content(self, index: int) -> str:
        files = [self._mask_file(name, index) for name in self.class_names]
        return f"folder/{file_digest(self.files[index], *files)}/{settings_digest(self.config.ignore)}"

    def labels(self, index: int) -> Labels:
        grey = {name: mask for name in self.class_names if (mask := self._read_mask(name, index)) is not None}
        file, shape = self.config.masks, None
        for name, mask in grey.items():
            if shape is not None and shape != mask.shape:
                raise wrong_size(self._mask_file(name, index), mask.shape, file, shape)
            file, shape = self._mask_file(name, index), mask.shape
        unknown = [mask == self.config.ignore for mask in grey.values()] if self.config.ignore is not None else []
        ignore = np.logical_or.reduce(unknown) if unknown else None
        masks = {name: (mask >= 128) & (mask != self.config.ignore) for name, mask in grey.items()}
        return Labels(masks, ignore, file, shape)

    def _read_mask(self, name: str, index: int) -> np.ndarray | None:
        path = self._mask_file(name, index)
        return read_mask(path, self.config.ignore) if path.is_file() else None


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"There is no mask folder {folder}; expected {folder}/<class>/<image name>.png.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise DataError(f"{folder} has no sub-folders; expected one per class with <image name>.png inside.")
    return names
