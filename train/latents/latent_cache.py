"""Images and masks encoded once: latents of every image of a source, and what it can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from digseg_nodes.core.geometry import plan_geometry
from train.data.base import ABSENT_GROUPS, DataError, Query, Sample, Source
from train.data.prepare import Prepared, drawn, prepare
from train.latents.manifest import Encoded, Manifest
from train.latents.row_store import RowStore, digest, fill
from train.latents.shape_stores import Stores
from train.networks.bases import encode_pixels, module_digest


@dataclass(frozen=True)
class Loaded:
    """An image on its way into the cache: its queries without masks, its tensors, and its (height, width) in pixels."""

    queries: tuple[Query, ...]
    prepared: Prepared
    size: tuple[int, int]


class LatentCache:
    """Latents of images and masks for one VAE and resolution, and the list of what each image can be asked.

    photo_shape: of geometry.PHOTO_SHAPES. Rows lie in a folder per shape, those of squares in the cache's own.
    """

    def __init__(
        self,
        folder: Path,
        vae,
        resolution: int,
        batch: int = 16,
        workers: int = 0,
        target: str = "binary",
        photo_shape: str = "own",
    ):
        self.vae, self.resolution, self.batch, self.workers, self.target = vae, resolution, batch, workers, target
        self.photo_shape = photo_shape
        self.folder = folder / f"latents-{module_digest(vae)}-{resolution}"
        self.known_stores: dict[tuple[int, int], Stores] = {}
        self.manifest = Manifest(self.folder / f"samples-{photo_shape}-soft.jsonl", Encoded)
        self.entries = dict(self._read_manifest())

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels that a photo of this size is encoded at."""
        return plan_geometry(*size, self.resolution, self.photo_shape).padded

    def stores(self, shape: tuple[int, int]) -> Stores:
        """The rows of images of one shape."""
        if shape not in self.known_stores:
            square = shape == (self.resolution, self.resolution)
            folder = self.folder if square else self.folder / "{}x{}".format(*shape)
            self.known_stores[shape] = Stores(folder, self.vae.config.latent_channels, shape, self.target)
        return self.known_stores[shape]

    def stores_of(self, entry: Encoded) -> Stores:
        """The rows an entry's digests belong to."""
        return self.stores(self.shape_of(entry.size))

    def _read_manifest(self) -> Iterator[tuple[str, Encoded]]:
        """Entries whose rows are all there; anything else is encoded again."""
        for identity, entry in self.manifest.read():
            stores = self.stores_of(entry)
            if entry.image in stores.images and all(
                mask in stores.bits and self.target_key(entry.image, mask) in stores.masks for mask in entry.masks
            ):
                yield identity, entry

    def target_key(self, image: bytes, mask: bytes) -> bytes:
        """Digest of the latent to learn: of the mask alone, or of the mask painted on its photo."""
        return mask if self.target == "binary" else digest(image + mask)

    def add(self, source: Source, progress: bool = True) -> list[Encoded]:
        """Entries of every image of a source, encoding what is missing."""
        identities = [source.identity(index) for index in range(len(source))]
        if any(identity not in self.entries for identity in identities):
            with self.manifest.lock:
                self._encode_missing(source, identities, progress)
        return [self.entries[identity] for identity in identities]

    def _encode_missing(self, source: Source, identities: list[str], progress: bool) -> None:
        for stores in self.known_stores.values():
            stores.refresh()
        self.entries.update(self._read_manifest())  # another process may have encoded them while we waited
        missing = [index for index, identity in enumerate(identities) if identity not in self.entries]
        samples = Samples(source, missing, self.resolution, self.photo_shape)
        loader = DataLoader(samples, batch_size=None, num_workers=self.workers)
        with tqdm(total=len(missing), desc="encoding images and masks", unit="image", disable=not progress) as bar:
            for chunk in _chunks(zip(missing, loader, strict=True), self.batch):
                self._remember(self._encode([sample for _, sample in chunk], [identities[index] for index, _ in chunk]))
                bar.update(len(chunk))

    def _encode(self, samples: list[Loaded], identities: list[str]) -> list[tuple[str, Encoded]]:
        """Entries of a chunk in its order, encoded shape by shape."""
        shapes = [tuple(loaded.prepared.pixels.shape[1:]) for loaded in samples]
        entries: dict[int, tuple[str, Encoded]] = {}
        for shape in dict.fromkeys(shapes):
            at = [number for number, one in enumerate(shapes) if one == shape]
            made = self._encode_shape(self.stores(shape), [samples[n] for n in at], [identities[n] for n in at])
            entries.update(zip(at, made, strict=True))
        return [entries[number] for number in range(len(samples))]

    def _remember(self, entries: list[tuple[str, Encoded]]) -> None:
        self.manifest.append(entries)
        self.entries.update(entries)

    def rows_of(self, line: Encoded, query: int) -> tuple[int, int, int, int]:
        """Rows of an entry's image, target latent, mask and validity (-1: all known) for its query number `query`."""
        mask, stores = line.masks[query], self.stores_of(line)
        valid = -1 if line.valid is None else stores.valid.index[line.valid]
        target = stores.masks.index[self.target_key(line.image, mask)]
        return stores.images.index[line.image], target, stores.bits.index[mask], valid

    @torch.no_grad()
    def _encode_shape(self, stores: Stores, samples: list[Loaded], identities: list[str]) -> list[tuple[str, Encoded]]:
        """Entries of samples of one shape, after their rows are written."""
        image_keys = [digest(identity) for identity in identities]
        self._fill(stores.images, image_keys, lambda at: torch.stack([samples[i].prepared.pixels for i in at]))
        masks, entries = [], []  # masks: (number of its sample, mask [H,W] in [0,1], digest)
        for number, (loaded, identity) in enumerate(zip(samples, identities, strict=True)):
            empty = torch.zeros(stores.shape)  # of absent prompts
            named = [(number, mask, _mask_key(mask)) for mask in (*loaded.prepared.soft, empty)]
            masks += named
            present, nothing = iter(named[:-1]), named[-1][2]
            keys = tuple(nothing if query.group in ABSENT_GROUPS else next(present)[2] for query in loaded.queries)
            valid = _valid_key(stores, loaded.prepared.valid)
            entries.append((identity, Encoded(image_keys[number], valid, loaded.queries, keys, loaded.size)))
        target_keys = [self.target_key(image_keys[number], key) for number, _, key in masks]
        self._fill(stores.masks, target_keys, lambda at: torch.stack([self._target(samples, *masks[i][:2]) for i in at]))
        stores.bits.append([key for *_, key in masks], np.stack([np.packbits(mask.numpy() > 0.5) for _, mask, _ in masks]))
        return entries

    def _target(self, samples: list[Loaded], number: int, mask: Tensor) -> Tensor:
        """What the mask latent is encoded from, [3,H,W] in [-1,1]."""
        return drawn(mask[None], samples[number].prepared.pixels[None], self.target)[0]

    def _fill(self, store: RowStore, keys: list[bytes], pixels) -> None:
        device = self.vae.device
        fill(store, keys, lambda at: encode_pixels(self.vae, pixels(at).to(device)).float(), self.batch)


def _mask_key(mask: Tensor) -> bytes:
    """Digest of a mask [H,W] in [0,1]; one of whole pixels has the digest of its bits."""
    hard = mask > 0.5
    values = np.packbits(hard.numpy()) if torch.equal(mask, hard.float()) else (mask * 255).round().byte().numpy()
    return digest(values.tobytes())


def _valid_key(stores: Stores, valid: Tensor | None) -> bytes | None:
    if valid is None:
        return None
    row = valid[None, None].numpy().astype(np.uint8)  # [h,w] -> [1,1,h,w]
    key = digest(row.tobytes())
    stores.valid.append([key], row)
    return key


class Samples(torch.utils.data.Dataset):
    """Queries and prepared pixels of images, loaded by worker processes where asked for; mask arrays travel in Prepared."""

    def __init__(self, source: Source, indices: list[int], resolution: int, photo_shape: str):
        self.source, self.indices, self.resolution, self.photo_shape = source, indices, resolution, photo_shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Loaded:
        sample = self.source.sample(self.indices[position])
        bare = tuple(Query(q.name, q.prompts, None, q.group) for q in sample.queries)
        return Loaded(bare, prepare(checked(sample), self.resolution, self.photo_shape), sample.image.shape[:2])


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
