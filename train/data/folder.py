"""Photos with one black-and-white mask per class: images/<name>.* and masks/<class>/<name>.png."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from train.data.base import DataError, Query, Sample, Source
from train.data.config import FolderConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: Path, mode: str) -> np.ndarray:
    """An image file as uint8: [H, W, 3] for mode "RGB", [H, W] for "L"."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}). Replace or remove the file.") from error


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
            raise DataError(
                f"{path} and {stems[path.stem].name} share the name {path.stem}, so their masks cannot be told apart."
            )
        stems[path.stem] = path
    return files


def file_digest(*paths: Path) -> str:
    """SHA-256 over the contents of files; a missing file counts as such."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing")
    return digest.hexdigest()


class FolderSource(Source):
    """See FolderConfig."""

    def __init__(self, config: FolderConfig):
        self.config = config
        self.files = list_images(config.images)[: config.limit]
        self.classes = config.classes or {name: [name] for name in _subfolders(config.masks)}
        self._check_classes()

    def _check_classes(self) -> None:
        unknown = set(self.config.held_out) - set(self.classes)
        if unknown:
            raise DataError(f"held_out names {sorted(unknown)}, which are not among the classes {sorted(self.classes)}.")
        names = {path.stem for path in self.files}
        for name in self.classes:
            folder = self.config.masks / name
            if not folder.is_dir():
                raise DataError(f'There is no folder {folder} for the class "{name}"; expected {folder}/<image name>.png.')
            if not names & {path.stem for path in folder.glob("*.png")}:
                raise DataError(
                    f"No mask in {folder} has the name of an image in {self.config.images}; "
                    f"expected e.g. {folder / self.files[0].stem}.png."
                )

    def __len__(self) -> int:
        return len(self.files)

    @property
    def class_names(self) -> list[str]:
        return list(self.classes)

    def _mask_file(self, name: str, index: int) -> Path:
        return self.config.masks / name / f"{self.files[index].stem}.png"

    def identity(self, index: int) -> str:
        c = self.config
        settings = f"{self.classes}{c.held_out}{c.ignore}{c.absent_per_image}{index if c.absent_per_image else ''}"
        files = [self._mask_file(name, index) for name in self.classes]
        return f"folder/{file_digest(self.files[index], *files)}/{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def sample(self, index: int) -> Sample:
        image = read_image(self.files[index], "RGB")
        grey = {name: self._read_mask(name, index, image.shape[:2]) for name in self.classes}
        masks = {name: mask >= 128 for name, mask in grey.items() if mask is not None}
        ignore = None
        if self.config.ignore is not None:
            unknown = [mask == self.config.ignore for mask in grey.values() if mask is not None]
            ignore = np.logical_or.reduce(unknown) if unknown else None
            masks = {name: mask & (grey[name] != self.config.ignore) for name, mask in masks.items()}
        return Sample(image, tuple(self._queries(masks, index)), ignore)

    def _read_mask(self, name: str, index: int, size: tuple[int, int]) -> np.ndarray | None:
        path = self._mask_file(name, index)
        if not path.is_file():
            return None
        mask = read_image(path, "L")
        if mask.shape != size:
            raise DataError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} pixels but {self.files[index]} is {size[1]}x{size[0]}; "
                "masks must have the size of their image."
            )
        return mask

    def _queries(self, masks: dict[str, np.ndarray], index: int):
        present = [name for name, mask in masks.items() if mask.any()]
        for name in present:
            group = "held_out" if name in self.config.held_out else "seen"
            yield Query(name, tuple(self.classes[name]), masks[name], group)
        missing = [name for name in self.classes if name not in present]
        rng = np.random.default_rng([index, len(missing)])
        for position in rng.permutation(len(missing))[: self.config.absent_per_image]:
            name = missing[position]
            yield Query(name, tuple(self.classes[name]), None, "absent_random")


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"There is no mask folder {folder}; expected {folder}/<class>/<image name>.png.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names:
        raise DataError(f"{folder} has no sub-folders; expected one per class with <image name>.png inside.")
    return names
