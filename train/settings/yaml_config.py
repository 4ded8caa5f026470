"""YAML into pydantic models, with errors that name the file, the line and the key."""

import codecs
import errno
import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte-order marks and the encodings they stand for."""
MOST_BYTES = 2**20
MOST_VALUES = 100_000
"""A configuration file's size, and its values with every alias written out."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the file, the line and the key."""


class Loader(yaml.SafeLoader):
    """YAML whose yes, no, on, off, dates, 010 and 1:30 stay text, as in YAML 1.2: `mixed_precision: no` means the word, and
    pydantic takes these words for a switch where a setting is one; 010 is ten, not eight, and 1:30 no number."""


NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
"""What is read as a number: YAML 1.1 without base 8 and base 60."""


def _is_read(tag: str, letter: str) -> bool:
    return tag != "tag:yaml.org,2002:timestamp" and not (tag == "tag:yaml.org,2002:bool" and letter not in "tTfF")


Loader.yaml_implicit_resolvers = {
    letter: [(tag, NUMBERS.get(tag, pattern)) for tag, pattern in resolvers if _is_read(tag, letter)]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def expand(path: Path) -> Path:
    """A path with ~ and $NAME replaced; raises ValueError where there is no such user, or no path."""
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError("a path cannot hold half a letter (a lone surrogate)") from error
    try:
        path = Path(os.path.expandvars(path)).expanduser()
        path.lstat()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError("the path is too long for the file system") from error
    return path


UserPath = Annotated[Path, AfterValidator(expand)]
"""A path in which ~ stands for the home folder."""


def load_yaml(path: Path) -> tuple[dict, dict[tuple, int]]:
    """Values of a YAML mapping and the line (from 1) of every key path, e.g. ("optimizer", "lr") -> 12."""
    try:
        if not path.is_file():
            raise ConfigError(f"There is no configuration file {shortened(path)}.")
        text = _text(path)
    except OSError as error:
        raise ConfigError(f"The configuration file {shortened(path)} cannot be read: {error.strerror}.") from error
    node, values = _parse(text, str(path))
    _refuse_repetition(node, path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, found {type(values).__name__}.")
    return values, dict(_lines(node, ()))


def _parse(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """Nodes and values of a YAML text. ConfigError, beginning with `where`, for one that cannot be read or that grows."""
    try:
        node = yaml.compose(text, Loader)
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"written out, its aliases (*name) make more than {MOST_VALUES} values")
        return node, Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {_one_line(error)}.") from error
    except RecursionError:
        raise ConfigError(f"{where} is not valid YAML: it is nested hundreds of levels deep.") from None
    except (ValueError, OverflowError) as error:  # a number of thousands of digits, !!int with letters
        raise ConfigError(f"{where} holds a value that cannot be read: {_one_line(error)}.") from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # PyYAML's, for !!timestamp x, !!int with nothing, ...
        raise ConfigError(
            f"{where} holds a value that is not what its tag (!!int, !!timestamp ...) says. Leave tags out."
        ) from error


def parse_value(text: str, where: str) -> Any:
    """The value of a YAML text; ConfigError, beginning with `where`, for one that cannot be read or that grows."""
    return _parse(text, where)[1]


def is_whole(text: str) -> bool:
    """Whether a text is without halves of letters (lone surrogates), which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many values a node is with all aliases written out; `sizes` are those of the nodes seen so far, None while inside."""
    if id(node) not in sizes:
        sizes[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            children = []
            _refuse_surrogates(node)
        else:
            pairs = isinstance(node, yaml.MappingNode)
            children = [part for pair in node.value for part in pair] if pairs else node.value
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    if sizes[id(node)] is None:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias (*name) stands inside of what it stands for (&name)")
    return sizes[id(node)]


def _refuse_surrogates(node: yaml.ScalarNode) -> None:
    if not is_whole(node.value):
        line = node.start_mark.line + 1
        raise yaml.YAMLError(f"line {line}: half a character, as in \\ud83d; write the whole character")


def _one_line(error: Exception) -> str:
    """What a YAML error says, with its place, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        context = f"{error.context}, " if getattr(error, "context", None) else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {context}{problem}"
    return " ".join(str(error).split())


def shortened(value: object) -> str:
    """The text of a value, cut where it is long."""
    text = str(value)
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text)} characters)"


def _text(path: Path) -> str:
    """The content of a text file in UTF-8, or in the encoding its byte-order mark names."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES // 2**20} MiB; a configuration has a few KiB. Is it another file?")
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
            raise ConfigError(f'"{shortened(override)}" on the command line is not key=value, e.g. optimizer.lr=1e-4.')
        path = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in key.split("."))
        _set(values, path, _parse(text, f'"{shortened(override)}" on the command line')[1], override)
        paths.append(path)
    return paths


def _set(values: dict, path: tuple, value, override: str) -> None:
    here = values
    try:
        for part in path[:-1]:
            here = here.setdefault(part, {}) if isinstance(here, dict) else here[part]
        here[path[-1]] = value
    except (TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f'"{shortened(override)}" on the command line: there is no such key in the file ({error}).') from error


def validate(model: type[Model], values: dict, path: Path, lines: dict[tuple, int], overridden: list[tuple] = ()) -> Model:
    """Build `model`; every pydantic complaint becomes one line of a ConfigError."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, path, lines, overridden) for problem in error.errors()]
        raise ConfigError("\n".join(problems)) from error
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: a value is of the wrong kind ({error}). docs/training.md shows what goes where.") from error


def _describe(problem: dict, path: Path, lines: dict[tuple, int], overridden: list[tuple]) -> str:
    location = tuple(problem["loc"])
    key = tuple(part for part in location if not _is_tag(part, location, lines))
    where = f"{path}{_line_of(key, lines)}"
    if any(key[: len(one)] == one for one in overridden):
        where = "command line"
    return f"{where}: {shortened('.'.join(map(str, key))) or '(whole file)'}: {_message(problem)}"


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
    return problem["msg"].removeprefix("Value error, ") + _found(problem.get("input"))


def _found(value: object) -> str:
    """What stood there, unless it is a whole section."""
    if isinstance(value, dict | list):
        return ""
    try:
        return f" (found {shortened(repr(value))})"
    except ValueError:  # a number of thousands of digits
        return " (found a number of thousands of digits)"
