"""Every adapter of a data layout: one line each in ADAPTERS, everything else follows from the config class."""

from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from train.data.ade20k import FullAde20kConfig
from train.data.base import Source
from train.data.cvat import CvatConfig
from train.data.instances import InstancesConfig
from train.data.label_studio import LabelStudioConfig
from train.data.labelme import LabelmeConfig
from train.data.source_config import (
    BelowRoot,
    BinaryConfig,
    CocoConfig,
    ColourConfig,
    DemoConfig,
    FolderConfig,
    IndexConfig,
    SourceConfig,
)
from train.data.supervisely import SuperviselyConfig
from train.data.yolo import YoloConfig


@dataclass(frozen=True)
class Adapter:
    """One layout: the class of its settings, whose `type` is Literal[name of the layout], and "module:Class" of its source,
    which is imported when it is opened, so that unused layouts need no packages."""

    config: type[SourceConfig]
    source: str

    @property
    def name(self) -> str:
        """What `type:` says in a data YAML."""
        return get_args(self.config.model_fields["type"].annotation)[0]

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that are paths relative to the data YAML: all whose type holds a Path, but for those below `root`."""
        fields = self.config.model_fields.items()
        return tuple(name for name, field in fields if _holds_path(Annotated[(field.annotation, *field.metadata, None)]))

    def open(self, config: SourceConfig) -> Source:
        """The source that `config` describes; DataError where it cannot be read."""
        module, name = self.source.split(":")
        return getattr(import_module(module), name)(config)


def _holds_path(annotation) -> bool:
    """Whether a type is, or has anywhere inside, a Path that is not marked as BelowRoot."""
    arguments = get_args(annotation)
    if any(isinstance(one, BelowRoot) for one in arguments):
        return False
    return annotation is Path or any(_holds_path(one) for one in arguments)


ADAPTERS = (
    Adapter(DemoConfig, "train.data.demo:DemoSource"),
    Adapter(FolderConfig, "train.data.folder:FolderSource"),
    Adapter(IndexConfig, "train.data.paired:IndexSource"),
    Adapter(ColourConfig, "train.data.paired:ColourSource"),
    Adapter(BinaryConfig, "train.data.paired:BinarySource"),
    Adapter(CocoConfig, "train.data.coco:CocoSource"),
    Adapter(LabelmeConfig, "train.data.labelme:LabelmeSource"),
    Adapter(YoloConfig, "train.data.yolo:YoloSource"),
    Adapter(CvatConfig, "train.data.cvat:CvatSource"),
    Adapter(LabelStudioConfig, "train.data.label_studio:LabelStudioSource"),
    Adapter(SuperviselyConfig, "train.data.supervisely:SuperviselySource"),
    Adapter(InstancesConfig, "train.data.instances:InstancesSource"),
    Adapter(FullAde20kConfig, "train.data.ade20k:FullAde20kSource"),
)
BY_NAME = {adapter.name: adapter for adapter in ADAPTERS}
AnySource = Annotated[reduce(or_, (adapter.config for adapter in ADAPTERS)), Field(discriminator="type")]


def open_source(config: SourceConfig) -> Source:
    """The source that a part of a data YAML describes; DataError where it cannot be read."""
    return BY_NAME[config.type].open(config)


def resolve_paths(config: SourceConfig, folder: Path) -> None:
    """Make the paths of a source, which are relative to `folder`, absolute or relative to the working directory, in place."""
    for name in BY_NAME[config.type].paths:
        setattr(config, name, _below(getattr(config, name), folder))


def _below(value, folder: Path):
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, list | tuple):
        return type(value)(_below(one, folder) for one in value)
    return {key: _below(one, folder) for key, one in value.items()} if isinstance(value, dict) else value
