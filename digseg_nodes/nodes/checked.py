"""What reaches a node is checked against its own inputs: over the API, or through wires, ComfyUI lets anything in."""

from __future__ import annotations

import functools
import math
from numbers import Integral, Real

from comfy_api.latest import io

from ..core.encoded import EncodedImage, EncodedPrompts
from ..core.masks import Masks
from ..core.wired import check_conditioning, check_latent, check_picture, check_sampler
from .types import DigsegImage, DigsegMasks, DigsegPrompts

OWN_TYPES = {
    DigsegMasks.io_type: (Masks, "DIGSEG_MASKS of DiGSeg Segment or DiGSeg Decode Masks"),
    DigsegImage.io_type: (EncodedImage, "DIGSEG_IMAGE of DiGSeg Encode Image"),
    DigsegPrompts.io_type: (EncodedPrompts, "DIGSEG_PROMPTS of DiGSeg Text Prompts"),
}
HOST_TYPES = {
    "IMAGE": check_picture,
    "LATENT": check_latent,
    "SAMPLER": check_sampler,
    "CONDITIONING": check_conditioning,
}
"""ComfyUI's own types, and what raises ValueError for other values; core checks MASK and SIGMAS where it reads them."""
FILE_LISTS = ("checkpoint", "lora")
"""Lists of files, which host.py looks up afresh."""
LONGEST_TEXT = 1_000_000


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, refusing values that its inputs do not allow: ValueError with what was found and what is expected."""
    inner = node.execute.__func__

    @functools.wraps(inner)
    def execute(cls, *args, **values) -> io.NodeOutput:
        for one in cls.define_schema().inputs:
            if one.id in values and not (values[one.id] is None and one.optional):
                check_value(one, values[one.id])
        return inner(cls, *args, **values)

    node.execute = classmethod(execute)
    return node


def check_value(one: io.Input, value: object) -> None:
    """Raises ValueError for a value that the input `one` does not allow."""
    if check := HOST_TYPES.get(one.get_io_type()):
        check(value)
    expected = _expected(one, value)
    if expected:
        found = repr(value) if isinstance(value, str | Real) or value is None else f"a {type(value).__name__}"
        raise ValueError(f"{one.id} is {found if len(found) <= 80 else found[:77] + '...'}; use {expected}.")


def _expected(one: io.Input, value: object) -> str:
    """What an input wants, in words, where the value is not that; else an empty text."""
    if isinstance(one, io.Combo.Input):
        wrong = not isinstance(value, str) or (one.id not in FILE_LISTS and value not in one.options)
        return "a name of the list" if wrong and one.id in FILE_LISTS else f"one of: {', '.join(one.options)}" if wrong else ""
    if isinstance(one, io.Boolean.Input):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(one, io.Int.Input | io.Float.Input):
        return _expected_number(one, value)
    if isinstance(one, io.String.Input):
        return _expected_text(value)
    kind, words = OWN_TYPES.get(one.get_io_type(), (object, ""))
    return "" if isinstance(value, kind) else words


def _expected_number(one: io.Int.Input | io.Float.Input, value: object) -> str:
    whole = isinstance(one, io.Int.Input)
    right = isinstance(value, Integral if whole else Real) and not isinstance(value, bool) and math.isfinite(value)
    low, high = -math.inf if one.min is None else one.min, math.inf if one.max is None else one.max
    return "" if right and low <= value <= high else f"a {'whole ' if whole else ''}number from {low} to {high}"


def _expected_text(value: object) -> str:
    if not isinstance(value, str):
        return "a text"
    if len(value) > LONGEST_TEXT:
        return f"a text of up to {LONGEST_TEXT} letters"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "a text without halves of letters (lone surrogates)"
    return ""
