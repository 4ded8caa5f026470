"""Score a DiGSeg checkpoint on a data set.

python train/evaluate.py --checkpoint FILE --data FILE --report OUT.json

Several --steps and --ensemble values are scored in one go; pictures of the worst and best prompts lie beside the report.
`accelerate launch train/evaluate.py ...` shares the images among several GPUs.
"""

import argparse
import heapq
import json
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from digseg_nodes.core.files import write_text
from train.data.base import ABSENT_GROUPS
from train.settings.command import run
from train.settings.folders import make_place
from train.settings.inference_options import add_inference_options, check_inference_options, decoder_of

EXTREMES = 12


@dataclass
class Run:
    """One (steps, ensemble, mirror) of an evaluation: its records so far, its extreme results, the seconds it took.

    calls: of the U-Net for one mask of an untiled image.
    """

    steps: int
    ensemble: int
    calls: int
    mirror: bool = False
    records: list = field(default_factory=list)
    worst: list = field(default_factory=list)
    best: list = field(default_factory=list)
    seconds: float = 0.0
    closed: Any = None

    def add(self, results: list) -> None:
        """Keep the records of all results and the pictures of the lowest and highest IoU."""
        self.records += [result.record for result in results]
        present = [result for result in results if result.record.group not in ABSENT_GROUPS]
        self._keep_extremes(self.worst + results, self.best + present)

    def _keep_extremes(self, low: list, high: list) -> None:
        """The results of lowest and of highest IoU; equal ones in the order of the images, however these were shared."""
        self.worst = heapq.nsmallest(EXTREMES, low, key=lambda result: (result.record.iou, result.record.image))
        self.best = heapq.nsmallest(EXTREMES, high, key=lambda result: (-result.record.iou, result.record.image))

    def gather(self, accelerator) -> None:
        """Bring together what the processes found."""
        from accelerate.utils import gather_object

        self.records = sorted(gather_object(self.records), key=lambda record: record.image)
        self._keep_extremes(gather_object(self.worst), gather_object(self.best))
        if self.closed is not None:
            self.closed.confusion = accelerator.reduce(self.closed.confusion.to(accelerator.device), "sum").cpu()

    def report(self, with_records: bool) -> dict:
        """Everything about this run as JSON values."""
        from train.scoring.scores import as_json, summarise, threshold_sweep

        values = {"steps": self.steps, "ensemble": self.ensemble, "mirror": self.mirror, "unet_calls": self.calls}
        values |= {"seconds": round(self.seconds, 2), **summarise(self.records), "sweep": threshold_sweep(self.records)}
        if self.closed is not None:
            values["closed"] = self.closed.summary()
        return {**values, "records": [as_json(record) for record in self.records]} if with_records else values


def evaluate(arguments: argparse.Namespace) -> None:
    """Load, predict, score, write."""
    from accelerate import Accelerator

    from train.data.build import open_split
    from train.data.config import load_data
    from train.networks.engine import open_segmenter
    from train.scoring.report import write_evaluation

    check_inference_options(arguments)
    make_place(arguments.report, "--report")
    accelerator = Accelerator(cpu=arguments.cpu)
    files = (arguments.checkpoint, arguments.components, arguments.lora)
    engine = open_segmenter(*files, accelerator.device, arguments.batch_size).engine
    threshold = engine.config.threshold if arguments.threshold is None else arguments.threshold
    arguments.decoder = decoder_of(engine, arguments.decoder)
    runs = planned_runs(engine.config, arguments)
    sources = [source for source, _ in open_split(load_data(arguments.data), arguments.split)]
    score_runs(runs, sources, engine, threshold, arguments, accelerator)
    if not accelerator.is_main_process:
        return
    report = {"checkpoint": arguments.checkpoint.name, "data": arguments.data.name, "split": arguments.split}
    report |= {"images": len({record.image for record in runs[0].records}), "threshold": threshold}
    report["decoder"] = arguments.decoder
    report["runs"] = [one.report(arguments.records) for one in runs]
    write_text(arguments.report, json.dumps(report, indent=1) + "\n")
    pictures = {f"{one.steps} steps x {one.ensemble}": save_extremes(arguments.report, one, threshold) for one in runs}
    write_evaluation(arguments.report.with_suffix(".html"), report, pictures)
    for values in report["runs"]:
        print_summary(values)
    print(f"wrote {arguments.report} and {arguments.report.with_suffix('.html')}")


