"""The values of label files: colours as numbers, and what of them nobody has named."""

from collections.abc import Container

import numpy as np


def colour_codes(colours: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 -> [...] int32, one number per colour."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def code_colour(code: int) -> tuple[int, int, int]:
    """Inverse of colour_codes for one colour."""
    return code >> 16, code >> 8 & 255, code & 255


def strange_numbers(values: np.ndarray, known: Container[int]) -> dict[int, int]:
    """Pixels by value of those that are not `known`."""
    found, counts = np.unique(values, return_counts=True)
    return {int(one): int(count) for one, count in zip(found, counts, strict=True) if int(one) not in known}


def strange_colours(codes: np.ndarray, known: Container[int]) -> dict[str, int]:
    """Pixels by colour, as text, of the codes that are not `known`."""
    strange = strange_numbers(codes, known)
    return {str(code_colour(code)): count for code, count in strange.items()}
