"""From the sources a data YAML names to sources that can be read."""

from train.data.base import DataError, Source
from train.data.config import DataConfig
from train.data.registry import open_source


def open_split(config: DataConfig, split: str) -> list[tuple[Source, float]]:
    """(source, weight) of every source of "train", "validation" or "test"; weights sum to one."""
    sources = config.split(split)
    if not sources:
        raise DataError(f'The data set "{config.name}" has no "{split}" part; add `{split}:` to its YAML.')
    total = sum(source.weight for source in sources)
    return [(open_source(source), source.weight / total) for source in sources]
