"""A plain segmentation U-Net of the demo model's size, the class as input instead of text: what DiGSeg is compared with.

python train/experiments/specialist.py --checkpoint digseg_nodes/models/digseg-demo-base.safetensors --report OUT.json --steps 400

It sees pixels, is told colour and shape by number (each may be "any"), and learns the mask by binary cross-entropy on the
training scenes of the demo model. Nothing of the demo model is used but its size, which is printed beside its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from digseg_nodes.core.files import write_text
from train.data.base import ABSENT_GROUPS, Query, Sample
from train.data.demo import DemoSource
from train.data.source_config import DemoConfig
from train.demo.world import COLOURS, SHAPES
from train.networks.bases import open_base
from train.scoring.scores import score, summarise

PATCH = 4
ABSENT, HARD = 0.25, 0.8


class PatchUNet(nn.Module):
    """Image [B,3,H,W] in [-1,1] → logits [B,C,H,W], C `outputs`; H and W multiples of 16. Works on patches of 4 x 4 pixels.

    told: [B,256] is added to the time embedding, as class embeddings are.
    """

    def __init__(self, outputs: int):
        super().__init__()
        self.unet = UNet2DModel(
            in_channels=3 * PATCH**2, out_channels=outputs * PATCH**2, block_out_channels=(64, 96, 128), layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), class_embed_type="identity",
        )  # fmt: skip
        self.width = 4 * self.unet.config.block_out_channels[0]

    def forward(self, image: Tensor, told: Tensor | None = None) -> Tensor:
        patches = F.pixel_unshuffle(image, PATCH)  # [B,3,H,W] -> [B,48,H/4,W/4]
        told = image.new_zeros(len(image), self.width) if told is None else told
        return F.pixel_shuffle(self.unet(patches, 0, class_labels=told).sample, PATCH)  # [B,16C,H/4,W/4] -> [B,C,H,W]


class Specialist(nn.Module):
    """Image [B,3,H,W] in [-1,1] and class numbers [B,2] -> logits [B,H,W]."""

    def __init__(self):
        super().__init__()
        self.unet = PatchUNet(1)
        self.colour, self.shape = (nn.Embedding(len(names) + 1, self.unet.width) for names in (COLOURS, SHAPES))

    def forward(self, image: Tensor, classes: Tensor) -> Tensor:
        return self.unet(image, self.colour(classes[:, 0]) + self.shape(classes[:, 1]))[:, 0]


def class_numbers(name: str) -> tuple[int, int]:
    """(colour, shape) of "red star", "the star" or "everything red"; the last number of each stands for any."""
    first, last = name.split()
    if first == "the":
        return len(COLOURS), SHAPES.index(last)
    if first == "everything":
        return COLOURS.index(last), len(SHAPES)
    return COLOURS.index(first), SHAPES.index(last)


def draw(sample: Sample, rng: np.random.Generator) -> Query:
    """A query as the demo model is trained on them: a quarter absent, most of those hard."""
    kind = "" if rng.random() >= ABSENT else ABSENT_GROUPS[0] if rng.random() < HARD else ABSENT_GROUPS[1]
    groups = [query for query in sample.queries if (query.group == kind if kind else query.mask is not None)]
    return groups[rng.integers(len(groups))] if groups else sample.queries[rng.integers(len(sample.queries))]


def tensors(sample: Sample, query: Query) -> tuple[Tensor, Tensor, Tensor]:
    """Image [3,H,W] in [-1,1], class numbers [2], mask [H,W]."""
    image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1).float() / 127.5 - 1
    mask = torch.zeros(image.shape[1:]) if query.mask is None else torch.from_numpy(query.mask).float()
    return image, torch.tensor(class_numbers(query.name)), mask


def train(steps: int, batch: int, seed: int, scenes: int) -> Specialist:
    """On scenes drawn as they are needed."""
    torch.manual_seed(seed)
    model, rng = Specialist(), np.random.default_rng(seed)
    source = DemoSource(DemoConfig(type="demo", split="train", scenes=6000, seed=1000))

    def loss() -> Tensor:
        samples = [source.sample(int(index)) for index in rng.integers(scenes, size=batch)]
        image, classes, mask = map(torch.stack, zip(*(tensors(one, draw(one, rng)) for one in samples), strict=True))
        return F.binary_cross_entropy_with_logits(model(image, classes), mask)

    return fit(model, loss, steps)


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int) -> nn.Module:
    """Minimise `loss()` of fresh batches by AdamW with warm-up and cosine decay; the model in evaluation mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - 20), eta_min=5e-5)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [20])
    for _ in tqdm(range(steps), desc="training"):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def evaluate(model: Specialist, images: int) -> dict:
    """The scores of train/evaluate.py on the same test scenes and prompts."""
    source = DemoSource(DemoConfig(type="demo", split="test", scenes=200, seed=0))
    records = []
    for index in range(images):
        sample = source.sample(index)
        image, classes, masks = map(torch.stack, zip(*(tensors(sample, query) for query in sample.queries), strict=True))
        known = torch.ones(masks.shape[1:], dtype=torch.bool)
        for query, soft, truth in zip(sample.queries, model(image, classes).sigmoid(), masks.bool(), strict=True):
            records.append(score(index, query, soft, truth, known, 0.5))
    return {**summarise(records), "classes": {}}


def main(line: list[str] | None = None) -> None:
    """Parse the command line, train, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the model whose size is printed beside")
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=4400)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(line)
    model = train(arguments.steps, arguments.batch, arguments.seed, arguments.scenes)
    sizes = {"parameters": sum(weight.numel() for weight in model.parameters())}
    sizes["compared_with"] = sum(weight.numel() for weight in open_base(arguments.checkpoint).state_dict("unet").values())
    report = {"steps": arguments.steps, "batch": arguments.batch, **sizes, **evaluate(model, arguments.images)}
    write_text(arguments.report, json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.report}: {sizes}")


if __name__ == "__main__":
    main()
