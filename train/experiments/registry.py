"""The runs of the experiments, each named once: what `run.py` does under a name, `tables.py` finds and labels by it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

DIFFUSION = {"objective": "diffusion", "noise": {"strength": 0.9, "high_share": 0.5, "high_from": 900}}


@dataclass(frozen=True)
class Variant:
    """A training in a family: the start of its runs' names, its label in tables, and the settings that are its own."""

    stem: str
    label: str
    settings: dict[str, Any] = field(default_factory=dict)


def named(stem: str, seed: int) -> str:
    """The name of the run of a variant with a seed: of its result, its folder, its rows."""
    return f"{stem}-seed{seed}"


def seeds_of(names: Iterable[str], stem: str) -> list[str]:
    """Those of `names` that are runs of a variant, by seed, whatever seeds were asked for."""
    found = ((int(match[1]), name) for name in names if (match := re.fullmatch(rf"{re.escape(stem)}-seed(\d+)", name)))
    return [name for _, name in sorted(found)]


def longer(stem: str) -> str:
    """The name of a variant in the family that trains longer."""
    return f"longer-{stem}"


def on_images(world: str, how: Variant, images: int) -> str:
    """The name of a variant fine-tuned on `images` images of a world."""
    return f"{world}-{how.stem}-{images}"


def not_square(world: str) -> str:
    """The name of a world whose pictures have every shape but squares."""
    return f"{world}-shapes"


def in_shape(world: str, how: Variant) -> str:
    """The name of a variant on the pictures of a world that are not square."""
    return f"{not_square(world)}-{how.stem}"


def by_loss(world: str, how: Variant) -> str:
    """The name of a variant of the loss on a world."""
    return f"{world}-loss-{how.stem}"


def decoded(stem: str, decoder: str) -> str:
    """The name of a variant whose finished runs are measured with another decoder."""
    return f"{stem}-by-{decoder}"


def before(world: str) -> str:
    """The name of the measurement of a model that never saw a world."""
    return f"{world}-before"


PRETRAINED = (
    Variant("end_to_end-pretrained", "end-to-end, from the base", {"objective": "end_to_end", "init": "pretrained"}),
    Variant("end_to_end-random", "end-to-end, random weights", {"objective": "end_to_end", "init": "random"}),
    Variant("diffusion-pretrained", "diffusion (4 steps), from the base", {**DIFFUSION, "init": "pretrained"}),
    Variant("diffusion-random", "diffusion (4 steps), random weights", {**DIFFUSION, "init": "random"}),
)
"""The paper's thesis: the generative base against random weights."""


def _noise(stem: str, label: str, **settings: Any) -> Variant:
    return Variant(stem, label, {**DIFFUSION, "init": "pretrained", **settings})


NOISE = (
    _noise("diffusion-pretrained", "multi-scale 0.9, annealed; v"),
    _noise("diffusion-constant", "multi-scale 0.9, not annealed; v", noise={**DIFFUSION["noise"], "annealed": False}),
    _noise("diffusion-gaussian", "Gaussian; v", noise={**DIFFUSION["noise"], "strength": 0.0}),
    _noise("diffusion-no-zero-snr", "multi-scale 0.9, annealed; v, schedule without zero terminal SNR", zero_terminal_snr=False),
    _noise(
        "diffusion-epsilon",
        "multi-scale 0.9, annealed; epsilon, schedule without zero terminal SNR",
        prediction_type="epsilon",
        zero_terminal_snr=False,
    ),
)
"""Training noise and prediction type, each changed alone."""

ABSENT = (
    Variant("end_to_end-pretrained", "a quarter of the prompts absent", {"objective": "end_to_end", "init": "pretrained"}),
    Variant("end_to_end-present", "no absent prompts", {"objective": "end_to_end", "sampling.absent": 0.0}),
)
"""With and without prompts for what is not in the picture."""

TARGET = (
    Variant("target-binary", "binary: the mask alone", {"target": "binary"}),
    Variant("target-overlay", "overlay: the mask painted on the photo", {"target": "overlay"}),
)
"""What is learnt: the mask alone, or painted on the photo."""

DOMAIN = (
    Variant("full", "full fine-tune", {"optimizer.lr": 1e-3}),
    Variant("lora", "LoRA, rank 16", {"optimizer.lr": 5e-3, "lora": {"rank": 16, "alpha": 16}}),
    Variant("random", "full, from random weights", {"optimizer.lr": 1e-3, "init": "random"}),
)
"""How the demo model is taken to another world."""
PHOTO_SHAPES = (
    Variant("own", "own: trained and asked in the photo's shape", {"photo_shape": "own"}),
    Variant("square", "square: trained and asked padded to squares", {"photo_shape": "square"}),
)
"""What becomes of photos that are not square."""
ASKED_WHOLE = Variant("square-asked-whole", "trained on squares, asked without padding (as before `photo_shape`)")
"""The square training once more, on photos as they are."""
ON_MASK = {"end_to_end": {"loss": "mask"}, "mask_decoder": {}}
LOSS = (
    Variant("latent", "of the latent; decoder trained beside it", {"end_to_end": {"loss": "latent"}, "mask_decoder": {}}),
    Variant("mask", "of the decoder's mask, with the latent's", ON_MASK),
)
"""What the U-Net learns from, where a mask decoder is trained along."""
SMALL_THINGS = (
    Variant("mask-focal", "of the mask; focal, exponent 2", ON_MASK | {"mask_decoder": {"focal": 2}}),
    Variant("mask-balanced", "of the mask; all classes equally often", ON_MASK | {"sampling.balance": 1.0}),
    Variant("mask-crops", "of the mask; cut around small things too", ON_MASK | {"augment": {"variants": 2, "crop": 0.5}}),
)
"""What may help the smallest class, on top of the loss on the mask."""
SMALL_THINGS_WORLD = "fields"
VAE_DECODER = "vae"
"""The decoder that the runs of LOSS are scored with once more."""
WORLD_NAMES = ("cells", "fields")
SMALLEST = {"cells": "debris", "fields": "building"}
"""The class of the smallest things of a world."""
DOMAIN_IMAGES = (20, 200, 50)
"""Training images of the domain runs, the most telling first."""
SPECIALIST = "specialist"
"""The plain U-Net."""
