"""Images and masks encoded once: latents of every image of a source, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from digseg_nodes.core.geometry import plan_geometry
from digseg_nodes.core.mask_targets import drawn, shows_photo
from train.data.base import ABSENT_GROUPS, DataError, Query, Sample, Source
from train.data.prepare import Prepared, prepare
from train.latents.encoder import Encoder
from train.latents.manifest import Encoded, Manifest
from train.latents.row_store import RowStore, digest
from train.latents.shape_stores import Stores
from train.latents.sharing import SharedWork
from train.latents.tally import Tally
from train.networks.bases import module_digest


@dataclass(frozen=True)
class Loaded:
    """An image on its way into the cache: its queries without masks, its tensors, the digests of its masks, and its (height,
    width) in pixels."""

    queries: tuple[Query, ...]
    prepared: Prepared
    keys: tuple[bytes, ...]
    size: tuple[int, int]

    def asked(self, shape: tuple[int, int]) -> tuple[bytes, ...]:
        """The digest of every query's mask, the empty one for what is absent."""
        present = iter(self.keys)
        return tuple(empty_key(shape) if query.group in ABSENT_GROUPS else next(present) for query in self.queries)

    def all_masks(self, shape: tuple[int, int]) -> Iterator[tuple[bytes, Tensor]]:
        """(digest, mask [H,W] in [0,1]) of what is asked for, the empty mask where something is absent."""
        yield from zip(self.keys, self.prepared.soft, strict=True)
        if any(query.group in ABSENT_GROUPS for query in self.queries):
            yield empty_key(shape), torch.zeros(shape)


