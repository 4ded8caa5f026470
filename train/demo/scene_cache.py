"""Rendered scenes in memory-mapped files, so that no training step waits for the renderer."""

from __future__ import annotations

import json
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from train.demo.world import DemoWorld

MASKS_PER_SCENE = 2


def _render(job: tuple[int, str, int, int]) -> tuple[np.ndarray, np.ndarray, list]:
    """Image, two masks and the texts of one scene; a mask is that of an object, an attribute or a colour-shape pair."""
    seed, split, size, index = job
    scene = DemoWorld(index + 1, seed, split, size).sample(index)
    rng = np.random.default_rng([seed, 99, index])
    names = list(scene.masks)
    chosen = [scene.masks[names[i]] for i in rng.choice(len(names), MASKS_PER_SCENE, replace=len(names) < MASKS_PER_SCENE)]
    objects = []
    for thing in scene.objects:
        ys, xs = np.nonzero(thing.mask)
        box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        objects.append({"colour": thing.colour, "shape": thing.shape, "box": box})
    return scene.image, np.stack(chosen), [scene.caption, objects]


def render(folder: Path, scenes: int, seed: int, split: str = "train", size: int = 128, workers: int = 1) -> None:
    """Write images.npy uint8 [N, size, size, 3], masks.npy bool [N, 2, size, size], texts.json; keeps a finished folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "texts.json").exists():
        return
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (scenes, size, size, 3))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", bool, (scenes, MASKS_PER_SCENE, size, size))
    texts = []
    with Pool(workers) as pool:
        jobs = ((seed, split, size, i) for i in range(scenes))
        for i, (image, mask, text) in enumerate(tqdm(pool.imap(_render, jobs, 64), total=scenes, desc="scenes")):
            images[i], masks[i] = image, mask
            texts.append(text)
    images.flush()
    masks.flush()
    (folder / "texts.json").write_text(json.dumps(texts))


class SceneCache:
    """The files of :func:`render`, opened for reading."""

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.masks = np.load(folder / "masks.npy", mmap_mode="r")
        texts = json.loads((folder / "texts.json").read_text())
        self.captions = [t[0] for t in texts]
        self.objects = [t[1] for t in texts]

    def __len__(self) -> int:
        return len(self.images)
