"""Two small worlds unlike the demo's, to fine-tune on: stained tissue under a microscope, and fields from the air.

python train/experiments/domains.py cells --out output/domains/cells --images 260

writes an ordinary data set (images/<name>.png and masks/<class>/<name>.png per split, with its data.yaml), so that training on
it goes the way of anybody's own photos. Every scene is a pure function of (world, seed, index); the classes of a scene never
share a pixel. --aspects gives pictures of several shapes, cut out of the square scenes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import cKDTree

from train.demo.world import ASPECTS, scene_size

SIZE = 128
SUPERSAMPLE = 3
TEST, VALIDATION = 40, 20
"""Images of `--images` that are kept for these parts; the rest is for training."""

Point = tuple[float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A picture uint8 [H,W,3] and the visible pixels of every class in it, bool [H,W], disjoint; 128 x 128 as painted."""

    image: np.ndarray
    masks: dict[str, np.ndarray]


class Canvas:
    """A picture being painted, float32 [S,S,3] in [0,1], with the class number of every pixel (0: none)."""

    def __init__(self, image: np.ndarray, classes: tuple[str, ...]):
        self.image, self.classes = image.astype(np.float32), classes
        self.labels = np.zeros(image.shape[:2], np.uint8)

    def blend(self, alpha: np.ndarray, colour: np.ndarray) -> None:
        """Paint `colour` ([3] or [S,S,3]) with coverage alpha [S,S]."""
        self.image += alpha[..., None] * (colour - self.image)

    def label(self, alpha: np.ndarray, name: str) -> None:
        """Give the pixels that are more than half covered to a class."""
        self.labels[alpha > 0.5] = self.classes.index(name) + 1

    def scene(self, rng: Rng, blur: float, grain: float) -> Scene:
        """The finished picture, through a lens and a sensor."""
        pixels = np.clip(self.image + rng.normal(0, grain, self.image.shape), 0, 1) * 255
        soft = Image.fromarray(pixels.round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
        found = {name: self.labels == number for number, name in enumerate(self.classes, start=1)}
        return Scene(np.asarray(soft), {name: mask for name, mask in found.items() if mask.any()})


def noise(rng: Rng, cells: int) -> np.ndarray:
    """Smooth noise [S,S] of mean about 0 in [-1,1], `cells` cells a side."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
    return np.asarray(small.resize((SIZE, SIZE), Image.BICUBIC), np.float32) / 127.5 - 1


def coverage(polygon: np.ndarray) -> np.ndarray:
    """Share [S,S] of every pixel inside a polygon [n,2] of (x, y)."""
    canvas = Image.new("L", (SIZE * SUPERSAMPLE,) * 2)
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in polygon * SUPERSAMPLE], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255


def stroke(points: np.ndarray, width: float) -> np.ndarray:
    """Share [S,S] of every pixel under a line through points [n,2], `width` pixels wide."""
    canvas = Image.new("L", (SIZE * SUPERSAMPLE,) * 2)
    path = [tuple(point) for point in points * SUPERSAMPLE]
    ImageDraw.Draw(canvas).line(path, fill=255, width=round(width * SUPERSAMPLE), joint="curve")
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255


def blob(rng: Rng, centre: Point, radius: float, wobble: float, stretch: float = 1.0) -> np.ndarray:
    """Outline [64,2] of a round thing: harmonics 2 to 5 of relative size `wobble`, longer by `stretch` one way."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    r = 1 + sum(rng.normal(0, wobble / k) * np.cos(k * t + rng.uniform(0, 6.3)) for k in range(2, 6))
    return turned(np.stack([r * np.cos(t) * stretch, r * np.sin(t) / stretch], 1) * radius, rng.uniform(0, 6.3), centre)


def turned(points: np.ndarray, angle: float, centre: Point) -> np.ndarray:
    """Points [n,2] about the origin, turned by `angle` radians and moved to `centre`."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]]) + centre


def inner(alpha: np.ndarray, depth: float) -> np.ndarray:
    """A coverage map eaten away from its edge by about `depth` pixels, softly."""
    soft = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(depth))
    return np.clip(np.asarray(soft, np.float32) / 255 * 2 - 1, 0, 1)


CELLS = ("nucleus", "dividing cell", "red blood cell", "debris")
CELL_SIZE = {"nucleus": (8.0, 13.5), "dividing cell": (13.0, 17.0), "red blood cell": (8.0, 11.0), "debris": (6.5, 10.0)}
CELL_COUNT = {"nucleus": (3, 7), "dividing cell": (1, 2), "red blood cell": (1, 4), "debris": (1, 3)}
CELL_CHANCE = {"nucleus": 0.85, "dividing cell": 0.55, "red blood cell": 0.55, "debris": 0.55}


def cells(seed: int, index: int) -> Scene:
    """Stained tissue: purple nuclei, cells in division with their chromosomes, red blood cells, brown debris."""
    rng = np.random.default_rng([seed, index, 1])
    stain = rng.normal(0, 0.025, 3)
    canvas = Canvas(_tissue(rng) + stain, CELLS)
    names = [name for name in CELLS if rng.random() < CELL_CHANCE[name]] or [CELLS[rng.integers(len(CELLS))]]
    wanted = [name for name in names for _ in range(rng.integers(CELL_COUNT[name][0], CELL_COUNT[name][1] + 1))]
    wanted.sort(key=lambda name: -CELL_SIZE[name][1])
    taken: list[tuple[float, float, float]] = []
    for name in wanted:
        radius = rng.uniform(*CELL_SIZE[name])
        if (centre := _free_place(rng, radius, taken)) is not None:
            taken.append((*centre, radius))
            _PAINT_CELL[name](rng, canvas, centre, radius, stain)
    return canvas.scene(rng, 0.6, 0.018)


def _tissue(rng: Rng) -> np.ndarray:
    """Pink fibres and pale gaps [S,S,3]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    angle, bend = rng.uniform(0, np.pi), 9 * noise(rng, 5)
    fibres = np.sin((x * np.cos(angle) + y * np.sin(angle) + bend) * rng.uniform(0.25, 0.45)) * 0.5 + 0.5
    pale = np.clip(noise(rng, 6) * 1.6, 0, 1)[..., None]
    pink = np.array([0.90, 0.68, 0.80]) + 0.05 * (fibres[..., None] - 0.5) + 0.03 * noise(rng, 30)[..., None]
    light = 1 - 0.12 * ((x - 64) ** 2 + (y - 64) ** 2)[..., None] / 8192
    return (pink * (1 - pale) + np.array([0.95, 0.89, 0.93]) * pale) * light


def _free_place(rng: Rng, radius: float, taken: list[tuple[float, float, float]]) -> Point | None:
    """A centre at which a disc touches none of the others (x, y, radius); None when there is no room."""
    for _ in range(60):
        x, y = rng.uniform(0.6 * radius, SIZE - 0.6 * radius, 2)
        if all(np.hypot(x - ox, y - oy) > 1.12 * (radius + other) + 1 for ox, oy, other in taken):
            return float(x), float(y)
    return None


def _nucleus(rng: Rng, canvas: Canvas, centre: Point, radius: float, stain: np.ndarray) -> None:
    around = coverage(blob(rng, centre, radius * 1.5, 0.1))
    canvas.blend(0.45 * inner(around, 3) * (canvas.labels == 0), np.array([0.86, 0.58, 0.76]) + stain)
    alpha = coverage(blob(rng, centre, radius, 0.10, rng.uniform(1.0, 1.18)))
    purple = np.array([0.42, 0.28, 0.60]) + stain + rng.normal(0, 0.03, 3)
    canvas.blend(alpha, purple * 0.72)
    canvas.blend(inner(alpha, 2), purple + 0.07 * noise(rng, 40)[..., None] + 0.04 * noise(rng, 20)[..., None])
    for _ in range(rng.integers(1, 3)):
        spot = np.array(centre) + rng.normal(0, 0.3 * radius, 2)
        canvas.blend(0.8 * alpha * coverage(blob(rng, tuple(spot), 1.7, 0.1)), purple * 0.5)
    canvas.label(alpha, "nucleus")


def _dividing(rng: Rng, canvas: Canvas, centre: Point, radius: float, stain: np.ndarray) -> None:
    angle, late = rng.uniform(0, np.pi), rng.random() < 0.6
    axis = np.array([np.cos(angle), np.sin(angle)])
    alpha = coverage(blob(rng, centre, radius, 0.05))
    canvas.blend(alpha, np.array([0.70, 0.52, 0.74]) + stain)
    canvas.blend(inner(alpha, 2), np.array([0.88, 0.80, 0.92]) + stain + 0.02 * noise(rng, 30)[..., None])
    for side in (-1, 1) if late else (0,):
        middle = np.array(centre) + side * axis * radius * rng.uniform(0.30, 0.42)
        plate = np.array([[-0.16, -0.62], [0.16, -0.62], [0.2, 0], [0.16, 0.62], [-0.16, 0.62], [-0.2, 0]]) * radius
        ragged = plate + rng.normal(0, 0.07 * radius, plate.shape)
        canvas.blend(coverage(turned(ragged, angle, tuple(middle))), np.array([0.20, 0.10, 0.36]) + stain)
    canvas.label(alpha, "dividing cell")


def _blood(rng: Rng, canvas: Canvas, centre: Point, radius: float, stain: np.ndarray) -> None:
    alpha = coverage(blob(rng, centre, radius, 0.04, rng.uniform(1.0, 1.1)))
    red = np.array([0.86, 0.33, 0.36]) + stain + rng.normal(0, 0.02, 3)
    canvas.blend(alpha, red * 0.93)
    canvas.blend(0.75 * inner(alpha, 0.42 * radius), np.array([0.95, 0.66, 0.66]) + stain)
    canvas.label(alpha, "red blood cell")


def _debris(rng: Rng, canvas: Canvas, centre: Point, radius: float, stain: np.ndarray) -> None:
    corners = rng.integers(6, 10)
    t = np.sort(rng.uniform(0, 2 * np.pi, corners)) * 0.35 + np.linspace(0, 2 * np.pi, corners, endpoint=False) * 0.65
    reach = radius * rng.uniform(0.55, 1.1, corners)[:, None]
    alpha = coverage(np.stack([np.cos(t), np.sin(t)], 1) * reach + centre)
    brown = np.array([0.34, 0.22, 0.10]) + rng.normal(0, 0.02, 3)
    canvas.blend(alpha, brown * (1 + 0.5 * noise(rng, 44)[..., None]))
    canvas.label(alpha, "debris")


_PAINT_CELL = {"nucleus": _nucleus, "dividing cell": _dividing, "red blood cell": _blood, "debris": _debris}

LAND = ("wheat field", "ploughed field", "meadow", "forest")
FIELDS = (*LAND, "lake", "road", "building")


def fields(seed: int, index: int) -> Scene:
    """Farmland from the air: four kinds of land in patches, lakes, roads, and houses with their shadows."""
    rng = np.random.default_rng([seed, index, 2])
    canvas = Canvas(np.zeros((SIZE, SIZE, 3)), FIELDS)
    kinds = rng.permutation(len(LAND))[: rng.integers(2, 4)]
    patches, edges = _patches(rng, int(rng.integers(4, 8)))
    for number in range(patches.max() + 1):
        name = LAND[kinds[number % len(kinds)]]
        alpha = (patches == number).astype(np.float32)
        canvas.blend(alpha, _GROUND[name](rng))
        canvas.label(alpha, name)
    canvas.blend(0.55 * edges, np.array([0.20, 0.27, 0.12]))
    if rng.random() < 0.5:
        _lake(rng, canvas)
    road = _road(rng, canvas) if rng.random() < 0.6 else None
    if rng.random() < 0.55:
        _houses(rng, canvas, road)
    canvas.image *= rng.uniform(0.9, 1.08)
    return canvas.scene(rng, 0.45, 0.015)


def _patches(rng: Rng, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Patch numbers [S,S] of the nearest of `count` centres, borders a little bent; and the borders in [0,1]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    x, y = x + 4 * noise(rng, 5), y + 4 * noise(rng, 5)
    centres = rng.uniform(0, SIZE, (count, 2))
    distances = np.stack([np.hypot(x - cx, y - cy) for cx, cy in centres])
    near = np.sort(distances, 0)
    return distances.argmin(0), np.clip(1.6 - (near[1] - near[0]), 0, 1)


def _rows(rng: Rng, spacing: float) -> np.ndarray:
    """Parallel rows in [-1,1], `spacing` pixels apart, in a random direction."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    return np.sin((x * np.cos(angle) + y * np.sin(angle) + 0.6 * noise(rng, 8)) * 2 * np.pi / spacing)


def _ground(colour: tuple[float, float, float], rows: float, mottle: float, spacing: float | None) -> Callable[[Rng], np.ndarray]:
    """A painter of ground: rows and blotches of relative strength over a colour. Gives [S,S,3]."""

    def paint(rng: Rng) -> np.ndarray:
        shade = mottle * (0.6 * noise(rng, 7) + 0.4 * noise(rng, 26))
        if spacing is not None:
            shade = shade + rows * _rows(rng, spacing * rng.uniform(0.85, 1.2))
        return (np.array(colour) + rng.normal(0, 0.022, 3)) * (1 + shade[..., None])

    return paint


def _forest(rng: Rng) -> np.ndarray:
    """Tree crowns, lit from the upper left [S,S,3]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    crowns = rng.uniform(-4, SIZE + 4, (420, 2))
    distance, nearest = cKDTree(crowns).query(np.stack([x, y], -1))  # [S,S] each
    lit = np.clip((crowns[nearest, 0] - x + crowns[nearest, 1] - y) / 9, -1, 1)
    tone = rng.uniform(0.8, 1.15, len(crowns))[nearest]
    hollow = np.clip(distance / 6, 0, 1)
    green = np.array([0.13, 0.29, 0.13]) + rng.normal(0, 0.015, 3)
    return green * (tone * (1 + 0.35 * lit - 0.3 * hollow))[..., None]


_GROUND = {
    "wheat field": _ground((0.80, 0.67, 0.34), 0.06, 0.07, 4.0),
    "ploughed field": _ground((0.47, 0.34, 0.24), 0.16, 0.09, 6.0),
    "meadow": _ground((0.46, 0.62, 0.29), 0.0, 0.14, None),
    "forest": _forest,
}


def _lake(rng: Rng, canvas: Canvas) -> None:
    radius = rng.uniform(15, 28)
    outline = blob(rng, tuple(rng.uniform(18, SIZE - 18, 2)), radius, 0.16, rng.uniform(1.0, 1.35))
    middle = outline.mean(0)
    canvas.blend(coverage((outline - middle) * 1.09 + middle), np.array([0.62, 0.58, 0.44]))
    alpha = coverage(outline)
    water = np.array([0.13, 0.27, 0.40]) + rng.normal(0, 0.02, 3)
    canvas.blend(alpha, water * (1 + 0.10 * noise(rng, 4)[..., None] + 0.05 * noise(rng, 40)[..., None]))
    canvas.label((coverage((outline - middle) * 1.09 + middle) > 0).astype(np.float32), "lake")


def _road(rng: Rng, canvas: Canvas) -> np.ndarray:
    """A road across the picture; returns its points [n,2]."""
    start, end = _on_border(rng, 0), _on_border(rng, 2)
    t = np.linspace(0, 1, 24)[:, None]
    across = np.array([start[1] - end[1], end[0] - start[0]]) / 128
    bend = rng.normal(0, 12) * np.sin(np.pi * t) + rng.normal(0, 6) * np.sin(2 * np.pi * t)
    points = start + t * (end - start) + bend * across
    points = points if rng.random() < 0.5 else points[:, ::-1]
    width = rng.uniform(7, 10)
    canvas.blend(stroke(points, width + 3) * 0.5, np.array([0.55, 0.50, 0.38]))
    alpha = stroke(points, width)
    canvas.blend(alpha, np.array([0.60, 0.60, 0.61]) * (1 + 0.05 * noise(rng, 40)[..., None]) + rng.normal(0, 0.02, 3))
    for first in range(1, len(points) - 1, 2):
        canvas.blend(0.8 * stroke(points[first : first + 2], 1.0), np.array([0.93, 0.93, 0.90]))
    canvas.label(alpha, "road")
    return points


def _on_border(rng: Rng, side: int) -> np.ndarray:
    """A point on the left (0) or right (2) border, a little outside."""
    return np.array([-6.0 if side == 0 else SIZE + 6.0, rng.uniform(20, SIZE - 20)])


def _houses(rng: Rng, canvas: Canvas, road: np.ndarray | None) -> None:
    """One to four houses, beside the road where there is one, never on it, on water or on each other."""
    banned = np.isin(canvas.labels, [FIELDS.index("lake") + 1, FIELDS.index("road") + 1])
    wanted, angle = rng.integers(2, 5), rng.uniform(0, np.pi)
    for _ in range(60):
        centre = rng.uniform(14, SIZE - 14, 2)
        if road is not None and rng.random() < 0.8:
            centre = road[rng.integers(3, len(road) - 3)] + rng.normal(0, 18, 2)
        box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([rng.uniform(8, 12), rng.uniform(5.5, 8)])
        turn = angle + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.08)
        alpha = coverage(turned(box, turn, tuple(centre)))
        if alpha.sum() < 120 or (banned & (alpha > 0)).any():
            continue
        _house(rng, canvas, box, turn, centre, alpha)
        banned |= coverage(turned(box * 1.35, turn, tuple(centre))) > 0
        wanted -= 1
        if not wanted:
            return


def _house(rng: Rng, canvas: Canvas, box: np.ndarray, turn: float, centre: np.ndarray, alpha: np.ndarray) -> None:
    roof = np.array([(0.66, 0.28, 0.20), (0.58, 0.24, 0.22), (0.36, 0.37, 0.42), (0.86, 0.85, 0.83)][rng.integers(4)])
    shadow = coverage(turned(box, turn, tuple(centre + 3.0)))
    canvas.blend(0.55 * shadow * (canvas.labels != FIELDS.index("building") + 1), np.array([0.06, 0.07, 0.06]))
    canvas.blend(alpha, roof)
    canvas.blend(coverage(turned(np.minimum(box, [99, 0]), turn, tuple(centre))), roof * 0.78)
    canvas.label(alpha, "building")


WORLDS: dict[str, tuple[Callable[[int, int], Scene], dict[str, list[str]]]] = {
    "cells": (cells, {name: [name] for name in CELLS}),
    "fields": (fields, {name: [name] for name in FIELDS}),
}
"""Painter and classes (with their phrases) of every world."""


def cut_out(scene: Scene, aspect: str, rng: Rng) -> Scene:
    """A window of an aspect like "16:9" somewhere in a scene, as long as the scene's side."""
    height, width = scene_size(aspect, SIZE)
    top, left = rng.integers(SIZE - height + 1), rng.integers(SIZE - width + 1)
    window = np.s_[top : top + height, left : left + width]
    return Scene(scene.image[window], {name: mask[window] for name, mask in scene.masks.items() if mask[window].any()})


def write_dataset(world: str, folder: Path, images: int, seed: int = 0, aspects: Sequence[str] = ASPECTS[:1]) -> Path:
    """Write `images` scenes as train, validation and test parts and the data YAML over them; returns the YAML.

    aspects: of train.demo.world.ASPECTS, the pictures' shapes in turn.
    """
    if images <= TEST + VALIDATION:
        raise ValueError(f"{images} images asked for; {TEST + VALIDATION} are kept for validation and test, so ask for more.")
    paint, classes = WORLDS[world]
    counts = {"train": images - TEST - VALIDATION, "validation": VALIDATION, "test": TEST}
    first = 0
    for part, count in counts.items():
        for index in range(first, first + count):
            scene = cut_out(paint(seed, index), aspects[index % len(aspects)], np.random.default_rng([seed, index, 3]))
            write_scene(folder / part, f"{index:04d}", scene, classes)
        first += count
    parts = {part: {"images": f"{part}/images", "masks": f"{part}/masks"} for part in counts}
    values = {"name": world, "common": {"type": "folder", "classes": classes, "absent_per_image": 2}, **parts}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def write_scene(folder: Path, name: str, scene: Scene, classes: dict[str, list[str]]) -> None:
    """images/<name>.png and masks/<class>/<name>.png of what is there; every class gets its folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(folder / "images" / f"{name}.png")
    for label in classes:
        (folder / "masks" / label).mkdir(parents=True, exist_ok=True)
        if label in scene.masks:
            Image.fromarray(scene.masks[label]).convert("L").save(folder / "masks" / label / f"{name}.png")


def main() -> None:
    """Parse the command line and write a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=int, default=260, help=f"scenes, {TEST} + {VALIDATION} of them for test and validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--aspects", nargs="+", choices=ASPECTS, default=ASPECTS[:1], help="the pictures' shapes, width to height"
    )
    arguments = parser.parse_args()
    path = write_dataset(arguments.world, arguments.out, arguments.images, arguments.seed, arguments.aspects)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
