"""The data YAML: which images and masks a data set consists of, per split."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.data.registry import AnySource, resolve_paths
from train.data.source_config import SourceConfig
from train.settings.yaml_config import load_yaml, validate


class DataConfig(BaseModel):
    """One data set: sources of the training images, and of the images it is validated and tested on."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    common: dict = Field({}, exclude=True)
    train: list[AnySource] = []
    validation: list[AnySource] = []
    test: list[AnySource] = []

    @model_validator(mode="before")
    @classmethod
    def _single_sources(cls, values):
        """A part may be one source instead of a list; `common` holds settings that all sources share."""
        if not isinstance(values, dict):
            return values
        common = values.get("common") or {}
        if not isinstance(common, dict):
            raise ValueError(f"common must hold `key: value` lines that all sources share, found {type(common).__name__}")
        out = dict(values)
        for part in ("train", "validation", "test"):
            if part in out:
                sources = out[part] if isinstance(out[part], list) else [out[part]]
                out[part] = [{**common, **source} if isinstance(source, dict) else source for source in sources]
        return out

    def split(self, name: str) -> list[SourceConfig]:
        """Sources of "train", "validation" or "test"."""
        return getattr(self, name)


def load_data(path: Path, folder: Path | None = None) -> DataConfig:
    """Read a data YAML; paths in it are relative to `folder`, by default the file's own. Raises ConfigError naming file, line
    and key."""
    values, lines = load_yaml(path)
    config = validate(DataConfig, values, path, lines)
    for source in [*config.train, *config.validation, *config.test]:
        resolve_paths(source, folder or path.parent)
    return config
