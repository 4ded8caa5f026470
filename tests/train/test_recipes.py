"""The recipes of the paper's tasks are runs that the trainer takes, for exams that exist."""

import re
from pathlib import Path

import pytest

from train.exam import EXAMS
from train.settings.train_config import load_config

RECIPES = sorted((Path(__file__).resolve().parents[2] / "train/configs/recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_name_their_exam(path):
    config = load_config(path)
    assert config.data.train
    assert config.objective == "end_to_end" and config.mask_decoder and config.end_to_end.loss == "mask"  # what docs recommend
    assert config.data.validation
    text = path.read_text(encoding="utf-8")
    (named,) = re.findall(r"exam.py --only ([\w ]+?)(?: --|\.|$)", text, flags=re.MULTILINE)
    assert set(named.split()) <= {exam.config for exam in EXAMS}
    (hours,) = re.findall(r"(?:are|x \d are) ([\d.]+) h at 100 TFLOP/s", text)
    pixels = config.resolution**2 / (2 if path.stem == "cityscapes" else 1)
    tflop = config.steps * config.gradient_accumulation * 24.5 * pixels / 512**2
    assert float(hours) == pytest.approx(tflop / 100 / 3600, abs=0.06)


def test_the_papers_tasks_have_recipes():
    assert {path.stem for path in RECIPES} == {"open_vocabulary", "ade20k", "cityscapes", "kvasir_seg", "loveda", "phenobench"}
