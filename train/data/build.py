"""From the sources a data YAML names to sources that can be read."""

from train.data.base import DataError, Source
from train.data.config import DataConfig, SourceConfig


def open_source(config: SourceConfig) -> Source:
    """The adapter for one source; imported when needed, so that unused layouts need no packages."""
    if config.type == "demo":
        from train.data.demo import DemoSource

        return DemoSource(config)
    from train.data.folder import FolderSource

    return FolderSource(config)


def open_split(config: DataConfig, split: str) -> list[tuple[Source, float]]:
    """(source, weight) of every source of "train", "validation" or "test"; weights sum to one."""
    sources = config.split(split)
    if not sources:
        raise DataError(f'The data set "{config.name}" has no "{split}" part; add `{split}:` to its YAML.')
    total = sum(source.weight for source in sources)
    return [(open_source(source), source.weight / total) for source in sources]
