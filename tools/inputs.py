"""Draw what the example graphs need beside the demo scenes: a red circle to paint over, an aerial view, a short video.

    python -m tools.inputs

Uses the demo world's own brush (train/demo/world.py), so that the demo model knows what it sees. All seeds are fixed.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from train.demo import world

SCENES = Path(__file__).resolve().parent / "demo_scenes"
AERIAL_SIDE, VIDEO_SIDE, FRAMES, FPS = 512, 128, 24, 12


def stamp(
    image: np.ndarray,
    rng: np.random.Generator,
    colour: str,
    shape: str,
    x: float,
    y: float,
    radius: float,
    angle: float = 0.0,
) -> np.ndarray:
    """Paint one object with its shadow over `image`, float [H, H, 3] in [0, 1]; returns its mask, bool [H, H]."""
    size = image.shape[0]
    alpha = world._alpha(shape, size, x, y, radius, angle)
    image[:] = world._shadow(image, alpha, rng)
    ys, xs = np.nonzero(alpha)
    box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    cover = alpha[box][..., None]
    image[box] = image[box] * (1 - cover) + world._paint(rng, colour, *cover.shape[:2], size) * cover
    return alpha > 0.5


def background(name: str, side: int) -> np.ndarray:
    """A muted square of one of the demo world's photographs, float [side, side, 3] in [0, 1]."""
    photo = world.photographs()[name].crop((0, 0, 256, 256)).resize((side, side), Image.Resampling.BICUBIC)
    image = np.asarray(photo, np.float32) / 255
    return 0.6 * image + 0.4 * image.mean(2, keepdims=True)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image.clip(0, 1) * 255).astype(np.uint8))


def red_circle() -> Image.Image:
    """The photo of inpaint_*.json."""
    rng, image = np.random.default_rng(4), background("coffee.png", 128)
    stamp(image, rng, "green", "heart", 96, 36, 20)
    stamp(image, rng, "red", "circle", 48, 74, 30)
    return picture(image)


def corrected() -> Image.Image:
    """The photo of teach.json as ComfyUI's mask editor saves it: transparent where the red circle is marked."""
    rng, image = np.random.default_rng(4), background("coffee.png", 128)
    stamp(image, rng, "green", "heart", 96, 36, 20)
    marked = stamp(image, rng, "red", "circle", 48, 74, 30)
    out = picture(image).convert("RGBA")
    out.putalpha(Image.fromarray(np.where(marked, 0, 255).astype(np.uint8)))
    return out


def aerial() -> Image.Image:
    """Grassland with 36 small objects, 512 pixels square; half are red circles, blue squares and yellow stars."""
    rng, side = np.random.default_rng(11), AERIAL_SIDE
    image = np.concatenate(
        [np.concatenate([background("grass.png", side // 2), background("grass.png", side // 2)[:, ::-1]], 1)] * 2
    )
    image[side // 2 :] = image[side // 2 :][::-1]
    image *= np.array([0.86, 1.0, 0.74], np.float32)
    wanted = [("red", "circle"), ("blue", "square"), ("yellow", "star")]
    others = [pair for pair in world.SEEN if pair not in wanted and pair[0] != "green"]
    for number, cell in enumerate(rng.permutation(36)):
        colour, shape = wanted[number % 3] if number < 18 else others[rng.integers(len(others))]
        y, x = (np.array(divmod(cell, 6)) + 0.5 + rng.uniform(-0.14, 0.14, 2)) * side / 6
        stamp(image, rng, colour, shape, x, y, rng.uniform(17, 23), rng.normal(0, 0.2))
    return picture(image)


def moving_shapes() -> list[Image.Image]:
    """A red circle and a blue star that cross a street scene; 2 seconds."""
    frames = []
    for number in range(FRAMES):
        t, image = number / (FRAMES - 1), background("rocket.jpg", VIDEO_SIDE)
        stamp(image, np.random.default_rng(2), "blue", "star", 100 - 66 * t, 92, 24, 0.5 * t)
        stamp(image, np.random.default_rng(3), "red", "circle", 30 + 66 * t, 42 - 12 * np.sin(np.pi * t), 21)
        frames.append(picture(image))
    return frames


def save_video(frames: list[Image.Image], path: Path) -> None:
    """H.264 in an MP4 file, good enough that the colours stay."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(FPS), options={"crf": "14"})
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(frame)))
        file.mux(stream.encode())


def main() -> None:
    """Write the pictures and the clip, each the same at every call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    red_circle().save(SCENES / "red_circle.png", optimize=True)
    corrected().save(SCENES / "corrected.png", optimize=True)
    aerial().save(SCENES / "aerial.png", optimize=True)
    save_video(moving_shapes(), SCENES / "moving_shapes.mp4")


if __name__ == "__main__":
    main()
