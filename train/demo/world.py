"""The demo world: small procedural scenes with exact masks, captions and prompts.

Eight shapes in eight colours lie on photographs (those bundled with scikit-image) or procedural textures. Every scene is a
pure function of (seed, split, index). Eight colour-shape pairs are held out: they never occur in the ``train`` split, neither
in the pictures nor in the texts, so that masks for them measure compositional generalisation.

    world = DemoWorld(scenes=1000, seed=0, split="train")
    scene = world.sample(17)
    scene.image                  # uint8 [128, 128, 3]
    scene.masks["red circle"]    # bool [128, 128], the visible pixels

``aspects=("1:1", "16:9", "2:3")`` gives scenes of several shapes in turn; square scenes are the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
RGB = {
    "red": (214, 28, 36),
    "orange": (245, 128, 20),
    "yellow": (250, 226, 40),
    "green": (36, 150, 52),
    "cyan": (52, 208, 214),
    "blue": (34, 66, 214),
    "purple": (122, 36, 160),
    "pink": (250, 138, 196),
}
SYNONYMS = {
    "circle": ("disc", "dot"),
    "square": ("box", "block"),
    "triangle": ("wedge", "pyramid"),
    "star": ("asterisk", "five-pointed star"),
    "ring": ("hoop", "donut"),
    "cross": ("plus", "plus sign"),
    "heart": ("love heart", "valentine"),
    "crescent": ("moon", "half moon"),
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine", "amber"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "grassy"),
    "cyan": ("turquoise", "aqua"),
    "blue": ("cobalt", "navy"),
    "purple": ("violet", "lilac"),
    "pink": ("rose", "rosy"),
}
HELD_OUT = tuple((COLOURS[(3 * i + 1) % 8], shape) for i, shape in enumerate(SHAPES))
PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES)
SEEN = tuple(p for p in PAIRS if p not in HELD_OUT)
SPLITS = {"train": 0, "val": 1, "test": 2}
# scikit-image data files inside its wheel -> how a caption names them
PHOTOS = {
    "astronaut.png": "a photo of an astronaut",
    "coffee.png": "a photo of coffee",
    "chelsea.png": "a photo of a cat",
    "rocket.jpg": "a photo of a rocket",
    "motorcycle_left.png": "a photo of a workshop",
    "gravel.png": "gravel",
    "grass.png": "grass",
    "brick.png": "a brick wall",
}
TEXTURES = ("wood", "stripes", "tiles", "clouds", "a plain wall")
SUPERSAMPLE = 3
MIN_SHARE, MAX_SHARE = 0.03, 0.40
ASPECTS = ("1:1", "4:3", "3:2", "16:9", "3:4", "2:3", "9:16")
"""Width to height of the scenes' shapes."""

Size = tuple[int, int]
"""(height, width) in pixels."""


def scene_size(aspect: str, longest: int) -> Size:
    """(height, width) of a scene of an aspect like "16:9" (width to height) whose longest side is `longest` pixels."""
    if aspect not in ASPECTS:
        raise ValueError(f"aspect is {aspect!r}; use some of {', '.join(ASPECTS)} (in a YAML file in quotation marks)")
    width, height = map(int, aspect.split(":"))
    return round(longest * height / max(width, height)), round(longest * width / max(width, height))


@dataclass(frozen=True)
class Thing:
    """One object of a scene: its names, the visible pixels (bool [H, W]) and the visible share of its area."""

    colour: str
    shape: str
    mask: np.ndarray
    visible: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def held_out(self) -> bool:
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """A picture with texts: ``masks`` maps prompts to bool [H, W]; ``absent`` maps prompts of things not there to
    "hard" (its colour or its shape is in the picture) or "random" (neither is)."""

    image: np.ndarray
    caption: str
    objects: list[Thing]
    masks: dict[str, np.ndarray]
    absent: dict[str, str]
    pairs: dict[str, bool] = field(default_factory=dict)  # "colour shape" prompts -> held out?


