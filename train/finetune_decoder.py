"""Give a DiGSeg checkpoint a mask decoder that looks at the photo: masks with the photo's own edges, without the VAE.

python train/finetune_decoder.py --checkpoint FILE --data FILE [--output FOLDER] [--lora FILE] [options]

The checkpoint may be any that the nodes open. Its own predictions for the training photos are made first, then the decoder
learns to draw the true masks from them. Start the same command again to continue a stopped run. It writes digseg.safetensors into
the run folder: the checkpoint with the decoder (with --lora: the LoRA with the decoder).
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.settings.command import run
from train.settings.decoder_config import add_options, settings_from

SAVING = "Smaller: --mixed-precision bf16, fewer --photos and --masks, a smaller --crop and --batch-size."
"""What to try when a run does not fit into the memory."""


def finetune_decoder(options: dict) -> None:
    """Train as the options say."""
    settings = settings_from(options)
    from train.learning.decoder_loop import DecoderTrainer
    from train.learning.forecast import memory_errors
    from train.learning.run_lock import sole_training
    from train.settings.folders import make_folder

    make_folder(settings.run_folder, "--output")
    with sole_training(settings.run_folder), memory_errors(SAVING):
        DecoderTrainer(settings).run()


def main(line: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = vars(parser.parse_args(line))
    run(parser.prog, lambda: finetune_decoder(options))


if __name__ == "__main__":
    main()
