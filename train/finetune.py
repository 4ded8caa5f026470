"""Fine-tune a text-to-image base into a DiGSeg checkpoint.

python train/finetune.py --config FILE [key=value ...]

Start the same command again to continue a stopped run. `accelerate launch train/finetune.py ...` uses several GPUs.
"""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.settings.command import run


def finetune(path: Path, overrides: list[str]) -> None:
    """Train as the configuration file and the overrides say."""
    from train.settings.train_config import load_config

    config = load_config(path, overrides)
    from train.learning.forecast import memory_errors
    from train.learning.loop import Trainer
    from train.learning.run_lock import sole_training
    from train.settings.folders import make_folder

    make_folder(config.output, "output")
    make_folder(config.cache, "cache")
    first_process = os.environ.get("RANK", "0") == "0"
    with sole_training(config.output) if first_process else nullcontext(), memory_errors():
        Trainer(config).run()


def main(line: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see train/configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a setting of the file, e.g. steps=1000")
    arguments = parser.parse_args(line)
    run(parser.prog, lambda: finetune(arguments.config, arguments.overrides), arguments)


if __name__ == "__main__":
    main()
