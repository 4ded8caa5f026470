"""What every image can be asked, its latents in the cache, and all training samples of a run as flat arrays."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from train.data.base import ABSENT_GROUPS, DataError, Query, Sample, Source
from train.data.prepare import Prepared, mask_pixels, prepare
from train.latents.row_store import RowStore, digest, fill
from train.networks.bases import encode_pixels, module_digest
from train.networks.text_encoding import TextCache


@dataclass(frozen=True)
class Entry:
    """One cached image: digests of its image, label validity (or None) and of the mask of each query."""

    image: bytes
    valid: bytes | None
    queries: tuple[tuple[Query, bytes], ...]


class Manifest:
    """What each image can be asked, one JSON line an image; several processes may append to it under `lock`."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = path, FileLock(path.with_suffix(".lock"))

    def read(self) -> Iterator[tuple[str, Entry]]:
        """(identity, entry) of every whole line; what a killed writer left half-written is passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                yield _entry_from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue

    def append(self, entries: list[tuple[str, Entry]]) -> None:
        """Add lines."""
        lines = "".join(json.dumps(_entry_to_json(identity, entry)) + "\n" for identity, entry in entries)
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() and not _ends_with_newline(self.path):
                file.write("\n")
            file.write(lines)


class LatentCache:
    """Latents of images and masks for one VAE and resolution, and the list of what each image can be asked."""

    def __init__(self, folder: Path, vae, resolution: int, batch: int = 16, workers: int = 0, target: str = "binary"):
        self.vae, self.resolution, self.batch, self.workers, self.target = vae, resolution, batch, workers, target
        self.folder = folder / f"latents-{module_digest(vae)}-{resolution}"
        side = resolution // PIXELS_PER_LATENT
        latent = (vae.config.latent_channels, side, side)
        self.images = RowStore(self.folder, "images", latent)
        self.masks = RowStore(self.folder, "masks" if target == "binary" else target, latent)
        self.bits = RowStore(self.folder, "bits", (resolution * resolution // 8,), "uint8")
        self.valid = RowStore(self.folder, "valid", (1, side, side), "uint8")
        self.manifest = Manifest(self.folder / "samples.jsonl")
        self.entries = dict(self._read_manifest())

    def _read_manifest(self) -> Iterator[tuple[str, Entry]]:
        """Entries whose rows are all there; anything else is encoded again."""
        for identity, entry in self.manifest.read():
            if entry.image in self.images and all(self._has(entry.image, mask) for _, mask in entry.queries):
                yield identity, entry

    def _has(self, image: bytes, mask: bytes) -> bool:
        return mask in self.bits and self.target_key(image, mask) in self.masks

    def target_key(self, image: bytes, mask: bytes) -> bytes:
        """Digest of the latent to learn: of the mask alone, or of the mask painted on its photo."""
        return mask if self.target == "binary" else digest(image + mask)

    def add(self, source: Source, progress: bool = True) -> list[Entry]:
        """Entries of every image of a source, encoding what is missing."""
        identities = [source.identity(index) for index in range(len(source))]
        if any(identity not in self.entries for identity in identities):
            with self.manifest.lock:
                self._encode_missing(source, identities, progress)
        return [self.entries[identity] for identity in identities]

    def _encode_missing(self, source: Source, identities: list[str], progress: bool) -> None:
        for store in (self.images, self.masks, self.bits, self.valid):
            store.refresh()
        self.entries.update(self._read_manifest())  # another process may have encoded them while we waited
        missing = [index for index, identity in enumerate(identities) if identity not in self.entries]
        loader = DataLoader(Samples(source, missing, self.resolution), batch_size=None, num_workers=self.workers)
        with tqdm(total=len(missing), desc="encoding images and masks", unit="image", disable=not progress) as bar:
            for chunk in _chunks(zip(missing, loader, strict=True), self.batch):
                self._remember(self._encode([sample for _, sample in chunk], [identities[index] for index, _ in chunk]))
                bar.update(len(chunk))

    def _remember(self, entries: list[tuple[str, Entry]]) -> None:
        self.manifest.append(entries)
        self.entries.update(entries)

    def rows_of(self, entry: Entry, position: int) -> tuple[int, int, int, int]:
        """Rows of an entry's image, target latent, mask and validity (-1: all known) for its query number `position`."""
        mask = entry.queries[position][1]
        valid = -1 if entry.valid is None else self.valid.index[entry.valid]
        return self.images.index[entry.image], self.masks.index[self.target_key(entry.image, mask)], self.bits.index[mask], valid

    @torch.no_grad()
    def _encode(self, samples: list[tuple[tuple[Query, ...], Prepared]], identities: list[str]) -> list[tuple[str, Entry]]:
        image_keys = [digest(identity) for identity in identities]
        self._fill(self.images, image_keys, lambda at: torch.stack([samples[i][1].pixels for i in at]))
        masks, entries = [], []  # masks: (number of its sample, mask [R,R], digest)
        for number, ((queries, prepared), identity) in enumerate(zip(samples, identities, strict=True)):
            named = [(number, mask, digest(np.packbits(mask.numpy()).tobytes())) for mask in self._masks(prepared)]
            masks += named
            present, empty = iter(named[:-1]), named[-1][2]
            pairs = tuple((query, empty if query.group in ABSENT_GROUPS else next(present)[2]) for query in queries)
            entries.append((identity, Entry(image_keys[number], self._valid_key(prepared.valid), pairs)))
        target_keys = [self.target_key(image_keys[number], key) for number, _, key in masks]
        self._fill(self.masks, target_keys, lambda at: torch.stack([self._target(samples, *masks[i][:2]) for i in at]))
        self.bits.append([key for *_, key in masks], np.stack([np.packbits(mask.numpy()) for _, mask, _ in masks]))
        return entries

    def _masks(self, prepared: Prepared) -> list[Tensor]:
        """The present masks, then the empty one of absent prompts; each bool [R,R]."""
        return [*prepared.masks, torch.zeros((self.resolution, self.resolution), dtype=torch.bool)]

    def _target(self, samples: list[tuple[tuple[Query, ...], Prepared]], number: int, mask: Tensor) -> Tensor:
        """What the mask latent is encoded from, [3,R,R] in [-1,1]: white on black, or white on the photo."""
        if self.target == "binary":
            return mask_pixels(mask[None])[0]
        return samples[number][1].pixels.masked_fill(mask, 1.0)

    def _fill(self, store: RowStore, keys: list[bytes], pixels) -> None:
        device = self.vae.device
        fill(store, keys, lambda at: encode_pixels(self.vae, pixels(at).to(device)).float(), self.batch)

    def _valid_key(self, valid: Tensor | None) -> bytes | None:
        if valid is None:
            return None
        row = valid[None, None].numpy().astype(np.uint8)  # [h,w] -> [1,1,h,w]
        key = digest(row.tobytes())
        self.valid.append([key], row)
        return key


