"""Exports of annotation tools with something odd in them: mutations of good ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tests.bad_files import put

ODD_VALUES = (
    None, True, False, -1, 0, 1, 7, 10**9, 10**30, 0.5, -0.5, 1e300, float("inf"), float("nan"), "", "x", "0", "1",
    "../../../etc/passwd", "/dev/zero", "\ud800", "a\0b", "y" * 5000, "http://[", [], [0], [[]], [[1, 2], [3, 4], [5, 6]],
    [[1e18, 2], [3, -1e18], [5, 6]], {}, {"a": 1}, [1, 2, 3, 4, 5, 6], [None], ["x"] * 5,
    {"size": [10**9, 10**9], "counts": [0, 10**18]}, {"size": [48, 64], "counts": "x" * 50},
    {"size": [48, 64], "counts": [-5, 5]},
)  # fmt: skip
KINDS = (
    "labelme", "yolo_ultralytics", "cvat_masks", "cvat_coco", "datumaro_coco", "roboflow_coco", "label_studio", "supervisely",
    "ade20k_full", "voc",
)  # fmt: skip
"""Those of tests/train/exports.py whose labels are text."""


def places(values, above: tuple = ()) -> Iterator[tuple]:
    """The key path of everything in a JSON value."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def mutate_export(folder: Path, rng: random.Random) -> str:
    """Change one label file of an export: a value of its JSON, or some bytes. Returns what was done."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".txt", ".yaml")))
    if file.suffix == ".json" and rng.random() < 0.85:
        values, by_name = json.loads(file.read_bytes()), {}
        for place in places(values):
            by_name.setdefault(tuple(key for key in place if isinstance(key, str)), []).append(place)
        place, value = rng.choice(by_name[rng.choice(sorted(by_name))]), rng.choice((*ODD_VALUES, ...))
        put(values, place, value)
        file.write_text(json.dumps(values), encoding="utf-8")
        return f"{file.name}: {place} is {value!r:.60}"
    text = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 4)):
        text[rng.randrange(len(text))] = rng.choice((rng.randrange(256), *b"[{-9\0"))
    file.write_bytes(bytes(text))
    return f"{file.name}: bytes {bytes(text[:200])!r}"
