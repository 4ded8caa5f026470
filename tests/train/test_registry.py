"""The registry of adapters: names, sources, and which settings are paths."""

from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from train.data.base import Source
from train.data.registry import ADAPTERS, BY_NAME, Adapter, resolve_paths
from train.data.source_config import BinaryConfig, CocoConfig, LabelledConfig
from train.settings.yaml_config import UserPath


class NestedConfig(LabelledConfig):
    """Paths in every place a type can hold them."""

    type: Literal["nested"]
    one: UserPath
    maybe: Path | None = None
    several: tuple[UserPath, ...] = ()
    named: dict[str, Path]
    words: tuple[str, ...] = ()


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_every_adapter_has_a_source_and_a_name_of_its_own(adapter):
    module, name = adapter.source.split(":")
    assert issubclass(getattr(import_module(module), name), Source)
    assert [other.name for other in ADAPTERS].count(adapter.name) == 1


def test_paths_follow_from_the_types():
    assert Adapter(NestedConfig, "").paths == ("one", "maybe", "several", "named")
    assert BY_NAME["coco"].paths == ("images", "annotations", "panoptic")
    assert BY_NAME["binary"].paths == ("root",)  # `list` is below root
    assert BY_NAME["demo"].paths == ()


def test_paths_are_relative_to_the_yaml(monkeypatch):
    monkeypatch.setitem(BY_NAME, "nested", Adapter(NestedConfig, ""))
    config = NestedConfig(type="nested", one="a", several=["b", "/c"], named={"d": "e"}, words=["f"])
    resolve_paths(config, Path("data"))
    assert (config.one, config.maybe) == (Path("data/a"), None)
    assert config.several == (Path("data/b"), Path("/c"))
    assert config.named == {"d": Path("data/e")}
    assert config.words == ("f",)
    coco = CocoConfig(type="coco", images="i", annotations="~/c.json")
    resolve_paths(coco, Path("data"))
    assert (coco.images, coco.annotations) == (Path("data/i"), Path.home() / "c.json")
    binary = BinaryConfig(type="binary", root="r", images="*.jpg", masks="{1}.png", list="l.txt", name="n")
    resolve_paths(binary, Path("data"))
    assert (binary.root, binary.list) == (Path("data/r"), Path("l.txt"))
