"""What each image of a source can be asked, listed on disk, one JSON line an image."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from train.data.base import Query
from train.latents.row_store import first_free, part_name, part_numbers


class Line(Protocol):
    """What a manifest holds of an image: its queries without masks, and the (height, width) of its photo in pixels."""

    queries: tuple[Query, ...]
    size: tuple[int, int]

    def values(self) -> dict:
        """As JSON values."""

    @classmethod
    def from_values(cls, values: dict) -> "Line":
        """Back from them; ValueError, KeyError or TypeError for anything else."""


L = TypeVar("L", bound=Line)


@dataclass(frozen=True)
class Listed:
    """An image whose photo and masks are read when they are needed."""

    queries: tuple[Query, ...]
    size: tuple[int, int]

    def values(self) -> dict:
        """See Line."""
        return {"queries": [[q.name, q.prompts, q.group] for q in self.queries], "size": self.size}

    @classmethod
    def from_values(cls, values: dict) -> "Listed":
        """See Line."""
        return cls(tuple(Query(name, tuple(prompts), None, group) for name, prompts, group in values["queries"]), _size(values))


@dataclass(frozen=True)
class Encoded:
    """An image in the latent cache: digests of its image, of where its labels are known (None: all over), and of the mask of each
    query, the empty one for what is absent."""

    image: bytes
    valid: bytes | None
    queries: tuple[Query, ...]
    masks: tuple[bytes, ...]
    size: tuple[int, int]

    def values(self) -> dict:
        """See Line."""
        queries = [[q.name, q.prompts, q.group, mask.hex()] for q, mask in zip(self.queries, self.masks, strict=True)]
        return {"image": self.image.hex(), "valid": self.valid and self.valid.hex(), "queries": queries, "size": self.size}

    @classmethod
    def from_values(cls, values: dict) -> "Encoded":
        """See Line."""
        queries = tuple(Query(name, tuple(prompts), None, group) for name, prompts, group, _ in values["queries"])
        masks = tuple(bytes.fromhex(mask) for *_, mask in values["queries"])
        valid = values["valid"] and bytes.fromhex(values["valid"])
        return cls(bytes.fromhex(values["image"]), valid, queries, masks, _size(values))


def _size(values: dict) -> tuple[int, int]:
    height, width = values["size"]
    return int(height), int(width)


class Manifest(Generic[L]):
    """Lines of one kind by the identity of their image, in `<name>.jsonl` and as many further files (`<name>-1.jsonl`, …) as
    processes ever wrote at the same moment."""

    def __init__(self, path: Path, kind: type[L]):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.kind = path.parent, path.stem, kind
        self.seen: dict[int, int] = {}

    def news(self) -> Iterator[tuple[str, L]]:
        """(identity, line) of every whole line that came since the last call; what a killed writer left half-written is passed
        over."""
        for number in sorted(part_numbers(self.folder, self.name, ".jsonl")):
            for text in self._tail(number).splitlines():
                try:
                    values = json.loads(text)
                    yield values["id"], self.kind.from_values(values)
                except (ValueError, KeyError, TypeError):
                    continue

    def _tail(self, number: int) -> bytes:
        """The whole lines that a file got since the last call."""
        with self._file(number).open("rb") as file:
            file.seek(self.seen.get(number, 0))
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.seen[number] = self.seen.get(number, 0) + len(whole)
        return whole

    def append(self, lines: list[tuple[str, L]]) -> None:
        """Add lines."""
        text = "".join(json.dumps({"id": identity, **line.values()}) + "\n" for identity, line in lines)
        with first_free(lambda number: self._file(number).with_suffix(".lock")) as number:
            path = self._file(number)
            with path.open("a", encoding="utf-8") as file:
                if file.tell() and not _ends_with_newline(path):
                    file.write("\n")
                file.write(text)

    def _file(self, number: int) -> Path:
        return self.folder / f"{part_name(self.name, number)}.jsonl"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
