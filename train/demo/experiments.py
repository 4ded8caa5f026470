"""The command of train/experiments/run.py, under the path it had before: see there."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from train.experiments.run import main

if __name__ == "__main__":
    main()
