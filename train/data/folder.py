"""Photos with black-and-white masks per class: images/<name>.* and masks/<class>/<name>.png."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from train.data.base import DataError, Finding
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest, wrong_size
from train.data.marks import read_mask, read_weights
from train.data.names import Owners, entries, images_below, is_image, plain
from train.data.pixels import IMAGE_SUFFIXES
from train.data.source_config import FolderConfig


def list_images(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; raises DataError when there are none or two share a name."""
    if not folder.is_dir():
        raise DataError(f"There is no image folder {folder}.")
    files = [path for path in entries(folder) if is_image(path)]
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
        every = list_images(config.images)
        self.files = chosen(every, lambda file: file.name, config)
        if config.classes is not None and not config.classes:
            raise DataError("`classes:` is empty. Name the classes, or leave it out to take the sub-folders of `masks`.")
        classes = config.classes or {name: [name] for name in _subfolders(config.masks)}
        self.wording = Wording(config, classes)
        self.folders = {name: self._folder(name) for name in classes}
        owners = Owners(path.stem for path in every)
        self.masks = {name: _by_photo(folder, owners) for name, folder in self.folders.items()}
        self._check_classes()

    def _folder(self, name: str) -> Path:
        """The folder of a class, whose name may be written in another case or Unicode form."""
        folder = self.config.masks / name
        if folder.is_dir() or not self.config.masks.is_dir():
            return folder
        alike = [path for path in entries(self.config.masks) if path.is_dir() and plain(path.name) == plain(name)]
        return alike[0] if len(alike) == 1 else folder

    def _check_classes(self) -> None:
        for name, folder in self.folders.items():
            if not folder.is_dir():
                raise DataError(f'There is no folder {folder} for the class "{name}"; expected {folder}/<image name>.png.')
            if self.config.limit is None and not self.masks[name]:
                raise DataError(
                    f"No mask in {folder} has the name of an image in {self.config.images}; "
                    f"expected e.g. {folder / self.files[0].stem}.png."
                )

    def __len__(self) -> int:
        return len(self.files)

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        there = set(images_below(self.config.masks))
        return there, {path for masks in self.masks.values() for paths in masks.values() for path in paths}

    def photo(self, index: int) -> Path:
        return self.files[index]

    def _mask_files(self, name: str, index: int) -> list[Path]:
        return self.masks[name].get(self.files[index].stem, [])

    def content(self, index: int) -> str:
        files = {name: self._mask_files(name, index) for name in self.class_names}
        digests = [file_digest(*paths) if paths else "none" for paths in files.values()]
        return f"folder/{file_digest(self.files[index])}/{settings_digest(digests, self.config.ignore, self.config.marks)}"

    def labels(self, index: int) -> Labels:
        masks: dict[str, np.ndarray] = {}
        soft: dict[str, np.ndarray] = {}
        ignore, file, shape = None, self.config.masks, None
        for name in self.class_names:
            for path in self._mask_files(name, index):
                marked, unknown = self._read(path, name, soft)
                if shape not in (None, marked.shape):
                    raise wrong_size(path, marked.shape, file, shape)
                file, shape = path, marked.shape
                masks[name] = masks.get(name, False) | marked
                ignore = unknown if ignore is None else ignore | unknown
        return Labels(masks, ignore if self.config.ignore is not None else None, file, shape, soft=soft)

    def _read(self, path: Path, name: str, soft: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Marked and unknown pixels of a mask file; soft ones add their weights to those of the class in `soft`."""
        if self.config.marks != "soft":
            return read_mask(path, self.config.ignore, self.config.marks, self.config.page)
        weights, unknown = read_weights(path, self.config.ignore, self.config.page)
        there = soft.get(name, np.zeros_like(weights))
        soft[name] = np.maximum(there, weights) if there.shape == weights.shape else weights
        return weights >= 0.5, unknown

    def findings(self) -> list[Finding]:
        return [*super().findings(), *self._unread(), *self._taken_loosely()]

    def _unread(self) -> list[Finding]:
        """What lies in the folder of photos and is not read."""
        folder, out = self.config.images, []
        nested = [path for path in images_below(folder) if path.parent != folder]
        if nested:
            first = nested[0].relative_to(folder)
            out.append(
                Finding(f"{len(nested)} images in sub-folders of {folder} are not read, e.g. {first}: {_where(nested, folder)}")
            )
        others = [path for path in entries(folder) if not path.is_dir() and not is_image(path)]
        if others:
            kinds = Counter(path.suffix.lower() or "no suffix" for path in others)
            listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(5))
            out.append(Finding(f"{len(others)} files in {folder} are no images that are read, e.g. {others[0].name} ({listed})"))
        for name, masks in self.folders.items():
            strange = [path.name for path in entries(masks) if path.is_file() and not is_image(path)]
            if strange:
                text = f"class {name}: {len(strange)} files in {masks} are no masks that are read, e.g. {strange[0]}"
                out.append(Finding(text))
        known = {path.name for path in self.folders.values()}
        for path in entries(self.config.masks):
            if path.is_dir() and path.name not in known and (count := len(images_below(path))):
                out.append(Finding(f"the folder {path} with {count} masks is no class of the data YAML"))
        return out

    def _taken_loosely(self) -> list[Finding]:
        """Masks whose names are not quite those of their photos."""
        out = []
        for name, masks in self.masks.items():
            loose = [(path, stem) for stem, paths in masks.items() for path in paths if path.stem != stem]
            if loose:
                path, stem = loose[0]
                text = f"class {name}: {len(loose)} masks are taken by a similar name, e.g. {path.name} for the photo {stem}"
                out.append(Finding(text, left_over=False))
        return out


def _where(nested: list[Path], folder: Path) -> str:
    names = sorted({path.relative_to(folder).parts[0] for path in nested})
    return "sub-folders " + ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _by_photo(folder: Path, owners: Owners) -> dict[str, list[Path]]:
    """Mask files of a class by the stem of their photo; DataError for two that are not numbered parts of one."""
    found: dict[str, list[tuple[Path, bool]]] = defaultdict(list)
    for path in entries(folder) if folder.is_dir() else []:
        if is_image(path):
            stem, numbered = owners.find(path)
            if stem is not None:
                found[stem].append((path, numbered))
    for stem, masks in found.items():
        if len(masks) > 1 and not all(numbered for _, numbered in masks):
            names = " and ".join(path.name for path, _ in masks[:2])
            raise DataError(f"{names} in {folder} are both the mask of the photo {stem}, and only one can be. Keep one.")
    return {stem: [path for path, _ in masks] for stem, masks in found.items()}


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"There is no mask folder {folder}; expected {folder}/<class>/<image name>.png.")
    names = sorted(path.name for path in entries(folder) if path.is_dir())
    if not names:
        raise DataError(f"{folder} has no sub-folders; expected one per class with <image name>.png inside.")
    return names
