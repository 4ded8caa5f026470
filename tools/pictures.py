"""Run the example graphs; make their thumbnails (workflows/*.jpg) and the help pages' pictures from what they show.

python -m tools.pictures --url http://127.0.0.1:8188
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .api import Client, to_prompt
from .graphs import GRAPHS

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / "workflows"
HELP = ROOT / "digseg_nodes" / "web" / "docs" / "img"
PAGE, TEXT = (24, 27, 33), (236, 239, 244)
SIDE, GAP, CAPTION = 256, 10, 30

# graph: its thumbnail's panels, each (caption, node class, which of that class, which picture)
PAINTED = [("photo", "LoadImage", 0, 0), ("red circle", "DiGSegPickMask", 0, 0)]
THUMBNAILS = {
    "text_to_mask": [
        ("photo", "LoadImage", 0, 0),
        ("all prompts", "DiGSegSegment", 0, 0),
        ("red star", "DiGSegPickMask", 0, 0),
    ],
    "semantic_map": [("photo", "LoadImage", 0, 0), ("one class a pixel", "DiGSegSemanticMap", 0, 0)],
    "cutout": [("photo", "LoadImage", 0, 0), ("cut out", "SaveImage", 0, 0), ("elsewhere", "PreviewImage", 0, 0)],
    "inpaint_demo": [*PAINTED, ("blue circle", "SaveImage", 0, 0), ("found again", "DiGSegSegment", 1, 0)],
    "inpaint_sd15": PAINTED,
    "inpaint_sdxl": PAINTED,
    "inpaint_flux_fill": PAINTED,
    "uncertainty": [
        ("photo", "LoadImage", 0, 0),
        ("where it is unsure", "DiGSegUncertainty", 0, 0),
        ("", "PreviewImage", 0, 0),
    ],
    "video": [(f"frame {n + 1}", "DiGSegSegment", 0, n) for n in (0, 8, 16, 23)],
    "video_track": [("first frame", "DiGSegSegment", 0, 0), ("one mask an object", "DiGSegSplitObjects", 0, 0)],
    "tiled_aerial": [("as a whole", "DiGSegSegment", 0, 0), ("in tiles", "DiGSegSegment", 1, 0)],
    "count_objects": [
        ("photo", "LoadImage", 0, 0),
        ("every object", "DiGSegSplitObjects", 0, 0),
        ("the leftmost of each", "DiGSegSplitObjects", 1, 0),
    ],
    "nuclei": [("photo", "LoadImage", 0, 0), ("every nucleus", "DiGSegSplitObjects", 0, 0)],
    "teach": [
        ("found", "DiGSegSegment", 0, 0),
        ("to correct", "SaveImage", 0, 0),
        ("the pair", "DiGSegSavePair", 0, 0),
    ],
    "stock_sampler": [
        ("photo", "LoadImage", 0, 0),
        ("SamplerCustom", "DiGSegPickMask", 0, 0),
        ("KSampler", "DiGSegPickMask", 1, 0),
    ],
}
BADGES = {"inpaint_sd15": "SD 1.5 inpainting", "inpaint_sdxl": "SDXL", "inpaint_flux_fill": "Flux Fill", "video_track": "SAM 3"}

# help page: the graph and the panels that show what the node does
PAGES = {
    "DiGSegCheckpointLoader": ("text_to_mask", [("photo", "LoadImage", 0, 0), ("masks", "DiGSegSegment", 0, 0)]),
    "DiGSegUNETLoader": ("uncertainty", [("photo", "LoadImage", 0, 0), ("masks", "DiGSegSegment", 0, 0)]),
    "DiGSegLoraLoader": ("text_to_mask", [("photo", "LoadImage", 0, 0), ("one mask", "DiGSegPickMask", 0, 0)]),
    "DiGSegBaseLoader": ("inpaint_demo", [("photo", "LoadImage", 0, 0), ("blue circle painted", "SaveImage", 0, 0)]),
    "DiGSegPrompts": ("semantic_map", [("photo", "LoadImage", 0, 0), ("four prompts", "DiGSegSemanticMap", 0, 0)]),
    "DiGSegEncodeImage": ("tiled_aerial", [("tile 0", "DiGSegSegment", 0, 0), ("tile 128", "DiGSegSegment", 1, 0)]),
    "DiGSegSampler": ("uncertainty", [("photo", "LoadImage", 0, 0), ("mean of five noises", "DiGSegPickMask", 0, 0)]),
    "DiGSegDecodeMasks": ("uncertainty", [("soft", "DiGSegPickMask", 0, 0), ("hard", "DiGSegPickMask", 1, 0)]),
    "DiGSegSegment": ("text_to_mask", [("photo", "LoadImage", 0, 0), ("overlay", "DiGSegSegment", 0, 0),
                                       ("union", "MaskPreview", 0, 0)]),
    "DiGSegPickMask": ("text_to_mask", [("masks", "DiGSegSegment", 0, 0), ("names: red star", "DiGSegPickMask", 0, 0)]),
    "DiGSegListMasks": ("count_objects", [("masks", "DiGSegSegment", 0, 0), ("yellow star", "PreviewImage", 0, 0),
                                          ("red circle", "PreviewImage", 0, 1), ("blue square", "PreviewImage", 0, 2)]),
    "DiGSegSplitObjects": ("count_objects", [("masks", "DiGSegSegment", 0, 0), ("objects", "DiGSegSplitObjects", 0, 0)]),
    "DiGSegSavePair": ("teach", [("corrected", "LoadImage", 1, 0), ("the pair", "DiGSegSavePair", 0, 0)]),
    "DiGSegSemanticMap": ("semantic_map", [("photo", "LoadImage", 0, 0), ("map", "DiGSegSemanticMap", 0, 0)]),
    "DiGSegUncertainty": ("uncertainty", [("photo", "LoadImage", 0, 0), ("heat map", "DiGSegUncertainty", 0, 0)]),
    "DiGSegCompareMasks": ("inpaint_demo", [("truth", "DiGSegPickMask", 0, 0), ("prediction", "DiGSegPickMask", 1, 0),
                                            ("difference", "DiGSegCompareMasks", 0, 0)]),
    "DiGSegConditioning": ("stock_sampler", [("photo", "LoadImage", 0, 0), ("KSampler", "DiGSegPickMask", 1, 0)]),
    "DiGSegSigmas": ("stock_sampler", [("photo", "LoadImage", 0, 0), ("SamplerCustom", "DiGSegPickMask", 0, 0)]),
}  # fmt: skip


class Shown:
    """What the nodes of a graph showed when it ran."""

    def __init__(self, client: Client, name: str):
        self.client = client
        graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        self.prompt = to_prompt(graph, client.object_info())
        self.outputs = client.run(self.prompt).outputs

    def picture(self, kind: str, which: int, number: int) -> Image.Image:
        """One picture; a LoadImage's is its file."""
        nodes = [node for node, content in self.prompt.items() if content["class_type"] == kind]
        if kind == "LoadImage":
            return Image.open(ROOT / "tools" / "demo_scenes" / self.prompt[nodes[which]]["inputs"]["image"]).convert("RGB")
        picture = Image.open(io.BytesIO(self.client.picture(self.outputs[nodes[which]]["images"][number])))
        return _on_checks(picture) if picture.mode == "RGBA" else picture.convert("RGB")

    def strip(self, panels: Iterable[tuple], badge: str = "") -> Image.Image:
        """Captioned panels side by side, 256 pixels high each."""
        pictures = [(caption, _fitted(self.picture(*source))) for caption, *source in panels]
        width = sum(picture.width + GAP for _, picture in pictures) + GAP
        canvas = Image.new("RGB", (width, SIDE + CAPTION + 2 * GAP), PAGE)
        draw, x = ImageDraw.Draw(canvas), GAP
        for caption, picture in pictures:
            canvas.paste(picture, (x, GAP))
            draw.text(
                (x + picture.width / 2, SIDE + GAP + CAPTION / 2 + 4),
                caption,
                TEXT,
                ImageFont.load_default(17),
                anchor="mm",
            )
            x += picture.width + GAP
        if badge:
            size = draw.textlength(badge, ImageFont.load_default(26))
            draw.rounded_rectangle((width - size - 44, 24, width - 24, 66), 12, (85, 51, 85))
            draw.text((width - size / 2 - 34, 45), badge, TEXT, ImageFont.load_default(26), anchor="mm")
        return canvas


