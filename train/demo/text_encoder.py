"""Stage 2 of the demo stack: a CLIP text encoder, trained against pictures and then frozen.

Three losses on the state of the end token (and, because Stable Diffusion pads with end tokens, of a random padding position):
contrastive against a small convolutional encoder of object crops, as CLIP does; two heads that name the colour and the shape a
phrase speaks of; and for captions of whole scenes a head that names every colour-shape pair in it. The heads and the image
encoder are thrown away afterwards. Held-out pairs never occur.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from digseg_nodes.core.latent_space import PROMPT_TOKENS
from train.demo.runtime import Clock, train_stage
from train.demo.scene_cache import SceneCache
from train.demo.world import COLOURS, HELD_OUT, PAIRS, SEEN, SHAPES, DemoWorld, phrase
from train.networks.tokenizer import tokenize

CROP = 32
NOTHING = 8  # class of a head when the phrase names no colour or no shape
CONFIG = {
    "vocab_size": 49408,
    "hidden_size": 48,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": PROMPT_TOKENS,
    "hidden_act": "quick_gelu",
    "projection_dim": 48,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


class ContrastiveModel(nn.Module):
    """The text encoder with the parts that only its training needs."""

    def __init__(self):
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(**CONFIG))
        width = CONFIG["hidden_size"]
        self.text_projection = nn.Linear(width, 64)
        self.colour, self.shape = nn.Linear(width, len(COLOURS) + 1), nn.Linear(width, len(SHAPES) + 1)
        self.pairs = nn.Linear(width, len(PAIRS))
        self.temperature = nn.Parameter(torch.tensor(2.3))
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 96)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * (CROP // 8) ** 2, 64))

    def states(self, ids: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Final states [N, width] of the end token and of a random padding position after it."""
        hidden = self.text(input_ids=ids).last_hidden_state  # [N, 77, width]
        end = (ids == CONFIG["eos_token_id"]).int().argmax(1)
        room = torch.rand(len(ids), generator=generator) * (PROMPT_TOKENS - end)
        row = torch.arange(len(ids))
        return hidden[row, end], hidden[row, end + room.long()]


def crops(cache: SceneCache) -> tuple[torch.Tensor, np.ndarray]:
    """Every object of the cache as uint8 [N, 32, 32, 3] and its (colour, shape) indices [N, 2]."""
    pictures, labels = [], []
    for image, objects in zip(cache.images, cache.objects, strict=True):
        picture = Image.fromarray(image)
        for thing in objects:
            pictures.append(crop(picture, thing["box"]))
            labels.append((COLOURS.index(thing["colour"]), SHAPES.index(thing["shape"])))
    return torch.from_numpy(np.stack(pictures)), np.array(labels)


def crop(picture: Image.Image, box: list[int]) -> np.ndarray:
    """The square around a box with a tenth of air, uint8 [32, 32, 3]."""
    x0, y0, x1, y1 = box
    side = 1.2 * max(x1 - x0, y1 - y0)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    window = (cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2)
    return np.asarray(picture.transform((CROP, CROP), Image.EXTENT, window, Image.BILINEAR))


class Vocabulary:
    """Token ids of phrases, each phrase tokenised once."""

    def __init__(self):
        self.rows: dict[str, torch.Tensor] = {}

    def __call__(self, texts: list[str]) -> torch.Tensor:
        new = [t for t in dict.fromkeys(texts) if t not in self.rows]
        if new:
            self.rows.update(zip(new, tokenize(new), strict=True))
        return torch.stack([self.rows[t] for t in texts])


def _phrases(rng: np.random.Generator, labels: np.ndarray) -> tuple[list[str], torch.Tensor]:
    """A phrase for each (colour, shape) and the heads' targets [N, 2]; a quarter names one attribute only."""
    texts, targets = [], []
    for c, s in labels:
        kind = rng.random()
        colour = None if kind < 0.12 else COLOURS[c]
        shape = None if 0.12 <= kind < 0.25 else SHAPES[s]
        texts.append(phrase(rng, colour, shape, variety=0.6))
        targets.append((NOTHING if colour is None else c, NOTHING if shape is None else s))
    return texts, torch.tensor(targets)