def _polygon(shape: str) -> np.ndarray:
    """Vertices [n, 2] of a shape in the unit disc, y down."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if shape in ("circle", "ring", "crescent"):
        return np.stack([np.cos(t), np.sin(t)], 1)
    if shape == "square":
        return 0.86 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    if shape == "triangle":
        return np.array([[0, -1.0], [1.0, 0.8], [-1.0, 0.8]])
    if shape == "star":
        a = -np.pi / 2 + np.arange(10) * np.pi / 5
        r = np.where(np.arange(10) % 2 == 0, 1.1, 0.48)
        return np.stack([r * np.cos(a), r * np.sin(a)], 1)
    if shape == "cross":
        w = 0.34
        p = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]
        return np.array(p, float)
    if shape == "heart":
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        return np.stack([x / 16, (y - 2) / 15], 1)
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


_POLYGONS = {s: _polygon(s) for s in SHAPES}
_AREA = {  # area of the unit shape
    "circle": 3.14, "square": 2.96, "triangle": 1.8, "star": 1.55, "ring": 2.2, "cross": 2.26, "heart": 2.1, "crescent": 1.75,
}  # fmt: skip


def _alpha(shape: str, size: Size, cx: float, cy: float, r: float, angle: float) -> np.ndarray:
    """Coverage float32 [*size] in [0, 1] of a shape with centre and radius in pixels, angle in radians."""
    k = SUPERSAMPLE
    canvas = Image.new("L", (size[1] * k, size[0] * k))
    draw = ImageDraw.Draw(canvas)
    rot = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def points(poly: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(p) for p in ((poly * r) @ rot.T + (cx, cy)) * k]

    draw.polygon(points(_POLYGONS[shape]), fill=255)
    if shape == "ring":
        draw.polygon(points(_POLYGONS["circle"] * 0.55), fill=0)
    if shape == "crescent":
        draw.polygon(points(_POLYGONS["circle"] * 0.82 + (0.48, 0.0)), fill=0)
    return np.asarray(canvas.reduce(k), np.float32) / 255


@lru_cache(maxsize=1)
def photographs() -> dict[str, Image.Image]:
    """The photographs inside scikit-image's wheel as RGB images with a short side of 256 pixels."""
    from pathlib import Path

    import skimage

    folder = Path(skimage.__file__).parent / "data"
    out = {}
    for name in PHOTOS:
        image = Image.open(folder / name).convert("RGB")
        scale = 256 / min(image.size)
        out[name] = image.resize((round(image.width * scale), round(image.height * scale)), Image.LANCZOS)
    return out


def _noise(rng: np.random.Generator, size: Size, cells: int) -> np.ndarray:
    """Smooth noise float32 [*size] in [0, 1]."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
    return np.asarray(small.resize(size[::-1], Image.BICUBIC), np.float32) / 255


def _photo_background(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    name = list(PHOTOS)[rng.integers(len(PHOTOS))]
    photo = photographs()[name]
    side = rng.uniform(128, 256)
    height, width = (side * (length / max(size)) for length in size)
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    crop = photo.resize(size[::-1], Image.BILINEAR, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        crop = crop.transpose(Image.FLIP_LEFT_RIGHT)
    image = np.asarray(crop, np.float32) / 255
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0.35, 0.9)  # muted, so that the objects stand out
    image = (image - 0.5) * rng.uniform(0.6, 0.95) + 0.5 + rng.uniform(-0.1, 0.1)
    return image.astype(np.float32), PHOTOS[name]


def _texture_background(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    name = TEXTURES[rng.integers(len(TEXTURES))]
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32) * (128 / max(size))
    base = rng.uniform(0.25, 0.8) + rng.uniform(-0.06, 0.06, 3)
    if name == "wood":
        base = np.array([0.62, 0.45, 0.3]) * rng.uniform(0.7, 1.2)
        warp = y + 14 * _noise(rng, size, 4)
        t = np.sin(warp * rng.uniform(0.25, 0.6)) * 0.5 + 0.5
    elif name == "stripes":
        a = rng.uniform(0, np.pi)
        t = (np.sin((x * np.cos(a) + y * np.sin(a)) * rng.uniform(0.2, 0.5)) > 0).astype(np.float32)
    elif name == "tiles":
        k = rng.uniform(10, 24)
        t = (((x // k) + (y // k)) % 2).astype(np.float32)
    elif name == "clouds":
        t = 2.5 * (0.7 * _noise(rng, size, 4) + 0.3 * _noise(rng, size, 12) - 0.5) + 0.5
    else:
        a = rng.uniform(0, 2 * np.pi)
        t = ((x - 64) * np.cos(a) + (y - 64) * np.sin(a)) / 128 + 0.5
    image = base + (t[..., None] - 0.5) * rng.uniform(0.08, 0.25)
    return image.astype(np.float32), name


def _paint(rng: np.random.Generator, colour: str, height: int, width: int, longest: int) -> np.ndarray:
    """A coloured surface float32 [height, width, 3]: plain, shaded, striped, dotted or rough. longest: the scene's side."""
    rgb = np.array(RGB[colour], np.float32) / 255 + rng.normal(0, 0.018, 3).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * (128 / longest)
    kind = rng.integers(5)
    a, k = rng.uniform(0, np.pi), rng.uniform(0.45, 0.9)
    along = x * np.cos(a) + y * np.sin(a)
    if kind == 0:
        t = np.zeros_like(x)
    elif kind == 1:
        t = np.sin(along * 0.05 + rng.uniform(0, 6)) * 0.8
    elif kind == 2:
        t = np.sign(np.sin(along * k))
    elif kind == 3:
        across = -x * np.sin(a) + y * np.cos(a)
        t = (np.sin(along * k) * np.sin(across * k) > 0.4) * 1.6 - 0.6
    else:
        t = 3 * (_noise(rng, (longest, longest), 24)[:height, :width] - 0.5)
    return np.clip(rgb * (1 + 0.11 * t[..., None]) + 0.02 * t[..., None], 0, 1)


