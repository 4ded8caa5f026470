"""File names made of other people's texts: legal on every system, and never one name for two things."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

LONGEST = 120
"""Bytes of a made name in UTF-8; file systems take 255, and suffixes and temporary names come on top."""
LONGEST_PREFIX = 1000
"""Letters of a path below the output folder; file systems take 4,096 bytes of a whole path."""
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_names(names: Sequence[str], identities: Sequence[str] | None = None) -> list[str]:
    """A file name without suffix for each of `names`, all different even where case and accents' encoding do not count.

    A name stays as it is where it can. Those that would meet another, or are too long, end in eight digits of a hash of
    their identity (default: the name itself), so that the same texts always get the same names, in whatever order.
    identities: what tells equal names apart; all different.
    """
    stems = [_legal(name) for name in names]
    met = Counter(map(_folded, stems))
    return [
        stem if met[_folded(stem)] == 1 and len(stem.encode()) <= LONGEST else _marked(stem, identity)
        for stem, identity in zip(stems, identities or names, strict=True)
    ]


def check_prefix(prefix: str) -> None:
    """Raises ValueError for a text that cannot be the beginning of files' paths: NUL, parts or the whole too long."""
    if "\0" in prefix or len(prefix) > LONGEST_PREFIX or any(len(part.encode()) > LONGEST for part in re.split(r"[/\\]", prefix)):
        raise ValueError(
            f"The file name {prefix[:60]!r} cannot be used; names of folders and files have up to {LONGEST} bytes, all of them "
            f"{LONGEST_PREFIX} letters, none of them NUL."
        )


def word_names(names: Sequence[str]) -> list[str]:
    """`safe_names` of letters, digits, `_` and `-` alone: "traffic light" becomes "traffic_light"."""
    return safe_names([re.sub(r"[^\w-]+", "_", name) for name in names], names)


def _legal(name: str) -> str:
    """The name without what some file system refuses."""
    known = name.encode("utf-8", "replace").decode()  # half a surrogate pair becomes "?"
    clean = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", known)).rstrip(". ")
    clean = f"_{clean[1:]}" if clean.startswith(".") else clean.lstrip(" ")
    return f"_{clean}" if not clean or _RESERVED.fullmatch(clean) else clean


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKD", stem).casefold()


def _marked(stem: str, identity: str) -> str:
    short = stem.encode()[: LONGEST - 9].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