def planned_runs(config, arguments: argparse.Namespace) -> list[Run]:
    """A run for every pair of --steps and --ensemble on the checkpoint of `config`."""
    from digseg_nodes.core.inference import ImageSettings, SamplerSettings, Workload

    views = ImageSettings(mirror=arguments.mirror).views
    runs = []
    for steps, ensemble in product(arguments.steps or [0], arguments.ensemble):
        settings = SamplerSettings(steps=steps, ensemble=ensemble)
        calls = Workload.of_sampling(config, 1, views, settings).samples
        runs.append(Run(steps or config.default_steps, ensemble, calls, arguments.mirror))
    return runs


def score_runs(runs: list[Run], sources: list, engine, threshold: float, arguments: argparse.Namespace, accelerator) -> None:
    """Fill every run with the records of all images of the sources, in order, whatever the number of processes."""
    from tqdm import tqdm

    from digseg_nodes.core.inference import ImageSettings, SamplerSettings, encode_prompts
    from digseg_nodes.core.prompts import Prompt
    from train.scoring.closed_set import ClosedScores
    from train.scoring.predictions import encoded_samples, predict, score_sample

    look = ImageSettings(arguments.resolution or 0, arguments.tile, arguments.mirror)
    shard = (accelerator.process_index, accelerator.num_processes)
    total = min(sum(map(len, sources)), arguments.images or sys.maxsize)
    plain = {name: source.plain_prompt(name) for source in reversed(sources) for name in source.class_names}
    names = list(dict.fromkeys(name for source in sources for name in source.class_names))
    classes = encode_prompts(engine, [Prompt(name, (plain[name],)) for name in names]) if arguments.closed else None
    for one in runs:
        one.closed = ClosedScores(names) if arguments.closed else None
    stream = encoded_samples(sources, engine, look, arguments.images, shard)
    for encoded in tqdm(stream, total=-(-total // shard[1]), desc="images", disable=not accelerator.is_main_process):
        for one in runs:
            settings = SamplerSettings(arguments.seed, one.steps, one.ensemble)
            started = time.perf_counter()
            soft = predict(engine, encoded.image, encoded.prompts, settings, arguments.decoder)
            one.seconds += time.perf_counter() - started
            one.add(score_sample(encoded.number, encoded.sample, soft, threshold))
            if one.closed is not None:
                soft = predict(engine, encoded.image, classes, settings, arguments.decoder)
                one.closed.add(encoded.sample, soft, threshold)
    for one in runs:
        one.gather(accelerator)


def save_extremes(report: Path, one: Run, threshold: float) -> list[Path]:
    """Picture grids of the prompts with the lowest and the highest IoU; returns the files."""
    from train.scoring.grids import save_grid

    paths = [report.with_name(f"{report.stem}-{one.steps}x{one.ensemble}-{which}.png") for which in ("worst", "best")]
    for path, results in zip(paths, (one.worst, one.best), strict=True):
        save_grid(path, results, threshold)
    return paths


def print_summary(values: dict) -> None:
    """One line per group."""
    print(f"{values['steps']} steps x {values['ensemble']}: mIoU {values['miou']}, {values['seconds']} s")
    if "closed" in values:
        closed = values["closed"]
        print(f"  closed label set: mIoU {closed['miou']}, pixel accuracy {closed['pixel_accuracy']}")
    for group, scores in values["groups"].items():
        print(f"  {group:14}" + "  ".join(f"{key} {value}" for key, value in scores.items()))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data YAML, see train/configs/data/")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    add_inference_options(parser, several=True)
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--closed", action="store_true", help="also ask for every class and take the best per pixel")
    parser.add_argument("--images", type=int, help="stop after this many images")
    parser.add_argument("--batch-size", type=int, default=32, help="masks per U-Net call")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--records", action="store_true", help="put every prompt's score into the report")
    return parser


def main(line: list[str] | None = None) -> None:
    """Parse the command line and evaluate."""
    parser = make_parser()
    arguments = parser.parse_args(line)
    run(parser.prog, lambda: evaluate(arguments), arguments)


if __name__ == "__main__":
    main()
