"""File names as people and their tools write them: which files count, and which photo a mask belongs to."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from train.data.base import DataError
from train.data.pixels import IMAGE_SUFFIXES

SYSTEM = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__"),
    *("@eadir", "@recycle", "#recycle", "$recycle.bin", "recycler", "system volume information", "lost+found"),
}
"""What systems leave in folders besides hidden files, in small letters."""
WORD = r"(?:masks?|seg|segmentation|labels?|gt|groundtruth|ground_truth|annotations?)"
AFFIX = re.compile(rf"^{WORD}[_\-. ]+|[_\-. ]+{WORD}$")
NUMBER = re.compile(r"[_\-. ]+\(?\d+\)?$")


def is_foreign(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own (.ipynb_checkpoints, ._photo.jpg, __MACOSX)."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def entries(folder: Path) -> list[Path]:
    """What is directly in a folder, sorted, without what is_foreign."""
    return sorted(path for path in folder.iterdir() if not is_foreign(path.name))


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder and its sub-folders, sorted, without what is_foreign."""
    found = (path for path in folder.rglob("*") if is_image(path))
    return sorted(path for path in found if not any(is_foreign(part) for part in path.relative_to(folder).parts))


def is_image(path: Path) -> bool:
    """Whether a path is a regular file whose name ends as image files do."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def plain(name: str) -> str:
    """A name in the form in which composed and decomposed, small and capital letters are the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def unpadded(name: str) -> str:
    """A name whose numbers have no leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def same_but_for_spelling(path: Path) -> Path | None:
    """The only file beside `path` with its name but for Unicode form, case and image suffix; None where there is no such."""
    if not path.parent.is_dir():
        return None
    wanted = (plain(path.name), plain(path.stem))
    there = [other for other in entries(path.parent) if other.is_file()]
    exact = [other for other in there if plain(other.name) == wanted[0]]
    found = exact or [other for other in there if plain(other.stem) == wanted[1] and other.suffix.lower() in IMAGE_SUFFIXES]
    return found[0] if len(found) == 1 else None


class Owners:
    """Finds the photo that a mask's name means, among the stems of photos."""

    def __init__(self, stems: Iterable[str]):
        self.exact = set(stems)
        self.plain: dict[str, list[str]] = defaultdict(list)
        self.unpadded: dict[str, list[str]] = defaultdict(list)
        for stem in sorted(self.exact):
            self.plain[plain(stem)].append(stem)
            self.unpadded[unpadded(plain(stem))].append(stem)

    def find(self, mask: Path) -> tuple[str | None, bool]:
        """(stem of the photo or None, whether the mask is one of several numbered ones of it).

        The same name counts first; then other case or Unicode form, a word like _mask, a number as of instances, other leading
        zeros. DataError where a form fits several photos.
        """
        if mask.stem in self.exact:
            return mask.stem, False
        whole = plain(mask.stem)
        bare = AFFIX.sub("", whole)
        numbered = [NUMBER.sub("", bare), AFFIX.sub("", NUMBER.sub("", bare))]
        for form, several in ((whole, False), (bare, False), *((form, True) for form in numbered)):
            if found := self.plain.get(form):
                return self._only(found, mask), several
        for form in (whole, bare):
            if found := self.unpadded.get(unpadded(form)):
                return self._only(found, mask), False
        return None, False

    def _only(self, found: list[str], mask: Path) -> str:
        if len(found) > 1:
            raise DataError(f"{mask} may belong to the photo {found[0]} or to {found[1]}. Name it exactly as its photo.")
        return found[0]
