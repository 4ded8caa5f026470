"""The data YAML: which images and masks a data set consists of, per split."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from train.yaml_config import load_yaml, validate


class SourceConfig(BaseModel):
    """What every kind of source has: its share in a mix (`weight`) and an upper limit on its images (`limit`)."""

    model_config = ConfigDict(extra="forbid")
    weight: Annotated[float, Field(gt=0)] = 1.0
    limit: Annotated[int, Field(ge=1)] | None = None


class DemoConfig(SourceConfig):
    """Procedural scenes of train/demo/world.py."""

    type: Literal["demo"]
    split: Literal["train", "val", "test"] = "train"
    scenes: Annotated[int, Field(ge=1)] = 1000
    seed: int = 0
    size: Annotated[int, Field(ge=32)] = 128


class FolderConfig(SourceConfig):
    """Photos in `images` and one black-and-white mask per class and photo in `masks/<class>/<name>.png`.

    classes maps class names to the phrases that may stand for them; left out, the sub-folders of `masks` are the
    classes. A missing mask file means the class is not in that image. `ignore` is the grey value of unknown pixels.
    """

    type: Literal["folder"]
    images: Path
    masks: Path
    classes: dict[str, list[str]] | None = None
    held_out: list[str] = []
    ignore: Annotated[int, Field(ge=0, le=255)] | None = None
    absent_per_image: Annotated[int, Field(ge=0)] = 4

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_names(cls, value):
        """A list of names, or names with one phrase, are short for names with a list of phrases."""
        if isinstance(value, list):
            value = {name: [name] for name in value}
        if isinstance(value, dict):
            value = {name: [phrases] if isinstance(phrases, str) else phrases or [name] for name, phrases in value.items()}
        return value


AnySource = Annotated[DemoConfig | FolderConfig, Field(discriminator="type")]


class DataConfig(BaseModel):
    """One data set: sources of the training images, and of the images it is validated and tested on."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    train: list[AnySource] = []
    validation: list[AnySource] = []
    test: list[AnySource] = []

    @model_validator(mode="before")
    @classmethod
    def _single_sources(cls, values):
        if not isinstance(values, dict):
            return values
        return {key: [value] if isinstance(value, dict) else value for key, value in values.items()}

    def split(self, name: str) -> list[SourceConfig]:
        """Sources of "train", "validation" or "test"."""
        return getattr(self, name)


def load_data(path: Path) -> DataConfig:
    """Read a data YAML; paths in it are relative to the file. Raises ConfigError naming file, line and key."""
    values, lines = load_yaml(path)
    config = validate(DataConfig, values, path, lines)
    for source in [*config.train, *config.validation, *config.test]:
        for key in ("images", "masks"):
            if hasattr(source, key):
                setattr(source, key, path.parent / getattr(source, key))
    return config