class LatentCache:
    """Latents of images and masks for one VAE, resolution and precision, and the list of what each image can be asked.

    Any number of processes fill it together. photo_shape: of geometry.PHOTO_SHAPES. Rows lie in a folder per shape, those of
    squares in the cache's own. batch: images or masks encoded at a time; None takes what fits. precision: of the encoder, as
    TrainConfig.mixed_precision; a cache of float32 that is there already is gone on with.
    """

    def __init__(
        self,
        folder: Path,
        vae,
        resolution: int,
        batch: int | None = 16,
        workers: int = 0,
        target: str = "binary",
        photo_shape: str = "own",
        precision: str = "no",
    ):
        self.vae, self.resolution, self.workers, self.target = vae, resolution, workers, target
        self.photo_shape, self.batch = photo_shape, batch
        self.folder, precision = _folder(folder / f"latents-{module_digest(vae)}-{resolution}", precision)
        self.encoder = Encoder(vae, precision)
        self.known_stores: dict[tuple[int, int], Stores] = {}
        self.manifest = Manifest(self.folder / f"samples-{photo_shape}-soft.jsonl", Encoded)
        self.entries: dict[str, Encoded] = {}
        self.named: dict[str, Encoded] = {}
        self.refresh()
        self.named.clear()  # what lacks a row now is encoded again

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels that a photo of this size is encoded at."""
        return plan_geometry(*size, self.resolution, self.photo_shape).padded

    def photo_pixels(self, size: tuple[int, int]) -> int:
        """How many of these pixels show the photo; the others fill it up."""
        return prod(plan_geometry(*size, self.resolution, self.photo_shape).resized)

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

    def refresh(self) -> None:
        """Learn what is in the cache, whoever put it there; an image of which a row is missing is not."""
        self.named.update(self.manifest.news())
        for stores in self.known_stores.values():
            stores.refresh()
        whole = {identity: entry for identity, entry in self.named.items() if self._is_whole(entry)}
        self.entries.update(whole)
        for identity in whole:
            del self.named[identity]

    def _is_whole(self, entry: Encoded) -> bool:
        stores = self.stores_of(entry)
        return (
            entry.image in stores.images
            and (entry.valid is None or entry.valid in stores.valid)
            and all(mask in stores.bits and self._has_target(stores, entry.image, mask) for mask in entry.masks)
        )

    def _has_target(self, stores: Stores, image: bytes, mask: bytes) -> bool:
        return self._is_photo(stores, mask) or self.target_key(image, mask) in stores.masks

    def _is_photo(self, stores: Stores, mask: bytes) -> bool:
        """Whether the latent to learn is the photo's own: nothing painted on it."""
        return shows_photo(self.target) and mask == empty_key(stores.shape)

    def target_key(self, image: bytes, mask: bytes) -> bytes:
        """Digest of the latent to learn: of the mask alone, or of the mask painted on its photo."""
        return digest(image + mask) if shows_photo(self.target) else mask

    def fill(self, source: Source, progress: bool = True) -> None:
        """Encode what is missing of every image of a source, together with whoever else is at it; ends when all is there.

        Batches are functions of the source and the batch size alone, so that their bits do not depend on who encodes what.
        Processes share the work when their batch sizes are equal; a GPU that takes another by its free memory does all itself.
        """
        identities = [source.identity(index) for index in range(len(source))]
        if all(identity in self.entries for identity in identities):
            return
        if self.batch is None:
            self.batch = self.encoder.fits(self.resolution, 16)
        tally = Tally(progress, sum(identity not in self.entries for identity in identities))
        with tally, SharedWork(self.folder / "work", identities, self.batch, self.entries.__contains__, self.refresh) as work:
            for numbers in work.rounds():
                self._encode_batches(source, work, numbers, tally)
                tally.left(sum(identity not in self.entries for identity in identities))

    def add(self, source: Source, progress: bool = True) -> list[Encoded]:
        """Entries of every image of a source, encoding what is missing."""
        self.fill(source, progress)
        return [self.entries[source.identity(index)] for index in range(len(source))]

    def _encode_batches(self, source: Source, work: SharedWork, numbers: Iterator[int], tally: Tally) -> None:
        """Read, encode and write batches as they are taken; readers run ahead, so batches are taken a little before."""
        places = (position for number in numbers for position in work.positions(number))
        samples = Samples(source, self.resolution, self.photo_shape)
        batch: list[tuple[int, Loaded]] = []
        for position, loaded in tally.read(DataLoader(samples, batch_size=None, sampler=places, num_workers=self.workers)):
            batch.append((position, loaded))
            number = position // work.size
            if position == work.positions(number)[-1]:
                at, pictures = zip(*batch, strict=True)
                self._remember(self._encode(pictures, [work.identities[one] for one in at], tally))
                work.give_back(number)
                tally.encoded(len(batch))
                batch = []

    def _encode(self, samples: Sequence[Loaded], identities: list[str], tally: Tally) -> list[tuple[str, Encoded]]:
        """Entries of a batch in its order, encoded shape by shape, after their rows are written."""
        shapes = [tuple(loaded.prepared.pixels.shape[1:]) for loaded in samples]
        entries = []
        for shape in dict.fromkeys(shapes):
            at = [number for number, one in enumerate(shapes) if one == shape]
            tally.encodes += self._encode_shape(self.stores(shape), [samples[n] for n in at], [identities[n] for n in at])
        for loaded, shape, identity in zip(samples, shapes, identities, strict=True):
            valid = _valid_key(self.stores(shape), loaded.prepared.valid)
            entries.append((identity, Encoded(digest(identity), valid, loaded.queries, loaded.asked(shape), loaded.size)))
        return entries

    def _remember(self, entries: list[tuple[str, Encoded]]) -> None:
        self.manifest.append(entries)
        self.entries.update(entries)

    def rows_of(self, line: Encoded, query: int) -> tuple[int, int, int, int]:
        """Rows of an entry's image, target latent (-1: the image's own), mask and validity (-1: all known) for its query number
        `query`."""
        mask, stores = line.masks[query], self.stores_of(line)
        valid = -1 if line.valid is None else stores.valid.index[line.valid]
        target = -1 if self._is_photo(stores, mask) else stores.masks.index[self.target_key(line.image, mask)]
        return stores.images.index[line.image], target, stores.bits.index[mask], valid

    def _encode_shape(self, stores: Stores, samples: list[Loaded], identities: list[str]) -> int:
        """Write the rows of samples of one shape; returns how often the VAE was asked."""
        images = {digest(identity): loaded.prepared.pixels for identity, loaded in zip(identities, samples, strict=True)}
        count = self._write(stores.images, images, list(images), torch.stack)
        masks: dict[bytes, tuple[int, Tensor, bytes]] = {}  # by the target's key: number of its sample, mask [H,W], its key
        for number, (image, loaded) in enumerate(zip(images, samples, strict=True)):
            for key, mask in loaded.all_masks(stores.shape):
                masks.setdefault(self.target_key(image, key), (number, mask, key))
        stores.bits.append([key for *_, key in masks.values()], _packed([mask for _, mask, _ in masks.values()]))
        asked = {target: (number, mask) for target, (number, mask, key) in masks.items() if not self._is_photo(stores, key)}
        uniform = [target for target, (_, mask) in asked.items() if not shows_photo(self.target) and mask.min() == mask.max()]
        for target in uniform:  # by itself: the same bits whatever photos are beside it
            count += self._write(stores.masks, asked, [target], self._drawer(samples))
        return count + self._write(stores.masks, asked, [t for t in asked if t not in uniform], self._drawer(samples))

    def _drawer(self, samples: list[Loaded]) -> Callable[[list[tuple[int, Tensor]]], Tensor]:
        """What turns (number of its sample, mask [H,W] in [0,1]) into what is encoded, [n,3,H,W] in [-1,1] on the device."""

        def draw(asked: list[tuple[int, Tensor]]) -> Tensor:
            masks = torch.stack([mask for _, mask in asked]).to(self.vae.device)
            if not shows_photo(self.target):
                return drawn(masks, masks, self.target)
            return drawn(masks, torch.stack([samples[number].prepared.pixels for number, _ in asked]).to(masks), self.target)

        return draw

    def _write(self, store: RowStore, content: dict[bytes, object], keys: list[bytes], pixels: Callable[[list], Tensor]) -> int:
        """Encode and write, `batch` rows at a time: a part that is all there is left out, any other encoded as a whole, whatever
        others have written of it, so that its bits are always the same. Returns how many were encoded."""
        count = 0
        for start in range(0, len(keys), self.batch):
            part = keys[start : start + self.batch]
            if all(key in store for key in part):
                continue
            store.append(part, self.encoder.encode(pixels([content[key] for key in part]), self.batch).cpu().numpy())
            count += len(part)
        return count


