"""CVAT's "Segmentation mask 1.1", and Pascal VOC as CVAT and Datumaro write it: labelmap.txt and coloured masks."""

from pathlib import Path
from typing import Literal

import numpy as np

from train.data.annotated import some
from train.data.base import DataError, Finding
from train.data.by_others import read_text
from train.data.label_values import colour_codes, strange_colours
from train.data.labelled import LabelledSource, Labels, Wording, chosen, file_digest, settings_digest
from train.data.names import images_below
from train.data.pixels import read_colours
from train.data.source_config import LabelledConfig, Phrases
from train.settings.yaml_config import UserPath


class CvatConfig(LabelledConfig):
    """An unpacked export in `root`: labelmap.txt, SegmentationClass/ and ImageSets/Segmentation/<list>.txt.

    images: folder of the photos, where the export was made without them (else JPEGImages/ in it). list: "default", or "train",
    "val", ... as the folder has them. ignore: labels of unlabelled pixels. unlabelled: whether frames that nobody has labelled
    in CVAT show none of the classes ("empty") or are left out ("skip").
    """

    type: Literal["cvat"]
    root: UserPath
    images: UserPath | None = None
    list: str = "default"
    classes: Phrases | None = None
    ignore: tuple[str, ...] = ("ignored", "void")
    unlabelled: Literal["skip", "empty"] = "skip"


class CvatSource(LabelledSource):
    """See CvatConfig."""

    config: CvatConfig

    def __init__(self, config: CvatConfig):
        self.config, self.notes = config, []
        self.colours = read_labelmap(config.root / "labelmap.txt")
        names = [name for name in self.colours if name != "background" and name not in config.ignore]
        if unknown := sorted(set(config.classes or ()) - set(names)):
            raise DataError(f"{config.root / 'labelmap.txt'} has no labels {unknown}; it has {names}.")
        self.wording = Wording(config, config.classes or {name: [name] for name in names})
        self.pairs = chosen(self._pairs(), lambda pair: pair[1].relative_to(config.root).as_posix(), config)

    def _pairs(self) -> list[tuple[Path, Path]]:
        """(photo, mask) of every frame of the list; the mask may be a file that is not there."""
        images = self.config.images or self.config.root / "JPEGImages"
        if not images.is_dir():
            raise DataError(
                f'There is no folder {images} with the photos: the export was made without them. Export again with "Save '
                'images", or say where they are with `images:`.'
            )
        photos = {path.relative_to(images).with_suffix("").as_posix(): path for path in images_below(images)}
        names = self._listed()
        if missing := [name for name in names if name not in photos]:
            raise DataError(f"{len(missing)} of {len(names)} photos are not in {images}, e.g. {missing[0]}. Check `images:`.")
        pairs = [(photos[name], self.config.root / "SegmentationClass" / f"{name}.png") for name in names]
        bare = [photo for photo, mask in pairs if not mask.is_file()]
        if len(bare) == len(pairs):
            raise DataError(f"None of {len(pairs)} photos has a mask in {self.config.root / 'SegmentationClass'}.")
        if bare:
            done = "left out" if self.config.unlabelled == "skip" else "taken as showing none of the classes"
            text = f"{len(bare)} photos have no mask, as nobody has labelled them in CVAT; they are {done} (`unlabelled:`)"
            self.notes.append(Finding(f"{text}: {some(photo.name for photo in bare)}"))
        return pairs if self.config.unlabelled == "empty" else [pair for pair in pairs if pair[1].is_file()]

    def _listed(self) -> list[str]:
        """Names of the photos in the list, without suffix."""
        folder = self.config.root / "ImageSets" / "Segmentation"
        path = folder / f"{self.config.list}.txt"
        if not path.is_file():
            there = sorted(one.stem for one in folder.glob("*.txt"))
            raise DataError(f"There is no {path}; `list:` can be {there}.")
        names = [line.strip() for line in read_text(path).splitlines()]
        if not any(names):
            raise DataError(f"{path} names no photo: it is empty.")
        return [name for name in names if name]

    def __len__(self) -> int:
        return len(self.pairs)

    def photo(self, index: int) -> Path:
        return self.pairs[index][0]

    def content(self, index: int) -> str:
        return f"cvat/{file_digest(*self.pairs[index])}/{settings_digest(self.colours, self.config.ignore)}"

    def labels(self, index: int) -> Labels:
        file = self.pairs[index][1]
        if not file.is_file():
            return Labels({}, None, file, None)
        codes = colour_codes(read_colours(file)[0])
        known = {name: int(colour_codes(np.array(colour))) for name, colour in self.colours.items()}
        masks = {name: codes == known[name] for name in self.class_names}
        ignored = [known[name] for name in self.config.ignore if name in known]
        ignore = np.isin(codes, ignored) if ignored else None
        return Labels(masks, ignore, file, codes.shape, lambda: strange_colours(codes, {0, *known.values()}))

    def mask_files(self) -> tuple[set[Path], set[Path]]:
        there = set(images_below(self.config.root / "SegmentationClass"))
        return there, {mask for _, mask in self.pairs} & there

    def findings(self) -> list[Finding]:
        return [*super().findings(), *self.notes]


def read_labelmap(path: Path) -> dict[str, tuple[int, int, int]]:
    """Colours by label of a labelmap.txt, `label:r,g,b:parts:actions` a line; DataError for other lines and shared colours."""
    if not path.is_file():
        raise DataError(f'There is no file {path}; CVAT writes it into exports as "Segmentation mask 1.1" and "Pascal VOC 1.1".')
    out: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        try:
            red, green, blue = (int(one) for one in rest.split(":")[0].split(","))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {line!r}; expected label:r,g,b:parts:actions.") from error
        if twin := next((other for other, colour in out.items() if colour == (red, green, blue)), None):
            raise DataError(f'{path}: "{twin}" and "{name}" have one colour, {red},{green},{blue}. Give one another in CVAT.')
        out[name] = (red, green, blue)
    return out
