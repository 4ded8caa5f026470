"""Score a DiGSeg checkpoint on the public data sets that are on this machine, one table for all.

python train/exam.py --checkpoint FILE --data-root FOLDER --report OUT.json

FOLDER holds the data sets as their archives unpack (ADEChallengeData2016/, VOCdevkit/, cityscapes/, coco/, Kvasir-SEG/, LoveDA/,
PhenoBench/; see train/configs/data/). Those that are not there are named and left out. The report is written after every data
set, and the same command goes on after a stop.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from digseg_nodes.core.files import write_text
from train.data.base import DataError
from train.settings.command import run
from train.settings.folders import make_place
from train.settings.inference_options import add_inference_options, check_inference_options, decoder_of
from train.settings.yaml_config import ConfigError, shortened

CONFIGS = Path(__file__).parent / "configs" / "data"
WORKS = {
    "ODISE": "Xu et al. 2023, arXiv:2303.04803; label supervision on COCO, model zoo of github.com/NVlabs/ODISE",
    "VPD": "Zhao et al. 2023, arXiv:2303.02153; trained on ADE20K, README of github.com/wl-zhao/VPD",
    "CAT-Seg": "Cho et al. 2024, arXiv:2303.11797; trained on COCO-Stuff, its best as benchmark lists give it",
    "DiGSeg": 'the paper, "Diffusion Model as a Generalist Segmentation Learner", section 4',
}
"""Published works to hold against, and where the figures come from."""


@dataclass(frozen=True)
class Exam:
    """One data set: its name in the literature, its data YAML, and the works that report on it, with their mIoU where its source
    is known."""

    name: str
    config: str
    works: dict[str, float | None]

    def reported(self) -> str:
        """The works and their figures, for a line of the table."""
        return ", ".join(name if miou is None else f"{name} {miou:.3f}" for name, miou in self.works.items())


EXAMS = (
    Exam("ADE20K-150", "ade20k", {"ODISE": 0.299, "VPD": 0.546, "CAT-Seg": 0.379, "DiGSeg": None}),
    Exam("PASCAL Context-59", "pascal_context", {"ODISE": 0.573, "CAT-Seg": 0.633, "DiGSeg": None}),
    Exam("PASCAL VOC-20", "pascal_voc", {"CAT-Seg": 0.970, "DiGSeg": None}),
    Exam("Cityscapes", "cityscapes", {"DiGSeg": None}),
    Exam("COCO-Stuff", "coco_stuff", {"DiGSeg": None}),
    Exam("Kvasir-SEG", "kvasir_seg", {"DiGSeg": None}),
    Exam("LoveDA", "loveda", {"DiGSeg": None}),
    Exam("PhenoBench", "phenobench", {"DiGSeg": None}),
)


def present(exam: Exam, root: Path) -> list | None:
    """The opened test sources of a data set; None where its folder is not there. DataError where it is and cannot be read."""
    from train.data.build import open_split
    from train.data.config import load_data

    config = load_data(CONFIGS / f"{exam.config}.yaml", root)
    if not all(source.root.is_dir() for source in config.test):
        return None
    return [source for source, _ in open_split(config, "test")]


def sit(sources: list, engine, threshold: float, arguments: argparse.Namespace, accelerator) -> dict:
    """The scores of one data set: every class asked for in every photo, and each prompt for itself."""
    from train.evaluate import planned_runs, score_runs

    runs = planned_runs(engine.config, arguments)
    score_runs(runs, sources, engine, threshold, arguments, accelerator)
    values = runs[0].report(with_records=False)
    fired = values["groups"].get("absent_random", {}).get("fired")
    return {
        "images": len({record.image for record in runs[0].records}), "classes": len(sources[0].class_names),
        "closed_miou": values["closed"]["miou"], "pixel_accuracy": values["closed"]["pixel_accuracy"],
        "miou": values["miou"], "dice": values["dice"], "fires": fired, "seconds": values["seconds"],
        "class_ious": values["closed"]["classes"],
    }  # fmt: skip


def take_exams(arguments: argparse.Namespace) -> int:
    """Run every data set that is there and print the table; returns how many cannot be read."""
    from accelerate import Accelerator

    from train.networks.engine import open_segmenter

    check_inference_options(arguments)
    check_one_way(arguments)
    if not arguments.data_root.is_dir():
        raise DataError(f"There is no folder {arguments.data_root}.")
    make_place(arguments.report, "--report")
    accelerator = Accelerator(cpu=arguments.cpu)
    files = (arguments.checkpoint, arguments.components, arguments.lora)
    engine = open_segmenter(*files, accelerator.device, arguments.batch_size).engine
    threshold = engine.config.threshold if arguments.threshold is None else arguments.threshold
    arguments.decoder = decoder_of(engine, arguments.decoder)
    report = begun(arguments, threshold)
    for exam in EXAMS:
        if exam.name in report["scores"] or (arguments.only and exam.config not in arguments.only):
            continue
        try:
            sources = present(exam, arguments.data_root)
        except DataError as error:
            report["problems"][exam.name] = str(error)
            continue
        if sources is not None:
            report["scores"][exam.name] = sit(sources, engine, threshold, arguments, accelerator)
            if accelerator.is_main_process:
                write_text(arguments.report, json.dumps(report, indent=1) + "\n")
    if accelerator.is_main_process:
        write_text(arguments.report, json.dumps(report, indent=1) + "\n")
        print("\n".join(table(report)))
    return len(report["problems"])


def check_one_way(arguments: argparse.Namespace) -> None:
    """ConfigError for several --steps or --ensemble: a report holds one score of each data set."""
    for name in ("steps", "ensemble"):
        values = getattr(arguments, name) or []
        if len(values) > 1:
            raise ConfigError(
                f"--{name} has {len(values)} values ({' '.join(map(str, values))}), and exam.py scores one. Give one, and start "
                "the command again with another --report for each of the others."
            )


def asked_for(arguments: argparse.Namespace, threshold: float) -> dict:
    """All that the scores depend on but the data, as JSON values; the files by their name and content."""
    from train.predicting.results import fingerprint

    files = {name: getattr(arguments, name) for name in ("checkpoint", "components", "lora")}
    asked = {name: path and f"{path.name} {fingerprint(path)}" for name, path in files.items()}
    names = ("decoder", "resolution", "tile", "mirror", "steps", "ensemble", "seed", "images")
    return {**asked, "threshold": threshold, **{name: getattr(arguments, name) for name in names}}


def begun(arguments: argparse.Namespace, threshold: float) -> dict:
    """The report to add to: that of the same checkpoint and settings where it is there, else an empty one."""
    asked = asked_for(arguments, threshold)
    scores = {}
    if arguments.report.is_file():
        there = _report_at(arguments.report)
        old = there.get("asked")
        if old != asked:
            raise DataError(
                f"{arguments.report} is no report of this checkpoint and these settings{_differences(old, asked)}. Name another "
                "--report, or delete it."
            )
        scores = there["scores"]
    return {"asked": asked, "decoder": arguments.decoder, "scores": scores, "problems": {}}


def _report_at(path: Path) -> dict:
    """The report that is there; empty for a file that is none."""
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return there if isinstance(there, dict) else {}


def _differences(old: object, asked: dict) -> str:
    """What a report was asked that is not asked now, in brackets; nothing where that is not known."""
    if not isinstance(old, dict):
        return ""
    named = [f"{name} was {shortened(old.get(name))}, now {value}" for name, value in asked.items() if old.get(name) != value]
    return f" ({'; '.join(named)})" if named else ""


def table(report: dict) -> list[str]:
    """The scores of all data sets as lines, what is not there, and the works to hold them against."""
    lines = [
        f"{'data set':20}{'photos':>7}{'classes':>9}{'mIoU':>8}{'pixels':>8}{'asked':>8}{'Dice':>8}{'fires':>8}  reported by"
    ]
    for exam in EXAMS:
        if exam.name in report["scores"]:
            scores = report["scores"][exam.name]
            keys = ("closed_miou", "pixel_accuracy", "miou", "dice", "fires")
            figures = "".join(f"{'-' if scores[key] is None else format(scores[key], '.3f'):>8}" for key in keys)
            lines.append(f"{exam.name:20}{scores['images']:7}{scores['classes']:9}{figures}  {exam.reported()}")
        elif exam.name in report["problems"]:
            lines.append(f"{exam.name:20}cannot be read: {report['problems'][exam.name]}")
        else:
            lines.append(f"{exam.name:20}not asked for, or not there (train/configs/data/{exam.config}.yaml says where)")
    lines += [
        "",
        f"Decoder of the masks: {report['decoder']}.",
        "mIoU: every class asked for, each pixel to the best one, background left out; pixels: share of labelled pixels that are",
        "right. asked: mIoU of the classes that are there, each for itself; fires: share of absent classes that light up 1 %.",
        "A data set the checkpoint was trained on is no open-vocabulary exam. Reported by (mIoU, where its source is known):",
        *(f"  {name}: {source}" for name, source in WORKS.items()),
    ]
    return lines


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write, and to go on from")
    add_inference_options(parser, several=True)
    parser.add_argument("--only", nargs="+", choices=[exam.config for exam in EXAMS], help="these data sets alone")
    parser.add_argument("--images", type=int, help="stop after this many images of each")
    parser.add_argument("--batch-size", type=int, default=32, help="masks per U-Net call")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.set_defaults(closed=True)
    return parser


def main(line: list[str] | None = None) -> None:
    """Parse the command line and score."""
    parser = make_parser()
    arguments = parser.parse_args(line)

    def action() -> None:
        if problems := take_exams(arguments):
            sys.exit(f"{parser.prog}: {problems} data sets cannot be read, see above")

    run(parser.prog, action, arguments)


if __name__ == "__main__":
    main()
