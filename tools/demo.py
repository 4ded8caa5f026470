"""Run text_to_mask.json on every bundled photo in a running ComfyUI; write the masks, a report and a contact sheet.

    python -m tools.demo --url http://127.0.0.1:8188 --output output/demo

`python dev.py demo` starts a ComfyUI and calls this. The photos, their prompts and the true masks are listed in
demo_scenes/scenes.json: [{"image", "prompts": [{"prompt", "mask" (absent from the photo: null), "held_out"}]}].
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from digseg_nodes.core.metrics import iou
from digseg_nodes.core.palettes import palette

from .api import Client, GraphError, RunError, RunInterrupted, show_mask, to_prompt
from .sheet import Card, Cut, contact_sheet

ROOT = Path(__file__).resolve().parent.parent
SCENES = ROOT / "tools" / "demo_scenes"
GRAPH = ROOT / "workflows" / "text_to_mask.json"


@dataclass(frozen=True)
class Scene:
    """A bundled photo and what is asked of it: {"prompt", "mask" (file name or None), "held_out"}."""

    image: str
    prompts: list[dict]

    @property
    def texts(self) -> list[str]:
        return [entry["prompt"] for entry in self.prompts]


def load_scenes() -> list[Scene]:
    """The bundled scenes in the order of scenes.json."""
    return [Scene(**entry) for entry in json.loads((SCENES / "scenes.json").read_text(encoding="utf-8"))]


def true_mask(entry: dict, size: tuple[int, int]) -> np.ndarray:
    """Where the prompt really is: bool [H, W]; `size` is (width, height). All False when it is not in the photo."""
    if not entry["mask"]:
        return np.zeros(size[::-1], bool)
    with Image.open(SCENES / entry["mask"]) as picture:
        return np.asarray(picture.convert("L")) > 127


def node_of(prompt: dict, kind: str) -> str:
    """Id of the prompt's first node of a class."""
    for node, content in prompt.items():
        if content["class_type"] == kind:
            return node
    raise GraphError(f"{GRAPH.name} has no {kind} node")


class Runner:
    """The example graph with its photo, texts and picked name exchanged, run in one ComfyUI."""

    def __init__(self, client: Client, bar: tqdm):
        self.client, self.bar = client, bar
        self.prompt = to_prompt(json.loads(GRAPH.read_text(encoding="utf-8")), client.object_info())
        self.photo, self.segment = node_of(self.prompt, "LoadImage"), node_of(self.prompt, "DiGSegSegment")
        self.pick = node_of(self.prompt, "DiGSegPickMask")
        self.shown = show_mask(self.prompt, self.pick)

    def masks(self, scene: Scene) -> tuple[list[np.ndarray], Image.Image]:
        """One hard mask (bool [H, W]) a prompt and the node's overlay. ComfyUI keeps the segmentation: it runs once."""
        self.prompt[self.photo]["inputs"]["image"] = self.client.upload(SCENES / scene.image)
        self.prompt[self.segment]["inputs"]["text"] = "\n".join(scene.texts)
        masks, overlay = [], None
        for text in scene.texts:
            self.prompt[self.pick]["inputs"]["names"] = text
            outputs = self.client.run(self.prompt, self._show).outputs
            masks.append(np.asarray(self._picture(outputs, self.shown).convert("L")) > 127)
            overlay = overlay or self._picture(outputs, self.segment)
            self.bar.update()
        return masks, overlay

    def _picture(self, outputs: dict, node: str) -> Image.Image:
        return Image.open(io.BytesIO(self.client.picture(outputs[node]["images"][0]))).convert("RGB")

    def _show(self, kind: str, data: object) -> None:
        if kind == "progress":
            self.bar.set_postfix_str(f"step {data['value']}/{data['max']}")


def judge(scene: Scene, photo: Image.Image, masks: list[np.ndarray]) -> list[Cut]:
    """Compare the masks with the truth."""
    cuts = []
    for entry, mask, colour in zip(scene.prompts, masks, palette(len(masks)).tolist(), strict=True):
        truth = true_mask(entry, photo.size)
        score = iou(torch.from_numpy(mask), torch.from_numpy(truth)).item()
        cuts.append(Cut(entry["prompt"], mask, tuple(colour), score, float(mask.mean()), entry["held_out"], bool(truth.any())))
    return cuts


def save_scene(folder: Path, card: Card, overlay: Image.Image) -> list[dict]:
    """Write photo.png, overlay.png and one mask PNG a prompt; returns the scene's lines of the report."""
    folder.mkdir(parents=True, exist_ok=True)  # an interrupted demo leaves its folders
    card.photo.save(folder / "photo.png")
    overlay.save(folder / "overlay.png")
    lines = []
    for cut in card.cuts:
        path = folder / f"mask_{'_'.join(cut.prompt.split())}.png"
        Image.fromarray(cut.mask.astype(np.uint8) * 255).save(path)
        lines.append(
            {
                "image": card.name,
                "prompt": cut.prompt,
                "iou": round(cut.iou, 4),
                "coverage": round(cut.coverage, 6),
                "mask": _shown(path),
            }
        )
    return lines


def _shown(path: Path) -> str:
    return (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()


def mean_iou(cards: list[Card]) -> float:
    """Mean over the prompts that are in their photo."""
    return float(np.mean([cut.iou for card in cards for cut in card.cuts if cut.present]))


def run_demo(client: Client, output: Path, started: float) -> Path:
    """Write output/<scene>/*.png, report.json and contact_sheet.png; `started` is the time() the clock runs from."""
    if (output / "report.json").is_file():  # ours, from an earlier run
        shutil.rmtree(output)
    scenes = load_scenes()
    cards, lines = [], []
    with tqdm(total=sum(len(scene.prompts) for scene in scenes), unit="mask", desc="Segmenting", disable=None) as bar:
        runner = Runner(client, bar)
        for scene in scenes:
            masks, overlay = runner.masks(scene)
            photo = Image.open(SCENES / scene.image).convert("RGB")
            cards.append(Card(scene.image, photo, judge(scene, photo, masks)))
            lines += save_scene(output / Path(scene.image).stem, cards[-1], overlay)
            bar.write(f"{scene.image}: " + ", ".join(f"{cut.prompt} {cut.iou:.2f}" for cut in cards[-1].cuts))
    version = client.get("/system_stats")["system"]["comfyui_version"]
    subtitle = f"ComfyUI {version}  |  {len(lines)} prompts, mean IoU {mean_iou(cards):.2f}"
    contact_sheet("DiGSeg: name it, get its mask", subtitle, cards).save(output / "contact_sheet.png")
    report = {"host_version": version, "seconds": round(time.time() - started, 1), "masks": lines}
    (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return output / "contact_sheet.png"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; an earlier demo in it goes")
    parser.add_argument("--started", type=float, default=time.time(), help="time() the report's seconds count from")
    args = parser.parse_args()
    try:
        with Client(args.url) as client:
            sheet = run_demo(client, args.output.resolve(), args.started)
    except (GraphError, RunError, RunInterrupted, aiohttp.ClientError) as error:
        print(f"The demo stopped: {error}", file=sys.stderr)
        return 1
    print(f"Look at {_shown(sheet)}; the figures are in {_shown(sheet.parent / 'report.json')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
