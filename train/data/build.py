"""From the sources a data YAML names to sources that can be read."""

from importlib import import_module

from train.data.base import DataError, Source
from train.data.config import DataConfig, SourceConfig

ADAPTERS = {
    "demo": ("train.data.demo", "DemoSource"),
    "folder": ("train.data.folder", "FolderSource"),
    "index": ("train.data.paired", "IndexSource"),
    "colour": ("train.data.paired", "ColourSource"),
    "binary": ("train.data.paired", "BinarySource"),
    "coco": ("train.data.coco", "CocoSource"),
}


def open_source(config: SourceConfig) -> Source:
    """The adapter for one source; imported when needed, so that unused layouts need no packages."""
    module, name = ADAPTERS[config.type]
    return getattr(import_module(module), name)(config)


def open_split(config: DataConfig, split: str) -> list[tuple[Source, float]]:
    """(source, weight) of every source of "train", "validation" or "test"; weights sum to one."""
    sources = config.split(split)
    if not sources:
        raise DataError(f'The data set "{config.name}" has no "{split}" part; add `{split}:` to its YAML.')
    total = sum(source.weight for source in sources)
    return [(open_source(source), source.weight / total) for source in sources]
