"""What the sources of a data YAML have in common, and the settings of the layouts that ship with it."""

from itertools import count
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from digseg_nodes.core.prompts import PRESETS, parse_prompts, preset_text
from train.settings.bounds import Count, Side, whole
from train.settings.yaml_config import UserPath

Marks = Literal["auto", "bright", "dark", "any", "alpha", "transparent", "soft"]
"""Which pixels of a mask are marked. bright: at least half white. dark: less than that. any: whatever is not black and not
transparent. alpha: what is opaque; transparent: what is not. soft: as bright, and the grey level is taught as weight. auto: what
the picture says, where it says one thing."""
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]


class BelowRoot:
    """Marks a path that is below `root` instead of relative to the data YAML."""


def _words(names: list) -> list[str]:
    """Names of classes as they stand in a list; ValueError for what is none, or there twice."""
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"classes have names, found {name!r}; names in quotation marks are always text")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{', '.join(twice)}: in the list of classes twice, and only one would count")
    return names


def _plain_names(value):
    """A list of names, or names with one phrase, are short for names with a list of phrases."""
    if isinstance(value, list):
        value = {name: [name] for name in _words(value)}
    if isinstance(value, dict):
        _words(list(value))
        value = {k: [v] if isinstance(v, str) else v or [k] for k, v in value.items()}
    return value


Band = Annotated[int, Field(ge=1)]
Phrases = Annotated[dict[str, list[str]], BeforeValidator(_plain_names)]
"""Class names with the phrases that may stand for them; also written as a list of names."""
Part = Literal["train", "validation", "test"]
"""A share of the photos: a tenth for validation and for test each, the rest for training."""