def _folder(plain: Path, precision: str) -> tuple[Path, str]:
    """Where latents of a precision lie, and the precision they are encoded in: a cache of float32 is gone on with."""
    own = plain if precision == "no" else plain.with_name(f"{plain.name}-{precision}")
    return (plain, "no") if not own.is_dir() and plain.is_dir() else (own, precision)


def _packed(masks: list[Tensor]) -> np.ndarray:
    """Masks [H,W] in [0,1] as bits, uint8 [n, H*W/8]."""
    return np.stack([np.packbits(mask.numpy() > 0.5) for mask in masks])


def mask_key(mask: Tensor) -> bytes:
    """Digest of a mask [H,W] in [0,1]; one of whole pixels has the digest of its bits."""
    hard = mask > 0.5
    values = np.packbits(hard.numpy()) if torch.equal(mask, hard.float()) else (mask * 255).round().byte().numpy()
    return digest(values.tobytes())


@cache
def empty_key(shape: tuple[int, int]) -> bytes:
    """Digest of the mask of what is not in a photo of this shape."""
    return mask_key(torch.zeros(shape))


def _valid_key(stores: Stores, valid: Tensor | None) -> bytes | None:
    if valid is None:
        return None
    row = valid[None, None].numpy().astype(np.uint8)  # [h,w] -> [1,1,h,w]
    key = digest(row.tobytes())
    stores.valid.append([key], row)
    return key


class Samples(torch.utils.data.Dataset):
    """Queries and prepared pixels of images by position, loaded by worker processes where asked for; mask arrays travel in
    Prepared."""

    def __init__(self, source: Source, resolution: int, photo_shape: str):
        self.source, self.resolution, self.photo_shape = source, resolution, photo_shape

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, position: int) -> tuple[int, Loaded]:
        sample = self.source.sample(position)
        bare = tuple(Query(q.name, q.prompts, None, q.group) for q in sample.queries)
        prepared = prepare(checked(sample), self.resolution, self.photo_shape)
        keys = tuple(mask_key(mask) for mask in prepared.soft)
        return position, Loaded(bare, prepared, keys, sample.image.shape[:2])


def checked(sample: Sample) -> Sample:
    """The sample; raises DataError when a query's group says there is a mask and there is none, or the other way round."""
    for query in sample.queries:
        if (query.mask is None) != (query.group in ABSENT_GROUPS):
            raise DataError(f'The query "{query.name}" of group {query.group} has {"no" if query.mask is None else "a"} mask.')
    return sample
