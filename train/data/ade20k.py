"""The full ADE20K: <photo>_seg.png holds class and instance in its colours, <photo>.json the names of the classes."""

from pathlib import Path
from typing import Literal

import numpy as np

from train.data.base import DataError, Finding
from train.data.by_others import read_json
from train.data.label_values import strange_numbers
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest
from train.data.names import images_below
from train.data.pixels import read_colours
from train.data.source_config import LabelledConfig, Phrases
from train.settings.yaml_config import UserPath


class FullAde20kConfig(LabelledConfig):
    """The photos in `root` and its sub-folders, with their _seg.png and .json (release 2021_17_01).

    classes: names as the JSON files have them, of which the first of several counts ("person" for "person, individual, ..."), or
    names with phrases. The rest is background; pixels without a class are unlabelled. Parts of objects are not read.
    """

    type: Literal["ade20k_full"]
    root: UserPath
    classes: Phrases


class FullAde20kSource(LabelledSource):
    """See FullAde20kConfig."""

    config: FullAde20kConfig

    def __init__(self, config: FullAde20kConfig):
        self.config, self.notes = config, []
        if not config.root.is_dir():
            raise DataError(f"There is no folder {config.root}.")
        self.wording = Wording(config, config.classes)
        photos = [photo for photo in images_below(config.root) if photo.suffix.lower() == ".jpg"]
        whole = [photo for photo in photos if seg_file(photo).is_file() and photo.with_suffix(".json").is_file()]
        if not whole and (old := release_of_2016(config.root)):
            raise DataError(old)
        if not whole:
            raise DataError(
                f"None of {len(photos)} photos in {config.root} has a _seg.png and a .json beside it. Scene parsing "
                "(annotations/*.png with 150 classes) is `type: index`, see ade20k.yaml."
            )
        if len(whole) < len(photos):
            self.notes.append(Finding(f"{len(photos) - len(whole)} photos have no _seg.png or no .json and are not read"))
        self.photos = chosen(whole, lambda photo: photo.name, config)

    def __len__(self) -> int:
        return len(self.photos)

    def photo(self, index: int) -> Path:
        return self.photos[index]

    def content(self, index: int) -> str:
        photo = self.photos[index]
        return (
            f"ade20k_full/{file_digest(photo, seg_file(photo), photo.with_suffix('.json'))}/{settings_digest(self.class_names)}"
        )

    def labels(self, index: int) -> Labels:
        photo = self.photos[index]
        codes = class_codes(read_colours(seg_file(photo))[0])
        numbers = class_names(photo.with_suffix(".json"))
        masks = {name: np.isin(codes, list(numbers.get(name, ()))) for name in self.class_names}
        known = {0, *(number for several in numbers.values() for number in several)}
        return Labels(
            masks,
            codes == 0,
            seg_file(photo),
            codes.shape,
            lambda: {str(one): count for one, count in strange_numbers(codes, known).items()},
        )

    def findings(self) -> list[Finding]:
        return [*super().findings(), *self.notes]


def release_of_2016(folder: Path) -> str | None:
    """What to say of a folder that holds ADE20K as it was released in 2016; None for any other."""
    found = next(folder.rglob("*_atr.txt"), None)
    if found is None or not found.with_name(found.name.removesuffix("_atr.txt") + "_seg.png").is_file():
        return None
    return (
        f"{folder} is ADE20K as released on 2016_07_26 ({found.name}), which has no .json beside its photos. Expected release "
        "2021_17_01; or take the 150 classes of scene parsing (ADEChallengeData2016, ade20k.yaml)."
    )


def seg_file(photo: Path) -> Path:
    """The file that holds the classes of a photo."""
    return photo.with_name(f"{photo.stem}_seg.png")


def class_codes(colours: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8 of a _seg.png -> [H,W] class numbers, R // 10 * 256 + G; 0 is without a class. B counts instances."""
    return colours[..., 0].astype(np.int32) // 10 * 256 + colours[..., 1]


def class_names(path: Path) -> dict[str, set[int]]:
    """Class numbers by plain name, of the objects in a photo's JSON."""
    values = read_json(path)
    try:
        found: dict[str, set[int]] = {}
        for one in values["annotation"]["object"]:
            if not int(one["parts"]["part_level"]):
                found.setdefault(str(one["name"]).split(",")[0].strip(), set()).add(int(one["name_ndx"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not ADE20K's ({error!r}); expected annotation.object with name and name_ndx.") from error
    return found
