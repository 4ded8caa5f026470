"""Name a thing, paint another one into its mask, look for that: how often does the loop of inpaint_demo.json close?

    python benchmarks/inpaint_loop.py --report output/bench/inpaint_loop.json

For 20 unseen scenes of the demo world: segment the largest object by its name, grow and feather its mask, paint something into
it with the bundled base model, segment that in the result: the shape in another colour ("recolour"), then another shape in
another colour ("replace"). All through workflows/inpaint_demo.json in a real ComfyUI. Reports the IoU between the requested
region and what is found there, and the change outside the mask.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dev  # noqa: E402
from tools.api import Client, show_mask, to_prompt  # noqa: E402
from train.demo.world import SEEN, DemoWorld, Scene  # noqa: E402

GRAPH = ROOT / "workflows" / "inpaint_demo.json"
MARGIN = 6  # pixels that growing by 3 and blurring by 2 can reach, and one more


def node_ids(prompt: dict, kind: str) -> list[str]:
    return [node for node, content in prompt.items() if content["class_type"] == kind]


def picture(client: Client, shown: dict) -> np.ndarray:
    """uint8 [H, W, 3]"""
    return np.asarray(Image.open(io.BytesIO(client.picture(shown["images"][0]))).convert("RGB"))


def wishes(scene: Scene, rng: np.random.Generator) -> dict[str, tuple[str, str]]:
    """What to select (the largest thing) and what to paint there: the shape in another colour ("recolour"), and another
    shape in another colour ("replace"); trained pairs that are not in the picture yet."""
    largest = max(scene.objects, key=lambda thing: thing.mask.sum())
    others = [pair for pair in SEEN if pair[0] != largest.colour and " ".join(pair) not in scene.masks]
    same = [pair for pair in others if pair[1] == largest.shape]
    new = [pair for pair in others if pair[1] != largest.shape]
    return {
        kind: (largest.name, " ".join(pairs[rng.integers(len(pairs))])) for kind, pairs in (("recolour", same), ("replace", new))
    }


class Loop:
    """inpaint_demo.json with its photo and texts exchanged."""

    def __init__(self, client: Client):
        self.client = client
        self.prompt = to_prompt(json.loads(GRAPH.read_text(encoding="utf-8")), client.object_info())
        self.segments, self.picks = node_ids(self.prompt, "DiGSegSegment"), node_ids(self.prompt, "DiGSegPickMask")
        self.shown = [show_mask(self.prompt, pick) for pick in self.picks]
        self.positive = node_ids(self.prompt, "CLIPTextEncode")[0]

    def _set(self, node: str, **inputs) -> None:
        self.prompt[node]["inputs"].update(inputs)

    def run(self, photo: Path, source: str, target: str) -> dict[str, float]:
        """One scene: {"iou", "iou_first", "outside"}; outside is the mean absolute change in [0, 255]."""
        self._set(node_ids(self.prompt, "LoadImage")[0], image=self.client.upload(photo))
        self._set(self.segments[0], text=source)
        self._set(self.segments[1], text=target)
        self._set(self.picks[1], names=target)
        self._set(self.positive, text=f"a {target}")
        outputs = self.client.run(self.prompt).outputs
        result = picture(self.client, outputs[node_ids(self.prompt, "SaveImage")[0]]).astype(int)
        asked, found = (picture(self.client, outputs[node])[..., 0] > 127 for node in self.shown)
        outside = ~dilated(asked, MARGIN)
        change = np.abs(result - np.asarray(Image.open(photo).convert("RGB")).astype(int))[outside]
        score = float(outputs[node_ids(self.prompt, "PreviewAny")[0]]["text"][0])
        return {
            "iou": score,
            "asked": float(asked.mean()),
            "found": float(found.mean()),
            "outside": float(change.mean()) if change.size else 0.0,
        }


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """bool [H, W], a square neighbourhood."""
    padded = np.pad(mask, radius)
    shifts = [np.roll(padded, (dy, dx), (0, 1)) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    return np.any(shifts, axis=0)[radius:-radius, radius:-radius]


def measure(client: Client, scenes: int) -> list[dict]:
    world, rng, rows = DemoWorld(scenes, seed=97, split="test"), np.random.default_rng(0), []
    loop = Loop(client)
    with tempfile.TemporaryDirectory() as folder:
        for number in tqdm(range(scenes), unit="scene", disable=None):
            scene = world.sample(number)
            photo = Path(folder) / f"inpaint_loop_{number}.png"
            Image.fromarray(scene.image).save(photo)
            for kind, (source, target) in wishes(scene, rng).items():
                result = loop.run(photo, source, target)
                rows.append({"scene": number, "kind": kind, "source": source, "target": target, **result})
    return rows


def mean(rows: list[dict]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in ("iou", "outside")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--url", help="a ComfyUI that runs already; without it one is started")
    args = parser.parse_args()
    if args.url:
        with Client(args.url) as client:
            rows = measure(client, args.scenes)
    else:
        with dev.running_host(dev.find_or_make_install(), "bench") as host, Client(host.url) as client:
            rows = measure(client, args.scenes)
    for row in rows:
        print(
            f"{row['scene']:3}  {row['source']:>16} -> {row['target']:<16} IoU {row['iou']:.2f}  asked {row['asked']:6.1%}  "
            f"found {row['found']:6.1%}   change outside {row['outside']:.3f}"
        )
    means = {kind: mean([row for row in rows if row["kind"] == kind]) for kind in ("recolour", "replace")}
    for kind, values in means.items():
        print(f"{kind}: mean IoU {values['iou']:.3f}; mean change outside the mask {values['outside']:.4f} of 255")
    args.report.write_text(json.dumps({"mean": means, "scenes": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
