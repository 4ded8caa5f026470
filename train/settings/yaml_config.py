"""YAML into pydantic models, with errors that name the file, the line and the key."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the line and the key."""


def load_yaml(path: Path) -> tuple[dict, dict[tuple, int]]:
    """Values of a YAML mapping and the line (from 1) of every key path, e.g. ("optimizer", "lr") -> 12."""
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    text = path.read_text(encoding="utf-8")
    try:
        values, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found {type(values).__name__}.")
    return values, dict(_lines(node, ()))


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
        _set(values, path, yaml.safe_load(text), override)
        paths.append(path)
    return paths


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
