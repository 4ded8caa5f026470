"""Train the demo stack from nothing: scenes -> text encoder -> VAE -> latents -> text-to-image base -> one exported file.

    python train/demo/make_stack.py --out runs/demo-stack

Takes about an hour and a half on two CPU cores with the committed configuration (train/configs/demo/stack.yaml). Every training
stage saves its state once a minute: after an interruption the same command goes on where it stopped; a finished stage is skipped.
The DiGSeg checkpoints then come from ``train/finetune.py`` with train/configs/demo/end_to_end.yaml and diffusion.yaml.
``--stage`` runs one stage alone (the stages before it must be finished).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import yaml  # noqa: E402

from train.demo import vae  # noqa: E402
from train.demo.scene_cache import SceneCache, render  # noqa: E402

DEFAULT_CONFIG = ROOT / "train/configs/demo/stack.yaml"


def scenes(out: Path, config: dict) -> None:
    c = config["scenes"]
    render(out / "scenes", c["count"], c["seed"], workers=c["workers"])


def run_vae(out: Path, config: dict) -> None:
    c = config["vae"]
    model = vae.train(out, seconds=c.get("seconds"), steps=c.get("steps"), seed=config["seed"], workers=c["workers"])
    model.save_pretrained(out / "vae")
    _report(out, "vae", vae.evaluate(model, SceneCache(out / "scenes")))


def run_text(out: Path, config: dict) -> None:
    from train.demo import text_encoder

    c = config["text"]
    model, figures = text_encoder.train(
        SceneCache(out / "scenes"), out, seconds=c.get("seconds"), steps=c.get("steps"), seed=config["seed"]
    )
    model.save_pretrained(out / "text_encoder")
    _report(out, "text", figures)


def run_latents(out: Path, config: dict) -> None:
    from train.demo import base_model

    masks = base_model.encode_scenes(out, ROOT / config["cache"], config["scenes"], config["latents"]["scenes"])
    _report(out, "latents", {"scenes": config["latents"]["scenes"], "masks": masks})


def run_base(out: Path, config: dict) -> None:
    from train.demo import base_model

    c = config["base"]
    budget = {"seconds": c.get("seconds"), "steps": c.get("steps")}
    unet = base_model.train(out, ROOT / config["cache"], config["scenes"], c["unet"], seed=config["seed"], **budget)
    unet.save_pretrained(out / "unet")


def run_export(out: Path, config: dict) -> None:
    from train.demo import base_model

    base_model.sample_sheet(out, out / "samples.png")
    base_model.export(out, ROOT / config["export"])


def _report(out: Path, stage: str, figures: dict) -> None:
    path = out / f"{stage}.json"
    path.write_text(json.dumps(figures, indent=1))
    print(stage, figures, flush=True)


STAGES = {
    "scenes": scenes,
    "text": run_text,
    "vae": run_vae,
    "latents": run_latents,
    "base": run_base,
    "export": run_export,
}
DONE = {
    "scenes": "scenes/texts.json",
    "text": "text.json",
    "vae": "vae.json",
    "latents": "latents.json",
    "base": "unet/config.json",
}


def run_stage(stage: str, out: Path, config: dict) -> None:
    """Run one stage unless its result is there already."""
    torch.set_num_threads(1)
    if stage in DONE and (out / DONE[stage]).exists():
        print(f"{stage}: finished before, kept", flush=True)
        return
    started = time.monotonic()
    STAGES[stage](out, config)
    print(f"{stage}: {time.monotonic() - started:.0f} s", flush=True)


def run_all(out: Path, config: dict) -> None:
    """All stages in order."""
    for stage in STAGES:
        run_stage(stage, out, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/demo-stack", help="run folder, kept between calls")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage == "all":
        run_all(args.out, config)
    else:
        run_stage(args.stage, args.out, config)


if __name__ == "__main__":
    main()