class SourceConfig(BaseModel):
    """What every kind of source has: its share in a mix (`weight`) and an upper limit on its images (`limit`)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    weight: Annotated[float, Field(gt=0)] = 1.0
    limit: Count | None = None


class DemoConfig(SourceConfig):
    """Procedural scenes of train/demo/world.py. size: the longest side in pixels. aspects: the scenes' shapes in turn, width to
    height, e.g. ["1:1", "16:9", "2:3"], in quotation marks."""

    type: Literal["demo"]
    split: Literal["train", "val", "test"] = "train"
    scenes: Count = 1000
    seed: whole(0, 2**63, "a seed has 64 bits") = 0
    size: Side = 128
    aspects: Annotated[list[Literal["1:1", "4:3", "3:2", "16:9", "3:4", "2:3", "9:16"]], Field(min_length=1)] = ["1:1"]


class LabelledConfig(SourceConfig):
    """What labelled images have in common.

    phrases: other words for a class, e.g. {tv: [television, screen]}. templates: sentences with {} for the class.
    held_out: classes that training leaves out and evaluation reports apart. absent_per_image: how many of the classes
    that are not in an image are asked for as absent prompts. absent: classes that may be asked for as absent although no image
    of the source has a mask of them; others without a mask are not asked for. range: black and white of photos of more than 8
    bits, [0, 4095] for 12 bits, or "measured" over all photos. page: the page of files of several, from 1. bands: the
    three bands of TIFF files that are red, green and blue, from 1, e.g. [4, 1, 2] with near infrared as red. part: a share of
    the photos where no list or folder parts them: "train", "validation" or "test".
    """

    phrases: dict[str, list[str]] = {}
    templates: list[str] = []
    held_out: list[str] = []
    absent: list[str] = []
    range: tuple[float, float] | Literal["measured"] | None = None
    page: Annotated[int, Field(ge=1)] | None = None
    bands: tuple[Band, Band, Band] | None = None
    part: Part | None = None
    absent_per_image: whole(0, 1000, "every absent prompt of a photo is a sample of its own, and no set asks for more") = 4

    @field_validator("range")
    @classmethod
    def _rises(cls, value):
        if isinstance(value, tuple) and not value[0] < value[1]:
            raise ValueError("black must be below white, e.g. [0, 4095]")
        return value

    @field_validator("templates")
    @classmethod
    def _has_a_place(cls, value: list[str]) -> list[str]:
        for template in value:
            if "{}" not in template:
                raise ValueError(f'the template "{template}" has no {{}} where the class name goes')
        return value


class FolderConfig(LabelledConfig):
    """Photos in `images` and one black-and-white mask per class and photo in `masks/<class>/<name>.png`.

    classes maps class names to the phrases that may stand for them; left out, the sub-folders of `masks` are the
    classes. A missing mask file means the class is not in that image. `ignore` is the grey value of unknown pixels. marks: which
    pixels of a mask are marked, see train/data/marks.py; "auto" takes white, a colour, a grey level or opaque pixels, and is an
    error where they say different things.
    """

    type: Literal["folder"]
    images: UserPath
    masks: UserPath
    classes: Phrases | None = None
    ignore: Byte | None = None
    marks: Marks = "auto"


class PairedConfig(LabelledConfig):
    """One label file per photo.

    root: folder of the data set. images: pattern below it, e.g. "leftImg8bit/train/*/*_leftImg8bit.png". masks: the
    label file of a photo, {1}, {2}, ... standing for what the first, second, ... star matched. list: text file below `root`
    with one value of the last star per line, for the photos that belong to a split.
    """

    root: UserPath
    images: str
    masks: str
    list: Annotated[UserPath, BelowRoot()] | None = None


class IndexConfig(PairedConfig):
    """Label files whose pixel values are class numbers: grey or palette images (palettes are not looked at), or MATLAB
    files (.mat) with the numbers in `variable`.

    classes: names with their numbers ({sky: 3, tree: [4, 5]}), or a list of names numbered from `first` on, leaving
    out `skip`. preset: a class list of the nodes (digseg_nodes/core/presets/) instead, with its synonyms as phrases.
    ignore: the numbers of unlabelled pixels. background: those that are knowingly no class, or "rest" for all others; a number
    that is none of these is read as background and reported.
    """

    type: Literal["index"]
    classes: dict[str, list[int]]
    preset: str | None = None
    first: int = 0
    skip: list[int] = []
    ignore: list[int] = []
    background: list[int] | Literal["rest"] = [0]
    variable: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _numbered(cls, values):
        """Bring every way of writing the classes into the one of the field."""
        if not isinstance(values, dict):
            return values
        values = _from_preset(values) if values.get("preset") else dict(values)
        names = values.get("classes")
        if isinstance(names, list):
            first, skip = values.get("first", 0), values.get("skip", [])
            if not isinstance(first, int):
                raise ValueError(f"first must be the number of the first class, found {first!r}")
            if not isinstance(skip, list) or not all(isinstance(number, int) for number in skip):
                raise ValueError(f"skip must be a list of numbers, e.g. [3, 7], found {skip!r}")
            left = (number for number in count(first) if number not in set(skip))
            values["classes"] = {name: [next(left)] for name in _words(names)}
        elif isinstance(names, dict):
            values["classes"] = {k: [v] if isinstance(v, int | str) else v for k, v in names.items()}
        return values

    @model_validator(mode="after")
    def _not_ignored(self):
        _refuse_ignored({name: set(numbers) for name, numbers in self.classes.items()}, set(self.ignore))
        return self


def _refuse_ignored(classes: dict[str, set], ignored: set) -> None:
    """ValueError for a class whose every number or colour is unlabelled."""
    if lost := [name for name, values in classes.items() if values and values <= ignored]:
        raise ValueError(f"{', '.join(lost)}: a class and under `ignore:` at once; pixels are either")


def _from_preset(values: dict) -> dict:
    if not isinstance(values["preset"], str) or values["preset"] not in PRESETS:
        raise ValueError(f"there is no preset {values['preset']!r}; known: {', '.join(PRESETS)}")
    prompts = parse_prompts(preset_text(values["preset"]))
    synonyms = {prompt.name: list(prompt.wordings[1:]) for prompt in prompts if prompt.wordings[1:]}
    names = values.get("classes") or [prompt.name for prompt in prompts]
    return {**values, "classes": names, "phrases": values.get("phrases") or synonyms}


class ColourConfig(PairedConfig):
    """Label files painted in class colours: classes {water: [0, 0, 255]}; ignore: the colours of unlabelled pixels;
    background: those that are knowingly no class, or "rest" for all others."""

    type: Literal["colour"]
    classes: dict[str, Colour]
    ignore: list[Colour] = []
    background: list[Colour] | Literal["rest"] = [(0, 0, 0)]

    @model_validator(mode="after")
    def _not_ignored(self):
        _refuse_ignored({name: {colour} for name, colour in self.classes.items()}, set(self.ignore))
        return self


class BinaryConfig(PairedConfig):
    """Black-and-white label files of a single class, `name`. ignore and marks: as in FolderConfig."""

    type: Literal["binary"]
    name: str
    ignore: Byte | None = None
    marks: Marks = "auto"


class CocoConfig(LabelledConfig):
    """COCO JSON: `annotations` with polygons or RLE. classes: a selection, default all.

    crowd: what annotations with iscrowd are, "ignore" (unlabelled, as COCO means it) or "mask" (masks, as CVAT and SAM write
    brush strokes); left out, they are unlabelled as long as no class has more of them than others.
    panoptic: folder of the panoptic PNGs, when `annotations` is a panoptic JSON.
    """

    type: Literal["coco"]
    images: UserPath
    annotations: UserPath
    panoptic: UserPath | None = None
    classes: list[str] | None = None
    crowd: Literal["ignore", "mask"] | None = None