def contrastive_loss(text: torch.Tensor, image: torch.Tensor, matches: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy where every pair with ``matches[i, j]`` counts as positive, in equal parts."""
    logits = F.normalize(text, dim=1) @ F.normalize(image, dim=1).T * temperature.exp().clamp(max=50)
    target = matches.float()
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


def _matches(targets: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[i, j]: does what phrase i names fit object j?"""
    fits = (targets[:, None] == labels[None]) | (targets[:, None] == NOTHING)
    return fits.all(2)


def _pair_loss(logits: torch.Tensor, objects: list[list[dict]]) -> torch.Tensor:
    present = torch.zeros_like(logits)
    for row, things in enumerate(objects):
        for thing in things:
            present[row, PAIRS.index((thing["colour"], thing["shape"]))] = 1
    seen = torch.tensor([p not in HELD_OUT for p in PAIRS])
    return F.binary_cross_entropy_with_logits(logits[:, seen], present[:, seen], pos_weight=torch.tensor(8.0))


def train(cache: SceneCache, folder: Path, *, seconds: float | None, steps: int | None = None, seed: int = 0, size: int = 96):
    """Train to the end of the budget (resuming); returns (averaged CLIPTextModel, figures)."""
    torch.manual_seed(seed)
    model, vocabulary = ContrastiveModel(), Vocabulary()
    pictures, labels = crops(cache)

    def loss_of(generator: torch.Generator, progress: float) -> tuple[torch.Tensor, str]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        pick = rng.integers(len(pictures), size=size)
        texts, targets = _phrases(rng, labels[pick])
        scenes = rng.integers(len(cache), size=size // 3)
        ids = vocabulary(texts + [cache.captions[i] for i in scenes])
        images = pictures[torch.from_numpy(pick)].permute(0, 3, 1, 2).float() / 127.5 - 1  # NHWC -> NCHW
        seen = model.image(images + 0.05 * torch.randn(images.shape, generator=generator))
        matches = _matches(targets, torch.from_numpy(labels[pick]))
        parts = torch.zeros(3)
        for state in model.states(ids, generator):
            words, captions = state[:size], state[size:]
            heads = F.cross_entropy(model.colour(words), targets[:, 0]) + F.cross_entropy(model.shape(words), targets[:, 1])
            contrast = contrastive_loss(model.text_projection(words), seen, matches, model.temperature)
            scene = _pair_loss(model.pairs(captions), [cache.objects[i] for i in scenes])
            parts = parts + torch.stack([contrast, heads, scene])
        text = "contrast {:.3f} heads {:.3f} scene {:.3f}".format(*(parts / 2).tolist())
        return parts.sum(), text

    ema = train_stage("text", folder, Clock(seconds, steps), model, loss_of, peak=2e-3, decay=0.99, seed=seed)
    return ema.module.text, evaluate(ema.module, vocabulary)


@torch.no_grad()
def evaluate(model: ContrastiveModel, vocabulary: Vocabulary, scenes: int = 150) -> dict[str, float]:
    """Accuracies in [0, 1]: the heads on phrases, and naming an unseen crop among the 64 pairs; cosines between phrases."""
    rng, generator = np.random.default_rng(5), torch.Generator().manual_seed(5)
    figures = {}
    for name, pairs in (("seen", SEEN), ("held_out", HELD_OUT)):
        labels = np.array([(COLOURS.index(c), SHAPES.index(s)) for c, s in pairs for _ in range(8)])
        ids = vocabulary([phrase(rng, COLOURS[c], SHAPES[s]) for c, s in labels])
        _, state = model.states(ids, generator)
        right = [(h(state).argmax(1).numpy() == labels[:, k]).mean() for k, h in enumerate((model.colour, model.shape))]
        figures |= {f"{name}_colour": float(right[0]), f"{name}_shape": float(right[1])}
    words = model.states(vocabulary([f"{c} {s}" for c, s in PAIRS]), generator)[0]
    embedded = F.normalize(model.text_projection(words), dim=1)
    hits: dict[bool, list[bool]] = {False: [], True: []}
    world = DemoWorld(scenes, 3, "val")
    for scene in (world.sample(i) for i in range(scenes)):
        for thing in scene.objects:
            ys, xs = np.nonzero(thing.mask)
            part = crop(Image.fromarray(scene.image), [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            image = torch.from_numpy(part.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            best = int((F.normalize(model.image(image), dim=1) @ embedded.T).argmax())
            hits[thing.held_out].append(PAIRS[best] == (thing.colour, thing.shape))
    figures |= {"crop_named_seen": float(np.mean(hits[False])), "crop_named_held_out": float(np.mean(hits[True]))}
    centred = F.normalize(words - words.mean(0), dim=1).reshape(8, 8, -1)  # [colour, shape, width]
    others = ~torch.eye(8).bool()
    figures["cosine_same_colour"] = float(torch.einsum("ijw,ikw->ijk", centred, centred)[:, others].mean())
    figures["cosine_same_shape"] = float(torch.einsum("ijw,kjw->jik", centred, centred)[:, others].mean())
    return figures
