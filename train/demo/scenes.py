"""The scenes that the demo shows: unseen ones (split ``test``) with their ground-truth masks.

    python train/demo/scenes.py

writes ``tools/demo_scenes/``: a PNG per scene, a PNG per prompt (white where the thing is) and ``scenes.json``:
``[{"image": file, "prompts": [{"prompt": text, "mask": file or null when it is not there, "held_out": bool}]}]``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from PIL import Image  # noqa: E402

from train.demo.world import HELD_OUT, SYNONYMS, DemoWorld, Scene  # noqa: E402

SEED = 2024
CHOSEN = (3, 7, 12, 15, 27, 31)


def _prompts(scene: Scene, number: int) -> list[tuple[str, str | None, bool]]:
    """(text to ask, key of its mask or None, held out?): every object, one in other words, an attribute, something absent."""
    out = [(thing.name, thing.name, thing.held_out) for thing in scene.objects]
    thing = scene.objects[number % len(scene.objects)]
    synonym = f"{SYNONYMS[thing.colour][0]} {SYNONYMS[thing.shape][0]}"
    out.append((synonym, thing.name, thing.held_out))
    attribute = f"the {thing.shape}" if number < 3 else f"everything {thing.colour}"
    out.append((attribute, attribute, False))
    absent = next(text for text, kind in scene.absent.items() if kind == "random")
    return [*out, (absent, None, tuple(absent.split()) in HELD_OUT)]


def write(folder: Path, chosen: tuple[int, ...] = CHOSEN, seed: int = SEED) -> None:
    """Write the chosen scenes of the test split; existing files of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    world, listing = DemoWorld(max(chosen) + 1, seed, "test"), []
    for number, index in enumerate(chosen):
        scene, stem = world.sample(index), f"scene-{number + 1}"
        Image.fromarray(scene.image).save(folder / f"{stem}.png", optimize=True)
        prompts = []
        for text, key, held_out in _prompts(scene, number):
            name = f"{stem}-{key.replace(' ', '-')}.png" if key else None
            if name:
                Image.fromarray(scene.masks[key]).save(folder / name, optimize=True)
            prompts.append({"prompt": text, "mask": name, "held_out": held_out})
        listing.append({"image": f"{stem}.png", "prompts": prompts})
    (folder / "scenes.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tools/demo_scenes")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
