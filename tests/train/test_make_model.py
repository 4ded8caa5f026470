"""The recipe of the bundled model is a command: trainings in a row and the mean of some."""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from train.demo import make_model

SMALL = [
    "resolution=64",
    "batch_size=2",
    "validation.every=100",
    "validation.images=2",
    "checkpoints.every=100",
    "optimizer.warmup_steps=1",
]


def recipe(path: Path) -> Path:
    """Two trainings from one start and their mean."""
    wanted = yaml.safe_load(make_model.RECIPE.read_text(encoding="utf-8"))
    wanted["stages"] = [
        {"name": "1", "scenes": 4, "steps": 1},
        {"name": "2", "from": ["1"], "scenes": 4, "steps": 2, "seed": 8},
        {"name": "3", "from": ["1"], "scenes": 4, "steps": 2, "seed": 9},
        {"name": "4", "from": ["2", "3"], "scenes": 4, "steps": 1, "optimizer.lr": 1.0e-9},
    ]
    wanted["average"] = ["2", "3"]
    path.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    return path


def test_a_recipe_trains_from_means_and_ends_in_one(tmp_path):
    out = tmp_path / "model"
    make_model.main(["--recipe", str(recipe(tmp_path / "recipe.yaml")), "--out", str(out), "--set", *SMALL])
    second, third, mean = (
        load_file(out / name) for name in ("2/digseg.safetensors", "3/digseg.safetensors", "digseg-demo.safetensors")
    )
    name = "unet.conv_in.weight"
    assert not torch.equal(second[name], third[name])
    torch.testing.assert_close(mean[name].float(), (second[name].float() + third[name].float()) / 2, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(load_file(out / "4/digseg.safetensors")[name].float(), mean[name].float(), rtol=1e-2, atol=1e-3)


def test_the_shipped_recipe_names_only_earlier_trainings():
    wanted = yaml.safe_load(make_model.RECIPE.read_text(encoding="utf-8"))
    known: list[str] = []
    for stage in wanted["stages"]:
        assert set(stage.get("from", [])) <= set(known), stage["name"]
        known.append(stage["name"])
    assert set(wanted["average"]) <= set(known)
    assert round(sum(stage["steps"] for stage in wanted["stages"]) * 16, -3) == 597_000
