"""The experiments behind docs/experiments.md: each command runs one family, keeps every finished run, goes on where it stopped.

python train/experiments/run.py NAME [--seeds 0 1 2] [--steps N] [--only TEXT ...]
python train/experiments/run.py table

Runs are calls of train/finetune.py and train/evaluate.py with a few settings replaced; results are JSON files in --output.
`table` writes the tables of docs/experiments.md and the curves in docs/img/experiments/ from those files.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])
os.environ.setdefault("OMP_NUM_THREADS", "1")

from filelock import FileLock, Timeout

from train.demo.world import ASPECTS
from train.experiments import registry
from train.experiments.domains import TEST, VALIDATION, WORLDS, write_dataset
from train.experiments.registry import Variant, named, on_images
from train.experiments.trials import (
    BASE,
    DIFFUSION,
    MODELS,
    ROOT,
    AskedWhole,
    Decoded,
    OtherRunError,
    Probe,
    StoppedError,
    Trial,
    Workspace,
)

Run = Trial | Probe | AskedWhole | Decoded
"""What a family is made of."""
SCENES = {"type": "demo", "split": "train", "scenes": 6000, "seed": 1000}
VALIDATION_SCENES = {"type": "demo", "split": "val", "scenes": 48, "seed": 0}
TEST_SCENES = {"type": "demo", "split": "test", "scenes": 200, "seed": 0}
TRAINING_IMAGES = 200
SCENES_OF_MASK_LOSS = 1000


@dataclass(frozen=True)
class Options:
    """What the command line decides."""

    seeds: tuple[int, ...]
    steps: int
    images: int
    model: Path
    output: Path


def demo_data(limit: int = 4400) -> dict:
    """The demo world: the first `limit` training scenes."""
    parts = {"validation": VALIDATION_SCENES, "test": TEST_SCENES}
    return {"name": "demo", "train": {**SCENES, "limit": limit}, **parts}


def demo_trials(options: Options, variants: Sequence[Variant], limit: int = 4400) -> list[Trial]:
    """A run on the demo world for every variant and seed."""
    return [demo_trial(options, variant, seed, limit) for seed in options.seeds for variant in variants]


def demo_trial(options: Options, variant: Variant, seed: int, limit: int) -> Trial:
    """A run on the demo world; diffusion runs are scored with 4 steps."""
    settings = {"steps": options.steps, "seed": seed, "validation.every": 10**6, **variant.settings}
    steps = ("--steps", "4") if settings.get("objective") == "diffusion" else ()
    return Trial(named(variant.stem, seed), settings, demo_data(limit), options.images, steps)


def pretrained(options: Options) -> list[Trial]:
    """The paper's thesis: the generative base against random weights, equal steps."""
    return demo_trials(options, registry.PRETRAINED)


def noise(options: Options) -> list[Trial]:
    """Training noise, prediction type and absent prompts, each changed alone."""
    return demo_trials(options, registry.NOISE)


def absent(options: Options) -> list[Trial]:
    """With and without prompts for what is not in the picture."""
    return demo_trials(options, registry.ABSENT)


def target(options: Options) -> list[Trial]:
    """The mask alone or painted on the photo as what is learnt; both on the same 300 scenes."""
    return demo_trials(options, registry.TARGET, 300)


def domain(options: Options) -> list[Trial | Probe]:
    """From the demo DiGSeg to other worlds: before, fine-tuned, with a LoRA, and from random weights."""
    runs: list[Trial | Probe] = []
    for world in WORLDS:
        folder = data_folder(options, world)
        runs.append(before(options, world, folder))
        for images in registry.DOMAIN_IMAGES:
            for how in registry.DOMAIN:
                runs += [domain_trial(options, world, folder, how, images, seed) for seed in options.seeds]
    return runs


def data_folder(options: Options, world: str) -> Path:
    """Where the images of a world lie."""
    return options.output / "data" / world


