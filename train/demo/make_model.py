"""Repeat the recipe of the bundled demo model: trainings in a row, each from an earlier one or a mean of earlier ones.

    OMP_NUM_THREADS=1 python train/demo/make_model.py --out output/demo-model

The recipe is train/configs/demo/recipe.yaml. A finished stage is skipped and a stopped one goes on, so the same command
continues after any interruption; the result is OUT/digseg-demo.safetensors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import yaml

from digseg_nodes.core.files import write_text
from train import convert, finetune

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "train/configs/demo/recipe.yaml"
EXPORT = "digseg.safetensors"


def overrides(stage: dict, recipe: dict, out: Path) -> list[str]:
    """The `key=value` settings of a stage for train/finetune.py; writes the data YAML they name."""
    data = yaml.safe_load((ROOT / "train/configs/data/demo.yaml").read_text(encoding="utf-8"))
    data["train"] = recipe["scenes"] | {"scenes": stage["scenes"]}
    path = out / f"data-{stage['scenes']}.yaml"
    write_text(path, yaml.safe_dump(data, sort_keys=False))
    own = {key: value for key, value in stage.items() if key not in ("name", "from", "scenes")}
    if stage.get("from"):
        own["base"] = start(stage["from"], out)
    own |= {"data": path, "output": out / stage["name"], "cache": out / "cache"}
    return [f"{key}={value}" for key, value in own.items()]


def start(names: list[str], out: Path) -> Path:
    """The checkpoint a stage starts from: the export of the one named, or the mean of several, written first."""
    if len(names) == 1:
        return out / names[0] / EXPORT
    mean = out / f"mean-{'-'.join(names)}.safetensors"
    average(names, out, mean)
    return mean


def average(names: list[str], out: Path, target: Path) -> None:
    """Write the mean of the stages' U-Nets."""
    first, *others = (str(out / name / EXPORT) for name in names)
    convert.convert(convert.parse([first, str(target), "--average", *others]))


def main(line: list[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages and the result")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings every stage gets besides its own")
    arguments = parser.parse_args(line)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    for stage in recipe["stages"]:
        print(f"stage {stage['name']}", flush=True)
        finetune.main(["--config", str(ROOT / recipe["config"]), *overrides(stage, recipe, out), *arguments.set])
    average(recipe["average"], out, out / "digseg-demo.safetensors")
    print(f"wrote {out / 'digseg-demo.safetensors'}")


if __name__ == "__main__":
    main()
