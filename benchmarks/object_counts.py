"""Objects that DiGSeg Split Objects counts right in demo scenes the model never saw, and how long a 4K mask of 500 parts takes.

python benchmarks/object_counts.py --report F
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from digseg_nodes.core.inference import ImageSettings  # noqa: E402
from digseg_nodes.core.masks import Masks  # noqa: E402
from digseg_nodes.core.objects import ObjectSettings, bounding_boxes, segs, split_objects  # noqa: E402
from train.demo.world import DemoWorld  # noqa: E402
from train.networks.engine import open_segmenter  # noqa: E402

CHECKPOINT = ROOT / "digseg_nodes" / "models" / "digseg-demo.safetensors"
SETTINGS = ObjectSettings()
THRESHOLD = 0.5
SIZE = (2160, 3840)


def objects(soft: torch.Tensor, settings: ObjectSettings = SETTINGS) -> list:
    """The objects of one soft mask [H,W]."""
    found = Masks(soft[None, None], ("x",), torch.zeros(1, *soft.shape, 3))
    return split_objects(found.choose("", THRESHOLD), settings)


def counts(scenes: int) -> dict[str, float]:
    """Shares of scenes and prompts counted right, by the parts of their true masks; absent prompts ought to give none."""
    segmenter, world = open_segmenter(CHECKPOINT), DemoWorld(scenes, split="test")
    right: dict[str, list[bool]] = {"things": [], "attributes": [], "absent": [], "scenes": []}
    for number in range(scenes):
        scene = world.sample(number)
        segmenter.set_image(scene.image, ImageSettings())
        truths = {text: mask for text, mask in scene.masks.items() if text in scene.pairs or text.startswith("everything ")}
        asked = [*truths, *scene.absent]
        found = segmenter.predict("\n".join(asked))
        hits = {}
        for text, soft in zip(asked, found.soft[0], strict=True):
            truth = torch.from_numpy(truths.get(text, np.zeros(soft.shape, bool))).float()
            hits[text] = len(objects(soft)) == len(objects(truth))
            kind = "absent" if text in scene.absent else "things" if text in scene.pairs else "attributes"
            right[kind].append(hits[text])
        right["scenes"].append(all(hits[text] for text in scene.pairs))
    return {kind: round(float(np.mean(values)), 4) for kind, values in right.items()} | {
        f"{kind}_asked": len(values) for kind, values in right.items()
    }


def seconds() -> dict[str, float]:
    """Processor seconds for a 4K mask of 500 parts, the best of five, on one core."""
    soft = torch.zeros(SIZE)
    for row in range(20):
        for column in range(25):
            soft[row * 108 : row * 108 + 80, column * 153 : column * 153 + 140] = 0.8
    out = {}
    for name, settings in (("plain", ObjectSettings(0.0)), ("filled and closed", ObjectSettings(0.0, 1.0, 0.001, 4))):
        times = []
        for _ in range(5):
            start = time.process_time()
            parts = objects(soft, settings)
            bounding_boxes(parts, 1, SIZE), segs(parts, SIZE)
            times.append(time.process_time() - start)
        out[name] = round(min(times), 3)
    return {"parts": len(parts), **out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--scenes", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = {"counted right": counts(args.scenes), "4K mask, seconds": seconds()}
    print(json.dumps(figures, indent=2))
    if args.report:
        args.report.write_text(json.dumps(figures, indent=2), "utf-8")


if __name__ == "__main__":
    main()
