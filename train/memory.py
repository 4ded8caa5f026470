"""How much memory a training takes, by going through one step with tensors that have shapes but no content.

python train/memory.py --config FILE [key=value ...]     what that run will need
python train/memory.py --table                           Stable Diffusion sizes and options as a Markdown table

An estimate: what the libraries need beside the tensors (cuDNN's workspace, CUDA's context, fragmentation) is left out.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from digseg_nodes.core.bare_unet import STABLE_DIFFUSION_UNETS, bare_scheduler
from digseg_nodes.core.checkpoint import CheckpointConfig
from train.data.config import DataConfig
from train.learning.forecast import GIB, Need, estimate, moments, outlines
from train.networks.bases import open_base
from train.networks.single_file import TEXT_ENCODERS, VAE
from train.settings.command import run
from train.settings.train_config import TrainConfig, load_config


def stable_diffusion(width: int = 768) -> CheckpointConfig:
    """The configs of Stable Diffusion 1.x (text of width 768) or 2.x (1024) as a DiGSeg model."""
    return CheckpointConfig(
        unet=STABLE_DIFFUSION_UNETS[width], vae=VAE, text_encoder=TEXT_ENCODERS[width], scheduler=bare_scheduler(width, {})
    )


KINDS = {"full": {}, "LoRA, rank 16": {"lora": {"rank": 16}}}
SIZES = ((256, 8, False), (512, 1, False), (512, 8, True))
"""Pixels, batch size, gradient checkpointing."""
GPUS = (8, 12, 16, 24, 32, 40, 48, 80)
HEADROOM = 1.1
"""Room for what the estimate does not see, besides one GiB."""


def table_row(kind: str, pixels: int, batch: int, checkpointing: bool) -> str:
    """One line of the table: SD 1.x, one U-Net call, bf16, with AdamW and averages and without averages with 8-bit Adam."""
    settings = {"base": "sd", "output": "run", "data": DataConfig(validation=[{"type": "demo"}]), "resolution": pixels}
    settings |= {"batch_size": batch, "gradient_checkpointing": checkpointing, "mixed_precision": "bf16"}
    settings |= {"validation": {"batch_size": 8}, "objective": "end_to_end", **KINDS[kind]}
    config, model = TrainConfig(**settings), stable_diffusion()
    need = estimate(config, model)
    trained = outlines(config, model).weights()
    small = replace(need, averages=0, optimizer=sum(moments(weight, "adamw_8bit") for weight in trained))
    cells = [f"{one.peak / GIB:.1f} | {smallest_gpu(one)}" for one in (need, small)]
    mark = "yes" if checkpointing else "no"
    return f"| {kind} | {pixels} | {batch} | {mark} | {' | '.join(cells)} | {need.flops / 1e12:.1f} |"


def smallest_gpu(need: Need) -> str:
    """The smallest of the usual memory sizes that a run fits into."""
    return next((f"{gpu} GB" for gpu in GPUS if need.peak * HEADROOM + GIB <= gpu * GIB), "none")


def table() -> None:
    """Print the table."""
    print("| training | px | batch | checkpointing | GiB | fits | GiB, 8-bit Adam, no averages | fits | TFLOP a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for size in SIZES:
            print(table_row(kind, *size), flush=True)


def main(line: list[str] | None = None) -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file, see train/configs/")
    parser.add_argument("--table", action="store_true", help="Stable Diffusion sizes instead")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a setting of the file")
    arguments = parser.parse_args(line)
    if arguments.table == bool(arguments.config):
        parser.error("give either --config FILE or --table")

    def of_one_run() -> None:
        config = load_config(arguments.config, arguments.overrides)
        model = open_base(config.base).config
        if config.components:
            other = open_base(config.components).config
            model = replace(model, vae=other.vae, text_encoder=other.text_encoder)
        print(estimate(config, model).describe())

    run(parser.prog, table if arguments.table else of_one_run, arguments)


if __name__ == "__main__":
    main()
