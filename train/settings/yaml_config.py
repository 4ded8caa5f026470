"""YAML into pydantic models, with errors that name the file, the line and the key."""

import codecs
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte-order marks and the encodings they stand for."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the line and the key."""


class Loader(yaml.SafeLoader):
    """YAML whose yes, no, on, off and dates stay text, as in YAML 1.2: `mixed_precision: no` means the word. pydantic
    takes these words for a switch where a setting is one."""


def _is_read(tag: str, letter: str) -> bool:
    return tag != "tag:yaml.org,2002:timestamp" and not (tag == "tag:yaml.org,2002:bool" and letter not in "tTfF")


Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if _is_read(tag, letter)]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def expand(path: Path) -> Path:
    """A path with ~ replaced by the home folder; raises ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


UserPath = Annotated[Path, AfterValidator(expand)]
"""A path in which ~ stands for the home folder."""


def load_yaml(path: Path) -> tuple[dict, dict[tuple, int]]:
    """Values of a YAML mapping and the line (from 1) of every key path, e.g. ("optimizer", "lr") -> 12."""
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    text = _text(path)
    try:
        node = yaml.compose(text, Loader)
        _refuse_repetition(node, path)
        values = Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found {type(values).__name__}.")
    return values, dict(_lines(node, ()))


def _text(path: Path) -> str:
    """The content of a text file in UTF-8, or in the encoding its byte-order mark names."""
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: the file is not UTF-8 text (byte 0x{content[error.start]:02x} cannot be read; a Windows code "
            "page?). Save it as UTF-8."
        ) from error


def _refuse_repetition(node: yaml.Node | None, path: Path, prefix: tuple = ()) -> None:
    """Raise ConfigError where a mapping has a key twice: YAML would keep the last one without a word."""
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_repetition(value, path, (*prefix, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[tuple, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, (key.tag, str(key.value))
        if name in seen:
            where = ".".join(map(str, (*prefix, key.value)))
            raise ConfigError(
                f"{path}, lines {seen[name]} and {line}: {where} is there twice, and only one would count. Keep one."
            )
        seen[name] = line
        _refuse_repetition(value, path, (*prefix, key.value))


def _lines(node: yaml.Node, prefix: tuple):
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, key.value)
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*prefix, index), value.start_mark.line + 1
            yield from _lines(value, (*prefix, index))


def apply_overrides(values: dict, overrides: list[str]) -> list[tuple]:
    """Set `key.sub=value` overrides (YAML values) in place; returns the key paths that were set."""
    paths = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f'"{override}" on the command line is not key=value, e.g. optimizer.lr=1e-4.')
        path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        _set(values, path, _value(text, override), override)
        paths.append(path)
    return paths


def _value(text: str, override: str):
    try:
        return Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f'"{override}" on the command line is not valid YAML: {error}') from error


def _set(values: dict, path: tuple, value, override: str) -> None:
    here = values
    try:
        for part in path[:-1]:
            here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        here[path[-1]] = value
    except (TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f'"{override}" on the command line: there is no such key in the file ({error}).') from error


def validate(model: type[Model], values: dict, path: Path, lines: dict[tuple, int], overridden: list[tuple] = ()) -> Model:
    """Build `model`; every pydantic complaint becomes one line of a ConfigError."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, path, lines, overridden) for problem in error.errors()]
        raise ConfigError("\n".join(problems)) from error


def _describe(problem: dict, path: Path, lines: dict[tuple, int], overridden: list[tuple]) -> str:
    location = tuple(problem["loc"])
    key = tuple(part for part in location if not _is_tag(part, location, lines))
    where = f"{path}{_line_of(key, lines)}"
    if any(key[: len(one)] == one for one in overridden):
        where = "command line"
    return f"{where}: {'.'.join(map(str, key)) or '(whole file)'}: {_message(problem)}"


def _is_tag(part, location: tuple, lines: dict[tuple, int]) -> bool:
    """Pydantic puts the chosen member of a union ("folder", "demo") into the location; files have no such key."""
    position = location.index(part)
    before = tuple(p for p in location[:position])
    return isinstance(part, str) and position > 0 and isinstance(location[position - 1], int) and (*before, part) not in lines


def _line_of(key: tuple, lines: dict[tuple, int]) -> str:
    while key:
        if key in lines:
            return f", line {lines[key]}"
        key = key[:-1]
    return ""


def _message(problem: dict) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key; look for a spelling mistake or see docs/training.md"
    if problem["type"] == "missing":
        return "missing; add this key"
    found = "" if isinstance(problem.get("input"), dict | list) else f" (found {problem.get('input')!r})"
    return problem["msg"].removeprefix("Value error, ") + found
