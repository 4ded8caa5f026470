"""Score a DiGSeg checkpoint on a data set.

python train/evaluate.py --checkpoint FILE --data FILE --report OUT.json

Several --steps and --ensemble values are scored in turn; pictures of the worst and best prompts lie beside the report.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.command import run  # noqa: E402


def evaluate(arguments: argparse.Namespace) -> None:
    """Load, predict, score, write."""
    from train.data.build import open_split
    from train.data.config import load_data
    from train.model import load_networks
    from train.validate import asks

    networks = load_networks(arguments.checkpoint, arguments.components)
    networks.to(arguments.device).eval()
    config = networks.config
    sources = [source for source, _ in open_split(load_data(arguments.data), arguments.split)]
    resolution = arguments.resolution or config.resolution
    everything = list(asks(sources, networks, resolution, arguments.images))
    report = {
        "checkpoint": arguments.checkpoint.name,
        "data": arguments.data.name,
        "split": arguments.split,
        "images": len({ask.image for ask in everything}),
        "threshold": arguments.threshold or config.threshold,
        "runs": [],
    }
    for steps, ensemble in product(arguments.steps or [config.default_steps], arguments.ensemble):
        report["runs"].append(score_run(everything, networks, steps, ensemble, report["threshold"], arguments))
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {arguments.report}")


def score_run(everything: list, networks, steps: int, ensemble: int, threshold: float, arguments) -> dict:
    """Scores of one (steps, ensemble)."""
    from tqdm import tqdm

    from train.scores import as_json, summarise, threshold_sweep
    from train.validate import Sampling, answer, score_all

    sampling = Sampling(steps, ensemble, networks.config.initial_noise, arguments.seed, arguments.batch_size)
    started = time.perf_counter()
    stream = tqdm(answer(everything, networks, sampling), total=len(everything), desc=f"{steps} steps x {ensemble}")
    results = list(score_all(stream, threshold))
    seconds = time.perf_counter() - started
    records = [record for _, _, record in results]
    save_extremes(arguments.report.with_suffix(""), results, f"{steps}x{ensemble}", threshold)
    result = {"steps": steps, "ensemble": ensemble, "unet_calls": steps * ensemble, "seconds": round(seconds, 2)}
    result |= {**summarise(records), "sweep": threshold_sweep(records)}
    print_summary(result)
    return {**result, "records": [as_json(record) for record in records]} if arguments.records else result


def save_extremes(stem: Path, results: list, name: str, threshold: float, count: int = 12) -> None:
    """Picture grids of the prompts with the lowest and the highest IoU."""
    from train.pictures import save_grid

    ranked = sorted(results, key=lambda result: result[2].iou)
    for which, chosen in (("worst", ranked[:count]), ("best", ranked[-count:][::-1])):
        rows = [(ask, soft.numpy(), record) for ask, soft, record in chosen]
        save_grid(stem.with_name(f"{stem.name}-{name}-{which}.png"), rows, threshold)


def print_summary(result: dict) -> None:
    """One line per group."""
    print(f"{result['steps']} steps x {result['ensemble']}: mIoU {result['miou']}, {result['seconds']} s")
    for group, scores in result["groups"].items():
        print(f"  {group:14}" + "  ".join(f"{key} {value}" for key, value in scores.items()))


def main() -> None:
    """Parse the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="DiGSeg checkpoint, file or diffusers folder")
    parser.add_argument("--data", type=Path, required=True, help="data YAML, see train/configs/data/")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--components", type=Path, help="checkpoint with VAE and text encoder, for a U-Net-only file")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--images", type=int, help="stop after this many images")
    parser.add_argument("--steps", type=int, nargs="+", help="DDIM steps, default: the checkpoint's")
    parser.add_argument("--ensemble", type=int, nargs="+", default=[1], help="noises per mask, default 1")
    parser.add_argument("--threshold", type=float, help="tau in (0, 1), default: the checkpoint's")
    parser.add_argument("--resolution", type=int, help="longest side in pixels, default: the checkpoint's")
    parser.add_argument("--batch-size", type=int, default=32, help="masks per U-Net call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None, help="torch device, default: a GPU where there is one")
    parser.add_argument("--records", action="store_true", help="put every prompt's score into the report")
    arguments = parser.parse_args()
    run(parser.prog, lambda: evaluate(arguments))


if __name__ == "__main__":
    main()