class Samples(torch.utils.data.Dataset):
    """Queries and prepared pixels of images, loaded by worker processes where asked for; mask arrays travel in Prepared."""

    def __init__(self, source: Source, indices: list[int], resolution: int):
        self.source, self.indices, self.resolution = source, indices, resolution

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[tuple[Query, ...], Prepared]:
        sample = self.source.sample(self.indices[position])
        bare = tuple(Query(q.name, q.prompts, None, q.group) for q in sample.queries)
        return bare, prepare(checked(sample), self.resolution)


def checked(sample: Sample) -> Sample:
    """The sample; raises DataError when a query's group says there is a mask and there is none, or the other way round."""
    for query in sample.queries:
        if (query.mask is None) != (query.group in ABSENT_GROUPS):
            raise DataError(f'The query "{query.name}" of group {query.group} has {"no" if query.mask is None else "a"} mask.')
    return sample


def _chunks(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def _entry_to_json(identity: str, entry: Entry) -> dict:
    queries = [[q.name, q.prompts, q.group, mask.hex()] for q, mask in entry.queries]
    return {"id": identity, "image": entry.image.hex(), "valid": entry.valid and entry.valid.hex(), "queries": queries}


def _entry_from_json(line: dict) -> tuple[str, Entry]:
    queries = tuple(
        (Query(name, tuple(prompts), None, group), bytes.fromhex(mask)) for name, prompts, group, mask in line["queries"]
    )
    return line["id"], Entry(bytes.fromhex(line["image"]), line["valid"] and bytes.fromhex(line["valid"]), queries)


@dataclass(frozen=True)
class SampleTable:
    """Every (image, query) of a run as arrays of length N.

    image, mask, bits, valid (-1: all known): what `rows_of` gave. first, count: the texts of a query are the rows
    phrases[first : first + count]. class_id: index into class_names. absent: 0 present, 1 hard, 2 random. All int64.
    weight: float64, the share of a source in the mix spread over its queries.
    """

    image: np.ndarray
    mask: np.ndarray
    bits: np.ndarray
    valid: np.ndarray
    first: np.ndarray
    count: np.ndarray
    class_id: np.ndarray
    absent: np.ndarray
    weight: np.ndarray
    phrases: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.image)


def build_table(sources: list[tuple[Source, float]], samples, texts: TextCache) -> SampleTable:
    """Flatten what a LatentCache or FreshSamples knows, encoding what it misses. Held-out queries are left out: this is
    for training."""
    records, prompts, classes = [], [], {}
    for source, share in sources:
        asked = [
            (entry, position, query)
            for entry in samples.add(source)
            for position, (query, _) in enumerate(entry.queries)
            if query.group != "held_out"
        ]
        for entry, position, query in asked:
            absent = 1 + ABSENT_GROUPS.index(query.group) if query.group in ABSENT_GROUPS else 0
            class_id = classes.setdefault(query.name, len(classes))
            text = (len(prompts), len(query.prompts))
            records.append((*samples.rows_of(entry, position), *text, class_id, absent, share / len(asked)))
            prompts.extend(query.prompts)
    if not any(record[7] == 0 for record in records):
        raise DataError("The training data holds no mask with any pixel set. Check the data YAML's paths and classes.")
    columns = [np.array(column) for column in zip(*records, strict=True)]
    unique = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    rows = np.array(texts.row_numbers(list(unique)))
    return SampleTable(*columns, rows[[unique[prompt] for prompt in prompts]], list(classes))