def _fitted(picture: Image.Image) -> Image.Image:
    size = (round(picture.width * SIDE / picture.height), SIDE)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _on_checks(picture: Image.Image) -> Image.Image:
    """A transparent picture on grey squares."""
    checks = Image.new("RGB", picture.size, (90, 90, 90))
    light = Image.new("RGB", (8, 8), (130, 130, 130))
    for y in range(0, picture.height, 8):
        for x in range(y % 16, picture.width, 16):
            checks.paste(light, (x, y))
    return Image.composite(picture.convert("RGB"), checks, picture.getchannel("A"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of a running ComfyUI that has the pack")
    parser.add_argument("names", nargs="*", help="graphs to run; all without this")
    args = parser.parse_args()
    HELP.mkdir(parents=True, exist_ok=True)
    with Client(args.url) as client:
        for name in args.names or GRAPHS:
            shown = Shown(client, name)
            shown.strip(THUMBNAILS[name], BADGES.get(name, "")).save(WORKFLOWS / f"{name}.jpg", quality=88, optimize=True)
            for node, (graph, panels) in PAGES.items():
                if graph == name:
                    shown.strip(panels).save(HELP / f"{node}.jpg", quality=88, optimize=True)
            print(f"{name}.jpg")


if __name__ == "__main__":
    main()