def write_world(options: Options, name: str) -> None:
    """Draw the images that the run `name` needs, unless they are there."""
    for world in WORLDS:
        if name.startswith(f"{world}-"):
            other = name.startswith(registry.not_square(world))
            folder = data_folder(options, registry.not_square(world) if other else world)
            aspects = ASPECTS[1:] if other else ASPECTS[:1]
            if not (folder / "data.yaml").is_file():
                write_dataset(world, folder, TRAINING_IMAGES + TEST + VALIDATION, aspects=aspects)


def domain_data(world: str, folder: Path, images: int | None = None) -> dict:
    """The data YAML of a written world with the first `images` training images."""
    _, classes = WORLDS[world]
    parts = {part: {"images": str(folder / part / "images"), "masks": str(folder / part / "masks")} for part in PARTS}
    parts["train"]["limit"] = images
    return {"name": world, "common": {"type": "folder", "classes": classes, "absent_per_image": 2}, **parts}


PARTS = ("train", "validation", "test")


def domain_trial(options: Options, world: str, folder: Path, how: Variant, images: int, seed: int) -> Trial:
    """One fine-tuning on `images` images of a world."""
    settings = {"base": str(options.model), "cache": str(options.output / "cache"), "steps": options.steps, "seed": seed}
    settings |= {"validation.every": max(1, options.steps // 4), **how.settings}
    return Trial(named(on_images(world, how, images), seed), settings, domain_data(world, folder, images), options.images)


def before(options: Options, world: str, folder: Path) -> Probe:
    """The demo model on a world it never saw."""
    arguments = ("--images", options.images)
    return Probe(registry.before(world), "train/evaluate.py", arguments, options.model, domain_data(world, folder))


def shapes(options: Options) -> list[Trial | AskedWhole]:
    """From the demo DiGSeg to pictures that are not square: trained in their own shape, or padded to squares."""
    runs: list[Trial | AskedWhole] = []
    for world, seed in product(WORLDS, options.seeds):
        folder = data_folder(options, registry.not_square(world))
        for how in registry.PHOTO_SHAPES:
            one = domain_trial(options, world, folder, how, TRAINING_IMAGES, seed)
            runs.append(replace(one, name=named(registry.in_shape(world, how), seed)))
        runs.append(AskedWhole(named(registry.in_shape(world, registry.ASKED_WHOLE), seed), runs[-1]))
    return runs


def mask_loss(options: Options) -> list[Trial | Decoded]:
    """The loss on the decoder's mask against the latent's, equal steps, with both decoders: the two worlds, and the demo's; on
    the fields also what may help small things."""
    runs: list[Trial | Decoded] = []
    for seed, how, world in product(options.seeds, (*registry.LOSS, *registry.SMALL_THINGS), (*WORLDS, "demo")):
        if how in registry.SMALL_THINGS and world != registry.SMALL_THINGS_WORLD:
            continue
        stem = registry.by_loss(world, how)
        if world == "demo":
            one = demo_trial(options, how, seed, SCENES_OF_MASK_LOSS)
        else:
            one = domain_trial(options, world, data_folder(options, world), how, TRAINING_IMAGES, seed)
        one = replace(one, name=named(stem, seed))
        decoder = registry.VAE_DECODER
        runs += [one, Decoded(named(registry.decoded(stem, decoder), seed), one, decoder)]
    return runs


def vocabulary(options: Options) -> list[Probe]:
    """Held-out pairs, synonyms and phrases never seen; the threshold by size of the object."""
    arguments = ("vocabulary", "--images", options.images)
    return [Probe("vocabulary", "train/experiments/probes.py", arguments, options.model)]


def sampling(options: Options) -> list[Probe]:
    """Steps, ensemble, latent and pixel average of the paper's objective, and the threshold."""
    arguments = ("sampling", "--images", options.images, "--components", BASE)
    return [Probe("sampling", "train/experiments/probes.py", arguments, DIFFUSION)]


def objectives(options: Options) -> list[Probe]:
    """One end-to-end step against DDIM of the paper's objective, on the same scenes."""
    scenes = {"name": "demo", "test": TEST_SCENES}
    common = ("--images", options.images)
    return [
        Probe("one-step", "train/evaluate.py", common, options.model, scenes),
        Probe(
            "ddim",
            "train/evaluate.py",
            (*common, "--components", BASE, "--steps", 1, 4, 10),
            DIFFUSION,
            scenes,
        ),
    ]


def specialist(options: Options) -> list[Probe]:
    """A plain segmentation U-Net of the same size with colour and shape as input, trained on the same scenes."""
    script, arguments = "train/experiments/specialist.py", ("--steps", options.steps, "--images", options.images)
    return [Probe(named(registry.SPECIALIST, seed), script, (*arguments, "--seed", seed), BASE) for seed in options.seeds]


def longer(options: Options) -> list[Trial | Probe]:
    """The paper's thesis and the specialist once more, five times as long."""
    return [replace(one, name=registry.longer(one.name)) for one in (*pretrained(options), *specialist(options))]


FAMILIES: dict[str, tuple[Callable[[Options], list], int, int]] = {
    "domain": (domain, 200, 20),
    "shapes": (shapes, 300, 30),
    "pretrained": (pretrained, 300, 12),
    "mask-loss": (mask_loss, 300, 30),
    "vocabulary": (vocabulary, 0, 20),
    "sampling": (sampling, 0, 6),
    "objectives": (objectives, 0, 12),
    "noise": (noise, 300, 12),
    "absent": (absent, 300, 12),
    "target": (target, 300, 12),
    "specialist": (specialist, 300, 12),
    "longer": (longer, 1500, 40),
}
"""The runs of a family, its steps and the test images they are scored on."""


def main() -> None:
    """Parse the command line and run a family, or write the tables."""
    arguments = make_parser().parse_args()
    for name in ("model", "output", "docs"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    if arguments.family == "table":
        from train.experiments.tables import write_tables

        write_tables(arguments.output, arguments.docs)
        return
    os.chdir(ROOT)  # the configurations name files from there
    family, steps, images = FAMILIES[arguments.family]
    steps, images = arguments.steps or steps, arguments.images or images
    options = Options(tuple(arguments.seeds), steps, images, arguments.model, arguments.output)
    wanted = [one for one in family(options) if all(text in one.name for text in arguments.only)]
    run_all(wanted, options, Workspace(options.output, tuple(arguments.set)), arguments.minutes)


def run_all(wanted: list[Run], options: Options, workspace: Workspace, minutes: float | None) -> None:
    """Do what is not done yet; several processes may share the work, each run is done by one."""
    started = time.monotonic()
    workspace.folder.mkdir(parents=True, exist_ok=True)
    for one in wanted:
        if minutes and time.monotonic() - started > 60 * minutes:
            print(f"{one.name} and what follows is left for the next call")
            return
        try:
            with FileLock(workspace.folder / f"{one.name}.lock", timeout=0):
                with FileLock(workspace.folder / "worlds.lock"):
                    write_world(options, one.name)
                one.run(workspace)
        except Timeout:
            print(f"{one.name} is being run by another process")
            continue
        except (OtherRunError, StoppedError) as error:
            sys.exit(str(error))
        print(f"{one.name}: {workspace.result(one.name)}", flush=True)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[*FAMILIES, "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="training steps, default: the family's")
    parser.add_argument("--images", type=int, help="test images, default: the family's")
    parser.add_argument("--only", nargs="+", default=[], help="only runs whose name holds all of these texts")
    parser.add_argument("--model", type=Path, default=MODELS / "digseg-demo.safetensors", help="the DiGSeg model in question")
    parser.add_argument("--output", type=Path, default=ROOT / "output/experiments")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="where `table` writes experiments.md and img/experiments/"
    )
    parser.add_argument("--minutes", type=float, help="start no further run after this long")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="further settings of every training")
    return parser


if __name__ == "__main__":
    main()