def _choose_pairs(rng: np.random.Generator, split: str, count: int) -> list[tuple[str, str]]:
    """Distinct pairs; outside ``train`` the first is held out and the second is not. Distractors share an attribute."""
    pool = SEEN if split == "train" else PAIRS
    pairs = [SEEN[rng.integers(len(SEEN))]]
    if split != "train":
        pairs.append(HELD_OUT[rng.integers(len(HELD_OUT))])
    while len(pairs) < count:
        candidate = pool[rng.integers(len(pool))]
        if rng.random() < 0.45:  # shares the colour or the shape of an object already there
            c, s = pairs[rng.integers(len(pairs))]
            candidate = (c, candidate[1]) if rng.random() < 0.5 else (candidate[0], s)
        if candidate in pool and candidate not in pairs:
            pairs.append(candidate)
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _place(rng: np.random.Generator, pairs: list[tuple[str, str]], size: Size) -> list[np.ndarray]:
    """Coverage maps, back to front; every object keeps at least 72 % of its area, 3 % of the image and its outline."""
    alphas: list[np.ndarray] = []
    for colour, shape in pairs:
        twins = [a for (c, _), a in zip(pairs, alphas, strict=False) if c == colour]  # equal colours must not touch
        for attempt in range(40):
            top = 0.5 if attempt < 12 else 0.3
            share = np.exp(rng.uniform(np.log(0.036), np.log(min(MAX_SHARE, top / len(pairs) * 1.1))))
            r = min(np.sqrt(size[0] * size[1]) * np.sqrt(share / _AREA[shape]), min(size) / 2)
            angle = rng.uniform(-np.pi, np.pi) if shape in ("crescent", "ring", "circle") else rng.normal(0, 0.16)
            margin = 0.9 * r
            cx, cy = rng.uniform(margin, (size[1] - margin, size[0] - margin))
            alpha = _alpha(shape, size, cx, cy, r, angle)
            solid = alpha > 0.5
            slack = 0.72 if attempt < 12 else 0.85
            apart = not any((solid & (a > 0)).any() for a in twins)
            if apart and all(_kept(a, solid, slack) for a in alphas) and _kept_all(alphas, solid):
                alphas.append(alpha)
                break
        else:
            break
    return alphas


def _kept(behind: np.ndarray, front: np.ndarray, share: float) -> bool:
    solid = behind > 0.5
    return (solid & ~front).sum() >= share * solid.sum()


def _kept_all(alphas: list[np.ndarray], front: np.ndarray) -> bool:
    """No object behind falls below its minimum when everything in front is counted."""
    cover = front.copy()
    for alpha in reversed(alphas):
        solid = alpha > 0.5
        left = (solid & ~cover).sum()
        if left < 0.7 * solid.sum() or left < MIN_SHARE * solid.size:
            return False
        cover |= solid
    return front.sum() >= MIN_SHARE * front.size


