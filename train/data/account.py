"""The account of a data set that check_data.py and finetune.py give before anything is trained.

The rule: every label that is there is either used or named, with a count; what could mean two things is an error that says
both; and a class without a single mask in a source is not asked for as absent unless `absent:` of the data YAML names it.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from train.data.base import Contents, DataError, Finding, Source
from train.data.config import DataConfig
from train.data.labelled import file_digest
from train.data.registry import open_source
from train.data.source_config import SourceConfig

SPLITS = ("train", "validation", "test")
NAMED = 12
"""How many classes, numbers or files a line names before it says how many more there are."""
COMPARED = 2**16
"""How many bytes of photos of one size are compared before the whole files are."""
MOSTLY = 0.5
"""Share of a photo above which every mask of a class is suspicious of being inverted."""


class ContentStore:
    """What label files hold, kept on disk by content address, one JSON line each; several processes may share it."""

    def __init__(self, path: Path | None = None):
        self.path, self.known, self.fresh = path, {}, {}
        for line in path.read_bytes().splitlines() if path is not None and path.is_file() else ():
            with suppress(ValueError, KeyError, TypeError):  # what a killed writer left half-written
                entry = json.loads(line)
                self.known[entry["id"]] = Contents(entry["pixels"], entry["areas"], entry["unknown"], entry.get("empty", 0))

    def of(self, source: Source, index: int) -> Contents | None:
        """`contents` of an image, read from its label files where they are not known yet."""
        address = getattr(source, "address", None)
        if self.path is None or address is None:
            return source.contents(index)
        key = address(index)
        if key not in self.known:
            self.known[key] = self.fresh[key] = source.contents(index)
        return self.known[key]

    def save(self) -> None:
        """Append what was read since."""
        if self.path is None or not self.fresh:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": key, **vars(contents)}) + "\n" for key, contents in self.fresh.items()]
        with FileLock(self.path.with_suffix(".lock")), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        self.fresh = {}


@dataclass
class SourceAccount:
    """One source: photos and how many have no mask; per class the pictures with it, its mean share of them and how often it is
    asked for as absent; what is left over, what is wrong, and whether it could be opened at all."""

    split: str
    kind: str
    photos: int = 0
    without: int = 0
    names: list[str] = field(default_factory=list)
    areas: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    absent: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)
    shown: Counter = field(default_factory=Counter)
    pixels: int = 0
    empty: int = 0
    unseen: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    opened: bool = True

    def add(self, contents: Contents) -> None:
        """Count one image."""
        self.photos += 1
        self.without += not contents.areas
        self.pixels += contents.pixels
        self.empty += contents.empty
        self.unknown.update(contents.unknown)
        self.shown.update(contents.unknown.keys())
        for name, area in contents.areas.items():
            self.areas[name].append(area / max(contents.pixels, 1))

    def lines(self) -> Iterator[str]:
        """The table of the source, then one line for everything that a person should know."""
        if self.opened:
            yield f"  {self.photos} images, " + (f"{self.without} without any mask" if self.names else "drawn, with their masks")
        if self.names:
            yield f"  {'class':24}images   share  area   absent"
        for name in self.names:
            areas = self.areas.get(name, [])
            area = f"{sum(areas) / len(areas):6.1%}" if areas else "     -"
            yield f"  {name[:23]:24}{len(areas):6}  {len(areas) / max(self.photos, 1):6.1%}  {area} {self.absent[name]:6}"
        for finding in self.findings:
            yield f"  {'WARNING' if finding.left_over else 'NOTE'} {finding.text}"
        for problem in self.problems:
            yield f"  PROBLEM {problem}"


class Account:
    """All sources of a data set; `lines` is what both commands print."""

    def __init__(self, config: DataConfig, store: ContentStore | None = None):
        self.config, self.store = config, store or ContentStore()
        self.sources: list[SourceAccount] = []
        self.findings: list[Finding] = []
        self.masks: tuple[set[Path], set[Path]] = set(), set()
        self.photos: tuple[set[Path], set[Path]] = set(), set()
        self.places: dict[str, Counter] = {split: Counter() for split in SPLITS}

    def add(self, split: str, kind: str, source: Source, each: Callable[[int], None] = lambda index: None) -> SourceAccount:
        """Take a source in: `each` is called with the number of every image, and its DataErrors are problems too."""
        one = SourceAccount(split, kind, names=_named_classes(source))
        self.sources.append(one)
        for index in range(len(source)):
            try:
                contents = self.store.of(source, index)
                if contents is not None:
                    one.add(contents)
                    one.absent.update(_absent(source, index, contents))
                each(index)
            except DataError as error:
                one.problems.append(str(error))
            if (photo := source.photo(index)) is not None:
                self.places[split][photo.resolve()] += 1
        one.photos = one.photos or len(source)
        one.unseen = [name for name in source.class_names if name in source.unseen]
        one.findings = [*source.findings(), *_about_classes(one, source), *_about_unknown(one)]
        self.note_files(source)
        return one

    def note_files(self, source: Source) -> None:
        """Remember which files of a source are used, so that none is called unused which another source takes."""
        for (there, used), (all_there, all_used) in ((source.mask_files(), self.masks), (source.photo_files(), self.photos)):
            all_there |= there
            all_used |= used

    def note_other_splits(self, splits: Iterable[str]) -> None:
        """Remember the files of splits that are not taken in."""
        for split in splits:
            for config in self.config.split(split):
                with suppress(DataError):
                    self.note_files(open_source(config))

    def fail(self, split: str, kind: str, error: DataError) -> None:
        """Take in a source that cannot be opened."""
        self.sources.append(SourceAccount(split, kind, problems=[str(error)], opened=False))

    def close(self) -> None:
        """What only shows when all sources are known."""
        self.store.save()
        seen = {name for one in self.sources for name in one.areas}
        for one in self.sources:
            if one.unseen:
                one.findings.append(_about_unseen(one, left_over=not seen >= set(one.unseen)))
        masks, photos = (sorted(there - used) for there, used in (self.masks, self.photos))
        if masks:
            self.findings.append(Finding(f"{len(masks)} label files belong to no image that is read: {_some(map(str, masks))}"))
        if photos:
            self.findings.append(Finding(f"{len(photos)} photos without labels are not read: {_some(map(str, photos))}"))
        for split, places in self.places.items():
            if twice := [path for path, count in places.items() if count > 1]:
                text = f"{len(twice)} photos come more than once in {split}, perhaps with other labels: {_some(map(str, twice))}"
                self.findings.append(Finding(text))
        both = [path for path in self.places["train"] if path in self.places["validation"] or path in self.places["test"]]
        self.findings += self._copies()
        if both:
            text = f"{len(both)} photos of the training are in the validation or the test as well, whose scores say little then"
            self.findings.append(Finding(text, left_over=False))

    def _copies(self) -> Iterator[Finding]:
        """Photos that are there under several names, whose labels may say different things."""
        sizes: dict[int, list[Path]] = defaultdict(list)
        for path in dict.fromkeys(path for places in self.places.values() for path in places):
            with suppress(OSError):
                sizes[path.stat().st_size].append(path)
        alike = [part for paths in sizes.values() for part in _parted(paths, _head)]
        same = [part for paths in alike for part in _parted(paths, file_digest)]
        if copies := [f"{paths[0]} and {paths[1].name}" for paths in same]:
            text = f"{len(copies)} photos are there under several names, perhaps with other labels: {_some(copies)}"
            yield Finding(text)

    @property
    def problems(self) -> list[str]:
        """What stops a training."""
        return [problem for one in self.sources for problem in one.problems]

    @property
    def left_over(self) -> int:
        """How many warnings there are."""
        return sum(one.left_over for one in [*self.findings, *(found for source in self.sources for found in source.findings)])

    def lines(self, title: str) -> Iterator[str]:
        """The whole account as text."""
        for one in self.sources:
            yield f"{self.config.name or title}, {one.split}, {one.kind}:"
            yield from one.lines()
        for finding in self.findings:
            yield f"{'UNUSED' if finding.left_over else 'NOTE'} {finding.text}"


def take_account(config: DataConfig, opened: dict[str, list[Source]], store: ContentStore) -> Account:
    """The account of sources that are open already; splits that are not in `opened` only say which files they use.

    Raises DataError when labels cannot be read.
    """
    account = Account(config, store)
    for split, sources in opened.items():
        for source, settings in zip(sources, config.split(split), strict=True):
            account.add(split, _kind(settings), source)
    account.note_other_splits(set(SPLITS) - set(opened))
    account.close()
    if problems := account.problems:
        more = f" ({len(problems) - 1} more such errors; check_data.py names them all)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    return account


def data_digest(sources: Iterable[Source]) -> dict:
    """A digest of all photos of sources with their prompts and masks: {"photos": their number, "digest": SHA-256 over all
    identities}."""
    digest, photos = hashlib.sha256(), 0
    for source in sources:
        for index in range(len(source)):
            digest.update(source.identity(index).encode())
            photos += 1
        digest.update(b"/")
    return {"photos": photos, "digest": digest.hexdigest()}


def describe_change(before: dict[str, dict], now: dict[str, dict], split: str) -> str | None:
    """What differs between two data_digests of a split in words; None when nothing does, or one does not know it."""
    old, new = before.get(split), now.get(split)
    if not old or not new or old["digest"] == new["digest"]:
        return None
    if old["photos"] != new["photos"]:
        return f"{old['photos']} photos then, {new['photos']} now"
    return f"of {new['photos']} photos some have other pixels, labels or words"


def _kind(settings: SourceConfig) -> str:
    return getattr(settings, "type", "source")


def _named_classes(source: Source) -> list[str]:
    return source.class_names if getattr(source, "wording", None) is not None else []


def _absent(source: Source, index: int, contents: Contents) -> list[str]:
    """The classes that an image is asked for without having them."""
    wording = getattr(source, "wording", None)
    return wording.absent(contents.areas, index, source.unseen) if wording is not None else []


def _about_unseen(one: SourceAccount, left_over: bool) -> Finding:
    """left_over: whether a class has no mask in the other sources either, and so may be mistyped or misread."""
    return Finding(
        f"no mask in {one.photos} images of {len(one.unseen)} of {len(one.names)} classes, which are not asked for: "
        f"{_some(one.unseen)}; if they are truly nowhere, name them under `absent:`",
        left_over,
    )


def _about_classes(one: SourceAccount, source: Source) -> Iterator[Finding]:
    if getattr(getattr(source, "config", None), "marks", None) != "auto":
        return
    for name, areas in one.areas.items():
        if min(areas) > MOSTLY and len(areas) > 1:
            yield Finding(
                f"class {name}: all {len(areas)} masks cover more than half of their photo, {sum(areas) / len(areas):.0%} on "
                "average. If black is what is meant, say `marks: dark`, if it is what is transparent, `marks: transparent`; if "
                "neither, `marks: bright` or `marks: alpha`"
            )


def _about_unknown(one: SourceAccount) -> Iterator[Finding]:
    if one.empty:
        yield Finding(f"{one.empty} outlines enclose no pixel of their photo: they lie outside, or have no area")
    if one.unknown:
        found = [
            f"{name}: {count / max(one.pixels, 1):.2%} of the pixels, in {one.shown[name]} images"
            for name, count in one.unknown.most_common(NAMED)
        ]
        more = f", and {len(one.unknown) - NAMED} more" if len(one.unknown) > NAMED else ""
        yield Finding(
            f"{len(one.unknown)} numbers or colours are neither a class, nor named under `ignore:` or `background:`, and are "
            f"read as background: {'; '.join(found)}{more}"
        )


def _head(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(COMPARED)


def _parted(paths: list[Path], look: Callable[[Path], str | bytes]) -> list[list[Path]]:
    """Those of several files that look the same, together; files that cannot be read are left out."""
    same = defaultdict(list)
    for path in paths if len(paths) > 1 else ():
        with suppress(OSError):
            same[look(path)].append(path)
    return [alike for alike in same.values() if len(alike) > 1]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "")
