"""What a joint training keeps of its photos from step to step: as many bytes as it may, and nothing that changes a sample."""

import numpy as np
import pytest

import train.latents.guides as guides_module
from train.data.base import Query, Sample, Source
from train.latents.guides import Guides, held_bytes

SIZE = (50, 100)
PHOTO, MASK = 3 * 5000, 5000
WHOLE = PHOTO + 2 * MASK
"""Bytes of a sample of `Photos`: the photo and two masks."""


class Photos(Source):
    """`count` photos with two masks each, of SIZE, but for number `large`, four times as long; counts what is read."""

    def __init__(self, count: int, large: int = -1):
        self.count, self.large, self.read = count, large, []

    def __len__(self) -> int:
        return self.count

    def identity(self, index: int) -> str:
        return str(index)

    def sample(self, index: int) -> Sample:
        self.read.append(index)
        height, width = (4 * SIZE[0], SIZE[1]) if index == self.large else SIZE
        rng = np.random.default_rng(index)
        image, masks = rng.integers(0, 255, (height, width, 3)).astype(np.uint8), rng.random((2, height, width)) > 0.5
        return Sample(image, tuple(Query(str(k), (str(k),), masks[k].copy()) for k in range(2)))

    @property
    def class_names(self) -> list[str]:
        return ["0", "1"]


def guides(source: Source, monkeypatch: pytest.MonkeyPatch, room: int) -> Guides:
    monkeypatch.setattr(guides_module, "REMEMBERED", room)
    return Guides([source], 32, "padded", 2, 0.0, 0)


def asked(one: Guides, places: list[tuple[int, int]]) -> list[Sample]:
    return [one.sample(*at) for at in places]


def test_whole_photos_and_all_their_masks_count(monkeypatch):
    one = guides(Photos(40), monkeypatch, 3 * WHOLE)
    for place in range(40):
        one.sample(place, 0)
        assert sum(held_bytes(sample) for sample in one.kept.values()) == one.held <= 3 * WHOLE
    assert list(one.kept) == [37, 38, 39]


def test_the_newest_is_kept_whatever_its_size_and_the_oldest_goes_first(monkeypatch):
    source = Photos(6, large=3)
    one = guides(source, monkeypatch, 3 * WHOLE)
    for place in (0, 1, 2, 0, 1):
        one.sample(place, 1)
    assert source.read == [0, 1, 2]
    one.sample(3, 0)
    one.sample(3, 1)
    assert list(one.kept) == [3] and one.held == 4 * WHOLE and source.read == [0, 1, 2, 3]
    one.sample(4, 0)
    assert list(one.kept) == [4] and one.held == WHOLE


def test_samples_are_the_same_however_few_are_kept(monkeypatch):
    places = [(place, query) for place in (0, 2, 0, 1, 2, 0) for query in (0, 1)]
    several = [asked(guides(Photos(3), monkeypatch, room), places) for room in (0, 2 * WHOLE, 2**28)]
    for first, *others in zip(*several, strict=True):
        for other in others:
            assert np.array_equal(first.image, other.image) and np.array_equal(first.queries[0].mask, other.queries[0].mask)


def test_bytes_are_those_the_arrays_keep_alive():
    image, stack = np.zeros((*SIZE, 3), np.uint8), np.zeros((4, *SIZE), bool)
    soft, ignore = np.zeros(SIZE, np.float32), np.zeros(SIZE, bool)
    shared = Query("a", ("a",), stack[0]), Query("b", ("b",), stack[1]), Query("c", ("c",), None)
    assert held_bytes(Sample(image, shared)) == PHOTO + 4 * MASK
    assert held_bytes(Sample(image, (Query("a", ("a",), stack[0], soft=soft),), ignore)) == PHOTO + 4 * MASK + 4 * MASK + MASK