def _shadow(image: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    dx, dy = rng.integers(-4, 5), rng.integers(1, 6)
    soft = Image.fromarray((np.roll(alpha, (dy, dx), (0, 1)) * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(3))
    return image * (1 - np.float32(rng.uniform(0.2, 0.5) / 255) * np.asarray(soft, np.float32)[..., None])


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def phrase(rng: np.random.Generator, colour: str | None, shape: str | None, variety: float = 1.0) -> str:
    """A way to say a colour, a shape or both; ``variety`` in [0, 1] is the chance of leaving the canonical words."""

    def say(word: str) -> str:
        return SYNONYMS[word][rng.integers(2)] if rng.random() < 0.5 * variety else word

    if colour is None:
        word = say(shape)
        return f"{('the', article(word), 'every', 'all')[rng.integers(4) if rng.random() < variety else 0]} {word}"
    if shape is None:
        return f"{('everything', 'anything', 'all')[rng.integers(3) if rng.random() < variety else 0]} {say(colour)}"
    c, s = say(colour), say(shape)
    forms = (f"{c} {s}", f"the {c} {s}", f"{article(c)} {c} {s}", f"the {s} that is {c}", f"{article(s)} {s} in {c}")
    return forms[rng.integers(len(forms))] if rng.random() < variety else f"{c} {s}"


def _absent(rng: np.random.Generator, pairs: list[tuple[str, str]], split: str) -> dict[str, str]:
    """Two hard (right colour and wrong shape, right shape and wrong colour) and two random prompts."""
    pool = SEEN if split == "train" else PAIRS
    colours, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
    groups = [
        [p for p in pool if p not in pairs and p[0] in colours],
        [p for p in pool if p not in pairs and p[1] in shapes],
        [p for p in pool if p[0] not in colours and p[1] not in shapes],
    ]
    out = {}
    for group, kind, n in zip(groups, ("hard", "hard", "random"), (1, 1, 2), strict=True):
        for i in rng.permutation(len(group))[:n]:
            out["{} {}".format(*group[i])] = kind
    for words, there, form in ((SHAPES, shapes, "the {}"), (COLOURS, colours, "everything {}")):
        missing = [w for w in words if w not in there]
        out[form.format(missing[rng.integers(len(missing))])] = "random"
    return out


def _masks(rng: np.random.Generator, things: list[Thing]) -> dict[str, np.ndarray]:
    """Prompts and their masks: canonical pairs, one paraphrase of each, single attributes and a paraphrase of each."""
    out = {t.name: t.mask for t in things}
    for t in things:
        out.setdefault(phrase(rng, t.colour, t.shape), t.mask)
    for key, form in (("shape", "the {}"), ("colour", "everything {}")):
        for word in dict.fromkeys(getattr(t, key) for t in things):
            mask = np.logical_or.reduce([t.mask for t in things if getattr(t, key) == word])
            out[form.format(word)] = mask
            out.setdefault(phrase(rng, **{"colour": None, "shape": None, key: word}), mask)
    return out


def _caption(rng: np.random.Generator, pairs: list[tuple[str, str]], background: str) -> str:
    def name(pair: tuple[str, str]) -> str:
        text = phrase(rng, *pair, variety=0.0)
        return f"{article(text)} {text}"

    order = rng.permutation(len(pairs))
    names = [name(pairs[i]) for i in order]
    return (", ".join(names[:-1]) + " and " if len(names) > 1 else "") + names[-1] + " on " + background


class DemoWorld:
    """``scenes`` scenes of ``split`` ("train", "val" or "test"), reproducible from ``seed``. size: the longest side in pixels.

    aspects: of ASPECTS; scene number i has the shape aspects[i % len(aspects)].
    """

    def __init__(self, scenes: int, seed: int = 0, split: str = "train", size: int = 128, aspects: Sequence[str] = ASPECTS[:1]):
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
        self.scenes, self.seed, self.split, self.size = scenes, seed, split, size
        self.sizes = [scene_size(aspect, size) for aspect in aspects]

    def __len__(self) -> int:
        return self.scenes

    def sample(self, index: int) -> Scene:
        """Scene number ``index``; raises IndexError outside [0, len)."""
        if not 0 <= index < self.scenes:
            raise IndexError(f"scene {index} asked for; this world has scenes 0 to {self.scenes - 1}")
        rng = np.random.default_rng([self.seed, SPLITS[self.split], index])
        pairs = _choose_pairs(rng, self.split, int(rng.choice([2, 3, 4], p=[0.3, 0.45, 0.25])))
        background = _photo_background if rng.random() < 0.6 else _texture_background
        size = self.sizes[index % len(self.sizes)]
        image, where = background(rng, size)
        alphas = _place(rng, pairs, size)
        pairs = pairs[: len(alphas)]
        for (colour, _), alpha in zip(pairs, alphas, strict=True):
            if rng.random() < 0.7:
                image = _shadow(image, alpha, rng)
            ys, xs = np.nonzero(alpha)
            box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            a = alpha[box][..., None]
            image[box] = image[box] * (1 - a) + _paint(rng, colour, *a.shape[:2], self.size) * a
        image = np.clip(image * rng.uniform(0.9, 1.08), 0, 1) * 255
        things = self._things(pairs, alphas)
        return Scene(
            image=np.round(image).astype(np.uint8),
            caption=_caption(rng, pairs, where),
            objects=things,
            masks=_masks(rng, things),
            absent=_absent(rng, pairs, self.split),
            pairs={t.name: t.held_out for t in things},
        )

    @staticmethod
    def _things(pairs: list[tuple[str, str]], alphas: list[np.ndarray]) -> list[Thing]:
        things, cover = [], np.zeros(alphas[0].shape, bool)
        for (colour, shape), alpha in reversed(list(zip(pairs, alphas, strict=True))):
            solid = alpha > 0.5
            things.append(Thing(colour, shape, solid & ~cover, float((solid & ~cover).sum() / solid.sum())))
            cover |= solid
        return things[::-1]
