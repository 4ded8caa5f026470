"""What was done already: the settings behind a folder of masks, and one JSON line for each photo."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from digseg_nodes.core.files import write_text, written_atomically
from train.data.base import DataError
from train.predicting.photos import Photo

SETTINGS = "settings.json"
LINES = "predictions.jsonl"
BLOCKS, BLOCK = 64, 65536


def fingerprint(path: Path) -> str:
    """A digest of a checkpoint's file, or of the weights and configs in its folder: sizes and samples of their content."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in (".safetensors", ".json"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if file != path else ''}:{size};".encode())
        with file.open("rb") as content:
            for block in range(BLOCKS):
                content.seek(max(0, size - BLOCK) * block // (BLOCKS - 1))
                digest.update(content.read(BLOCK))
    return digest.hexdigest()[:16]


class Results:
    """The results in one folder that were made with the same settings; several processes may add to it at the same time."""

    def __init__(self, folder: Path, settings: dict, rank: int = 0):
        self.folder = folder
        self.settings = settings
        self.rank = rank
        self.adds = 0
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.mine = folder / f"predictions.{rank}.part"

    def check(self, overwrite: bool) -> None:
        """Raises DataError when the folder holds the results of other settings, unless they may be overwritten."""
        file, results = self.folder / SETTINGS, [self.folder / name for name in ("masks", "semantic", "overlays")]
        if overwrite or not any(path.exists() for path in results):
            return
        if not file.is_file():
            raise DataError(
                f"{self.folder} holds masks of which it is not known how they were made (there is no {SETTINGS}). Choose another "
                "--output, or say --overwrite to make them anew."
            )
        old = self._old_settings(file)
        changed = [
            f"{key} {_short(old.get(key))} -> {_short(self.settings.get(key))}"
            for key in sorted(old | self.settings)
            if old.get(key) != self.settings.get(key)
        ]
        if changed:
            raise DataError(
                f"{self.folder} holds masks made with other settings: {'; '.join(changed)}. Choose another --output, or say "
                "--overwrite to make them anew."
            )

    def _old_settings(self, file: Path) -> dict:
        try:
            old = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read ({error}). Choose another --output, or say --overwrite.") from error
        return old if isinstance(old, dict) else {}

    def begin(self) -> None:
        """Note the settings; only the first process does."""
        write_text(self.folder / SETTINGS, json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")

    def done(self) -> set[tuple[str, int]]:
        """(name, bytes) of the photos that have a line with these settings, whichever process wrote it."""
        return {(line["image"], line["bytes"]) for _, _, line in self._lines()}

    def add(self, photo: Photo, size: tuple[int, int], classes: list[dict]) -> None:
        """One line about a photo of `size` (height, width); written once its files are there."""
        line = {"image": photo.name, "file": photo.stem, "bytes": photo.size, "height": size[0], "width": size[1]}
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.mine.open("a", encoding="utf-8") as file:
            if self.adds == 0 and file.tell():
                file.write("\n")  # ends a line that a stop may have torn apart
            self.adds += 1
            file.write(json.dumps({**line, "settings": self.key, "classes": classes}, ensure_ascii=True) + "\n")

    def merge(self, photos: Iterable[Photo]) -> None:
        """Bring the lines of all processes into predictions.jsonl, in the order of the photos, then those of other photos."""
        places = {line["image"]: (file, offset) for file, offset, line in self._lines()}
        order = {photo.name: None for photo in photos if photo.name in places} | dict.fromkeys(places)
        with written_atomically(self.folder / LINES) as temporary, temporary.open("wb") as out:
            for name in order:
                file, offset = places[name]
                with file.open("rb") as lines:
                    lines.seek(offset)
                    out.write(lines.readline())
        for part in self.folder.glob("predictions.*.part"):
            part.unlink()

    def lines(self) -> Iterator[dict]:
        """The lines with these settings, one by one."""
        return (line for _, _, line in self._lines())

    def _lines(self) -> Iterator[tuple[Path, int, dict]]:
        """(file, offset, content) of every whole line with these settings; one that a stop tore apart is skipped."""
        for file in (self.folder / LINES, *sorted(self.folder.glob("predictions.*.part"))):
            if file.is_file():
                with file.open("rb") as lines:
                    offset = 0
                    for text in lines:
                        line = _parsed(text)
                        if line.get("settings") == self.key:
                            yield file, offset, line
                        offset += len(text)


def _parsed(text: bytes) -> dict:
    if not text.endswith(b"\n"):
        return {}
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
