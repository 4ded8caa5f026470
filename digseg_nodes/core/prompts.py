"""Text prompts: one class a line, `name: synonym, synonym`, taken literally."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(p.stem for p in _FOLDER.glob("*.txt")))
"""Names of the class lists that come with the pack."""
_WIDE_COLONS = "\uff1a\ufe55\ufe13"
_COLON = re.compile(rf":\s+|:$|(?<!\d)[{_WIDE_COLONS}]|[{_WIDE_COLONS}](?!\d)")
"""What separates a name from its synonyms: a colon before a space, or a full-width one, which Chinese and Japanese keyboards
write without a space."""
_COMMA = re.compile("[,\uff0c\u3001\uff64\ufe50\ufe51\ufe10\ufe11\u060c]")
"""What separates synonyms: commas, full-width, ideographic and Arabic ones among them."""
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200e\u200f\u2060\u00ad\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
"""Marks without width that come along with pasted text: byte order, direction, places where a line may or must not break."""


def tidy(name: str) -> str:
    """A name as it is compared: composed letters, single spaces, no invisible marks."""
    return " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())


@dataclass(frozen=True)
class Prompt:
    """One class: its name (the label of its mask) and every wording that asks for it, the name first.

    excluded: its mask is taken away from the union of the others.
    """

    name: str
    wordings: tuple[str, ...]
    excluded: bool = False


MINUS = "-\u2010\u2011\u2013\u2014\u2212\ufe63\uff0d"
"""What a line of an excluded class starts with: a hyphen of any width, the dashes that word processors make of it, the minus
sign."""


def parse_prompts(text: str) -> list[Prompt]:
    """One prompt per non-empty line. A colon followed by a space (or ending the line, or of full width) separates the name from
    synonyms, commas of any script separate these.

    `10:30` or `(left)` are literal. A line that starts with `-` names a class to take away from the others. Raises
    ValueError when nothing is left to select, or when a name comes twice.
    """
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not tidy(line):
            continue
        prompt = parse_line(line, number)
        if prompt.name in lines:
            raise ValueError(
                f"The class {prompt.name!r} is named twice, on lines {lines[prompt.name]} and {number}. "
                "Give every class one line; put synonyms behind a colon."
            )
        lines[prompt.name] = number
        prompts.append(prompt)
    if not prompts:
        raise ValueError("The text is empty. Type what to select, one thing a line, for example: red circle")
    if all(prompt.excluded for prompt in prompts):
        raise ValueError(
            "Every line starts with -, which takes a thing away, so nothing is left to select. Write what to select without it."
        )
    return prompts


def excluded_names(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Names of the prompts whose masks are taken away from the union."""
    return tuple(prompt.name for prompt in prompts if prompt.excluded)


def note_on_separators(prompts: Sequence[Prompt]) -> str:
    """What to tell a user whose only prompt looks like several in one line, as other packs write them; else empty."""
    if len(prompts) != 1 or not re.search(r"\S\s*(?:[,|;\u3001\uff0c\uff1b\u3002]|\.\s)\s*\S", prompts[0].name):
        return ""
    return "One line is one prompt; write one thing a line"


def parse_line(line: str, number: int = 1) -> Prompt:
    """The prompt on one line that is not empty; number: of the line, for the ValueError when it has no name."""
    line = line.translate(_INVISIBLE).strip()
    if excluded := line[0] in MINUS:
        line = line[1:].strip()
    name, *rest = _COLON.split(line, maxsplit=1)
    name = tidy(name)
    synonyms = [tidy(synonym) for synonym in _COMMA.split(rest[0])] if rest else []
    if not name and excluded and not rest:
        raise ValueError(f"Line {number} is a minus sign alone. Write behind it what to take away: -eyes")
    if not name:
        raise ValueError(f"Line {number} ({line!r}) has no name before the colon. Write: name: synonym, synonym")
    wordings = dict.fromkeys([name, *(s for s in synonyms if s)])
    return Prompt(name, tuple(wordings), excluded)


def preset_text(name: str) -> str:
    """The class list `name` of PRESETS, in the format of `parse_prompts`."""
    return (_FOLDER / f"{name}.txt").read_text("utf-8")


def parse_thresholds(text: str, names: Sequence[str], default: float) -> list[float]:
    """One threshold per name: `name: 0.4` lines of the text, `default` for the rest. ValueError names the wrong line."""
    limits = dict.fromkeys(names, default)
    for number, line in enumerate(text.splitlines(), 1):
        if not tidy(line):
            continue
        found = re.fullmatch(f"(.*)[:{_WIDE_COLONS}](.*)", tidy(line))
        if not found:
            raise ValueError(f"Line {number} ({line.strip()!r}): there is no colon; write e.g. {names[0]}: 0.4.")
        name, value = found[1].strip(), found[2]
        if name not in limits:
            raise ValueError(f"Line {number} ({line.strip()!r}): there is no class {name!r}; there are: {', '.join(names)}.")
        try:
            limits[name] = float(value)
        except ValueError:
            raise ValueError(f"Line {number} ({line.strip()!r}): write a number from 0 to 1 behind the colon.") from None
        if not 0 <= limits[name] <= 1:
            raise ValueError(f"Line {number} ({line.strip()!r}): {value.strip()} is not between 0 and 1.")
    return list(limits.values())
