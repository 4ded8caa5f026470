"""One mask file per thing, as the 2018 Data Science Bowl has it: <id>/images/<id>.png and <id>/masks/*.png."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated as Typed
from typing import Literal

import numpy as np

from train.data.annotated import Annotated, AnnotatedConfig, AnnotatedSource, Region, some
from train.data.base import DataError, Finding
from train.data.by_others import read_text
from train.data.marks import read_mask
from train.data.names import images_below, is_foreign
from train.data.outlines import OutlineError
from train.data.source_config import BelowRoot
from train.settings.yaml_config import UserPath


class InstancesConfig(AnnotatedConfig):
    """Folders in `root`, one per photo, each with images/ (one file) and masks/ (one file per thing); every thing is a `name`.

    list: text file below `root` with one folder name a line, for the photos that belong to a split.
    """

    type: Literal["instances"]
    root: UserPath
    name: str
    list: Typed[UserPath, BelowRoot()] | None = None


class InstancesSource(AnnotatedSource):
    """See InstancesConfig."""

    config: InstancesConfig

    def read(self) -> list[Annotated]:
        self.root = self.config.root
        folders = self._folders()
        bare = [folder for folder in folders if not (folder / "masks").is_dir()]
        if bare:
            text = f"{len(bare)} photos have no masks/ and are left out: {some(folder.name for folder in bare)}"
            self.notes.append(Finding(text))
        out = [self._annotated(folder) for folder in folders if folder not in bare]
        if not out:
            raise DataError(f"None of {len(folders)} folders in {self.root} has masks/; is this the part without labels?")
        return out

    def _folders(self) -> list[Path]:
        there = instance_folders(self.root)
        if self.config.list is None:
            return there
        path = self.root / self.config.list
        if not path.is_file():
            raise DataError(f"There is no list {path}.")
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        by_name = {folder.name: folder for folder in there}
        if not names or (unknown := [name for name in names if name not in by_name]):
            raise DataError(f"{path} names {unknown[:3] if names else 'nothing'}; expected folders of {self.root}, one a line.")
        return [by_name[name] for name in names]

    def _annotated(self, folder: Path) -> Annotated:
        photos = images_below(folder / "images")
        if len(photos) != 1:
            raise DataError(f"{folder / 'images'} holds {len(photos)} images; expected one.")
        masks = images_below(folder / "masks")
        regions = [Region(self.config.name, "mask file", mask.name, mask.name) for mask in masks]
        return Annotated(photos[0], folder / "masks", None, tuple(regions))

    def names(self) -> list[str]:
        return [self.config.name]

    def files(self, one: Annotated) -> Iterable[Path]:
        return [one.file / region.outline for region in one.regions]

    def photo_files(self) -> tuple[set[Path], set[Path]]:
        used = {one.photo for one in self.every}
        return {photo for folder in instance_folders(self.root) for photo in images_below(folder / "images")} | used, used

    def _drawn(self, region: Region, one: Annotated, size: tuple[int, int]) -> np.ndarray:
        mask = read_mask(one.file / region.outline)[0]
        if mask.shape != size:
            raise DataError(
                f"{one.file / region.outline} is {mask.shape[1]}x{mask.shape[0]} pixels, {one.photo} is {size[1]}x{size[0]}."
            )
        return mask

    def draw(self, region: Region, height: int, width: int) -> np.ndarray:
        raise OutlineError("masks are files here")


def instance_folders(root: Path) -> list[Path]:
    """Folders in `root` that hold images/, sorted; DataError where there is none."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    found = sorted(folder for folder in root.iterdir() if (folder / "images").is_dir() and not is_foreign(folder.name))
    if not found:
        raise DataError(f"{root} has no folders with images/ in them; expected <id>/images/<id>.png and <id>/masks/*.png.")
    return found
