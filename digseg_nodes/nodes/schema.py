"""Node schemas with what newer ComfyUI knows and older does not, asked of the host by feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from comfy_api.latest import io

KNOWN = frozenset(field.name for field in fields(io.Schema))


def schema(*, advanced: Sequence[str] = (), **values) -> io.Schema:
    """An io.Schema of those values that this host's has (search_aliases, essentials_category ... are left out elsewhere).

    advanced: ids of the inputs that stay folded away until they are asked for, where the host can do that.
    """
    inputs = {entry.id: entry for entry in values["inputs"]}
    for name in advanced:
        if hasattr(inputs[name], "advanced"):
            inputs[name].advanced = True
    return io.Schema(**{name: value for name, value in values.items() if name in KNOWN})
