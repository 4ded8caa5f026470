"""Widgets whose value is one of a list: a wired value comes unchecked, so the node checks it."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: object, options: Sequence[str]) -> None:
    """Raises ValueError unless `value`, of the widget `name`, is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}; use one of: {', '.join(options)}.")
