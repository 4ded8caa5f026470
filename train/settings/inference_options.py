"""The options of inference that evaluate.py and predict.py share, and their ranges."""

import argparse
from pathlib import Path

from digseg_nodes.core.decoding import DECODERS, chosen_decoder
from digseg_nodes.core.engine import Engine
from digseg_nodes.core.inference import RESOLUTIONS, SMALLEST_TILE
from train.settings.yaml_config import ConfigError

MOST_STEPS, MOST_NOISES, SEEDS = 1000, 64, 2**64


def add_inference_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Which checkpoint, and how it is asked. several: --steps and --ensemble take more than one value."""
    many = {"nargs": "+"} if several else {}
    parser.add_argument("--checkpoint", type=Path, required=True, help="DiGSeg checkpoint, file or diffusers folder")
    parser.add_argument("--components", type=Path, help="checkpoint with VAE and text encoder, for a U-Net-only file")
    parser.add_argument("--lora", type=Path, help="LoRA file to add to the checkpoint")
    parser.add_argument("--steps", type=int, **many, help="DDIM steps (1 to 1000), default: the checkpoint's")
    parser.add_argument(
        "--ensemble", type=int, **many, default=[1] if several else 1, help="noises per mask (1 to 64), default 1"
    )
    parser.add_argument("--mirror", action="store_true", help="average with the masks of the mirrored image: twice the work")
    parser.add_argument("--tile", type=int, default=0, help="side of overlapping tiles in image pixels, 0 for the whole image")
    parser.add_argument("--threshold", type=float, help="tau in (0, 1), default: the checkpoint's")
    parser.add_argument("--resolution", type=int, help="longest side in pixels (32 to 4096), default: the checkpoint's")
    text = "what turns mask latents into masks; auto: guided where the checkpoint has a mask decoder, else its VAE"
    parser.add_argument("--decoder", choices=DECODERS, default="auto", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the noise, 0 to 2^64 - 1")


def check_inference_options(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for a number out of its range, before anything is loaded. 0 steps or pixels: the checkpoint's."""
    low, high = RESOLUTIONS
    for name, value, fits, range_ in (
        *(("--steps", value, 0 <= value <= MOST_STEPS, f"1 to {MOST_STEPS}") for value in _values(arguments.steps)),
        *(("--ensemble", value, 1 <= value <= MOST_NOISES, f"1 to {MOST_NOISES}") for value in _values(arguments.ensemble)),
        *(("--threshold", value, 0 < value < 1, "above 0 and below 1") for value in _values(arguments.threshold)),
        *(("--resolution", v, v == 0 or low <= v <= high, f"{low} to {high} pixels") for v in _values(arguments.resolution)),
        (
            "--tile",
            arguments.tile,
            arguments.tile == 0 or arguments.tile >= SMALLEST_TILE,
            f"{SMALLEST_TILE} pixels or more",
        ),
        ("--seed", arguments.seed, 0 <= arguments.seed < SEEDS, "0 to 2^64 - 1"),
    ):
        if not fits:
            raise ConfigError(f"{name} is {value}; use {range_}.")


def decoder_of(engine: Engine, decoder: str) -> str:
    """`vae` or `guided` for what --decoder says; ConfigError for guided of a checkpoint without a mask decoder."""
    if decoder == "guided" and engine.mask_decoder is None:
        raise ConfigError(
            "--decoder is guided, but the checkpoint has no mask decoder. Leave the option out, or train one for it "
            "(python train/finetune_decoder.py)."
        )
    return chosen_decoder(decoder, engine.mask_decoder)


def _values(given) -> list:
    """An option's values: none, one or several."""
    return [] if given is None else given if isinstance(given, list) else [given]
