"""The worlds to fine-tune on, and an experiment family from the command to the table."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.helpers import tiny_base
from train.data.base import Query
from train.data.build import open_split
from train.data.config import load_data
from train.demo.world import COLOURS, PAIRS, SHAPES
from train.experiments import curves, registry
from train.experiments.domains import TEST, VALIDATION, WORLDS, write_dataset
from train.experiments.probes import WORDINGS, size_of
from train.experiments.run import FAMILIES, Options, data_folder, write_world
from train.experiments.specialist import Specialist, class_numbers
from train.experiments.tables import TABLES
from train.experiments.trials import AskedWhole, Decoded, StoppedError, Workspace
from train.latents.batches import Batches
from train.scoring.scores import score
from train.settings.train_config import load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=list(WORLDS))
def world(request):
    return request.param


def test_a_scene_is_a_function_of_seed_and_number(world):
    paint, _ = WORLDS[world]
    assert np.array_equal(paint(3, 5).image, paint(3, 5).image)
    assert not np.array_equal(paint(3, 5).image, paint(3, 6).image)
    assert not np.array_equal(paint(3, 5).image, paint(4, 5).image)


def test_classes_share_no_pixel_and_all_of_them_occur(world):
    paint, classes = WORLDS[world]
    seen = set()
    for index in range(12):
        scene = paint(0, index)
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        assert set(scene.masks) <= set(classes) and scene.masks
        assert np.sum(list(scene.masks.values()), axis=0).max() == 1
        assert all(mask.any() for mask in scene.masks.values())
        seen |= set(scene.masks)
    assert seen == set(classes)


def test_no_class_is_in_every_picture(world):
    """Otherwise nothing could be asked for that is not there."""
    paint, classes = WORLDS[world]
    scenes = [paint(0, index) for index in range(20)]
    for name in classes:
        assert any(name not in scene.masks for scene in scenes)


def test_a_mask_is_where_its_class_was_painted():
    """Water is bluer than what is around it, nuclei are darker than the tissue."""
    for paint, name, darker in ((WORLDS["fields"][0], "lake", False), (WORLDS["cells"][0], "nucleus", True)):
        scene = next(scene for scene in (paint(0, index) for index in range(20)) if name in scene.masks)
        inside = scene.image[scene.masks[name]].mean(0)
        outside = scene.image[~scene.masks[name]].mean(0)
        value = inside.sum() - outside.sum() if darker else (outside - inside)[2] + (inside - outside)[0]
        assert value < -40


def test_pictures_of_several_shapes_are_cut_out_of_the_square_scenes(world, tmp_path):
    path = write_dataset(world, tmp_path, TEST + VALIDATION + 10, seed=7, aspects=("1:1", "16:9", "2:3"))
    paint, _ = WORLDS[world]
    [(train, _)] = open_split(load_data(path), "train")
    assert [train.sample(index).image.shape[:2] for index in range(4)] == [(128, 128), (72, 128), (128, 85), (128, 128)]
    assert np.array_equal(train.sample(0).image, paint(7, 0).image)
    cut, scene = train.sample(1), paint(7, 1)
    tops = [top for top in range(57) if np.array_equal(scene.image[top : top + 72], cut.image)]
    assert len(tops) == 1
    for query in cut.queries:
        there = scene.masks.get(query.name, np.zeros((128, 128), bool))[tops[0] : tops[0] + 72]
        assert np.array_equal(query.mask, there) if query.mask is not None else not there.any()


def test_the_written_data_set_is_read_by_the_folder_adapter(world, tmp_path):
    path = write_dataset(world, tmp_path, TEST + VALIDATION + 10, seed=7)
    paint, classes = WORLDS[world]
    data = load_data(path)
    [(train, _)] = open_split(data, "train")
    assert len(train) == 10 and train.class_names == list(classes)
    sample, scene = train.sample(1), paint(7, 1)
    assert np.array_equal(sample.image, scene.image)
    assert {query.name for query in sample.queries if query.mask is not None} == set(scene.masks)
    for query in sample.queries:
        if query.mask is not None:
            assert np.array_equal(query.mask, scene.masks[query.name])
        else:
            assert query.name not in scene.masks
    assert [len(open_split(data, part)[0][0]) for part in ("validation", "test")] == [VALIDATION, TEST]


def test_the_committed_data_yaml_names_the_same_classes(world, tmp_path):
    path = write_dataset(world, tmp_path, TEST + VALIDATION + 10)
    written, committed = load_data(path), load_data(ROOT / f"train/configs/data/{world}.yaml")
    for part in ("train", "validation", "test"):
        assert written.split(part)[0].classes == committed.split(part)[0].classes


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ask for more"):
        write_dataset("cells", tmp_path, TEST + VALIDATION)


def test_the_specialist_knows_every_query_of_the_demo_world_by_number():
    names = [f"{colour} {shape}" for colour, shape in PAIRS]
    names += [f"everything {colour}" for colour in COLOURS] + [f"the {shape}" for shape in SHAPES]
    numbers = [class_numbers(name) for name in names]
    assert len(set(numbers)) == len(names)
    assert class_numbers("the star") == (len(COLOURS), SHAPES.index("star"))
    logits = Specialist()(torch.zeros(2, 3, 64, 64), torch.tensor(numbers[:2]))
    assert logits.shape == (2, 64, 64) and not torch.equal(logits[0], logits[1])


def test_every_wording_can_be_said_of_every_pair():
    for say in WORDINGS.values():
        assert len({say(colour, shape) for colour, shape in PAIRS}) == len(PAIRS)


def test_objects_are_grouped_by_their_share_of_the_known_pixels():
    truth = torch.zeros(20, 20, dtype=torch.bool)
    truth[:4, :8] = True  # 32 of 400 pixels
    query = Query("red star", ("red star",), truth.numpy())
    record = score(0, query, truth.float(), truth, torch.ones_like(truth), 0.5)
    assert size_of(record) == "5% to 10%"


def test_noise_without_annealing_is_as_coarse_at_the_first_timestep_as_at_the_last(config_file):
    """At t = 0 annealed noise is white: neighbours have nothing to do with each other."""

    def likeness(annealed: bool) -> float:
        config = load_config(config_file, ["objective=diffusion", f"noise.annealed={annealed}", "noise.high_from=0"])
        share = SimpleNamespace(total=16, size=16)
        batches = SimpleNamespace(config=config, share=share, channels=4, shape_at=lambda _number: (128, 128), train_timesteps=1)
        [noise] = Batches._noise(batches, 0, np.zeros(16, int))[1]
        return float((noise[..., 1:] * noise[..., :-1]).mean())

    assert abs(likeness(True)) < 0.05
    assert likeness(False) > 0.3


def run(*arguments, script="train/experiments/run.py") -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)


def test_a_family_runs_once_and_its_table_shows_the_scores(tmp_path):
    """A LoRA of two steps on twenty images, by the command; the second call trains nothing."""
    model = tiny_base(tmp_path / "model.safetensors", in_channels=8)
    output, docs = tmp_path / "out", tmp_path / "docs"
    small = ("--images", 2, "--steps", 2, "--set", "resolution=64", "batch_size=2", "validation.images=1", "objective=diffusion")
    family = ("domain", "--model", model, "--output", output, "--only", "cells-lora-20-", "--seeds", 7, *small)
    first = run(*family)
    assert first.returncode == 0, first.stderr
    result = json.loads((output / "cells-lora-20-seed7.json").read_text())
    assert result["file"] == "digseg-lora.safetensors" and result["bytes"] < model.stat().st_size
    assert [step for step, _ in result["curve"]] == [1, 2]
    assert 0 <= result["scores"][0]["miou"] <= 1
    again = run(*family)
    assert again.returncode == 0 and "finetune.py" not in again.stdout
    other = run(*family[:-1], "objective=end_to_end")
    assert other.returncode != 0 and "made with other settings" in other.stderr
    docs.mkdir()
    (docs / "experiments.md").write_text(
        "# Experiments\n\n<!-- table: domain -->\nold\n<!-- end -->\n\n<!-- table: noise -->\nkept\n<!-- end -->\n\nprose\n"
    )
    table = run("table", "--output", output, "--docs", docs, script="train/demo/experiments.py")  # its older path
    assert table.returncode == 0, table.stderr
    text = (docs / "experiments.md").read_text()
    assert "old" not in text and text.endswith("<!-- table: noise -->\nkept\n<!-- end -->\n\nprose\n")
    assert f"{result['scores'][0]['miou']:.3f}" in text
    assert Image.open(docs / "img/experiments/domain.png").size[0] > 300


def test_the_runs_of_a_family_are_those_its_table_looks_for(tmp_path):
    """Every training of every family is named by the registry, so that none can be run and not be shown."""
    options = Options((0, 7, 12), 10, 2, tmp_path / "m", tmp_path)
    for family, _, _ in FAMILIES.values():
        for one in family(options):
            stem, _, seed = one.name.rpartition("-seed")
            if stem:
                assert one.name in registry.seeds_of([one.name, f"{stem}-seed3x", f"x{stem}-seed{seed}"], stem)
    variants = [*registry.PRETRAINED, *registry.NOISE, *registry.ABSENT, *registry.TARGET]
    results = {registry.named(one.stem, 7): demo_result(one) for one in variants}
    for name in ("pretrained", "noise", "absent", "target"):
        assert "Not run" not in TABLES[name](results)


def test_photo_shapes_are_compared_by_world_and_seed(tmp_path):
    """A training that was asked in another shape is a measurement of it, and a row beside it."""
    options = Options((0, 1), 10, 2, tmp_path / "m", tmp_path)
    runs = FAMILIES["shapes"][0](options)
    assert len(runs) == 2 * 2 * 3
    squares = [one for one in runs if isinstance(one, AskedWhole)]
    assert all(one.of.settings["photo_shape"] == "square" and one.of in runs for one in squares)
    with pytest.raises(StoppedError, match="not trained yet"):
        squares[0].run(Workspace(tmp_path))
    results = {one.name: shape_result(one, number) for number, one in enumerate(runs)}
    own, square, whole = TABLES["shapes"](results).splitlines()[2:]
    assert "| 2 | 0.015 (0.000-0.030) | 0.075 (0.060-0.090) |" in own
    assert "| 2 | 0.025 (0.010-0.040) | 0.085 (0.070-0.100) |" in square
    assert "| 2 | 0.035 (0.020-0.050) | 0.095 (0.080-0.110) |" in whole


def shape_result(one, number: int) -> dict:
    scores = [{"miou": number / 100, "groups": {"absent_random": {"fired": 0.25}}}]
    return {"report": {"runs": scores}} if isinstance(one, AskedWhole) else {"scores": scores}


def test_losses_are_compared_by_world_with_both_decoders(tmp_path):
    options = Options((0, 1), 10, 2, tmp_path / "m", tmp_path)
    runs = FAMILIES["mask-loss"][0](options)
    assert len(runs) == 2 * (2 * 3 + 3) * 2
    again = [one for one in runs if isinstance(one, Decoded)]
    assert [one.of for one in again] == [one for one in runs if not isinstance(one, Decoded)]
    assert {one.of.settings["end_to_end"]["loss"] for one in again} == {"latent", "mask"}
    with pytest.raises(StoppedError, match="not trained yet"):
        again[0].run(Workspace(tmp_path))
    results = {}
    for one in runs:
        vae, seed = isinstance(one, Decoded), one.name[-1] == "1"
        score = {"miou": 0.5 - 0.1 * vae + 0.2 * seed, "classes": {"debris": 0.25 - 0.05 * vae}}
        score["groups"] = {"absent_random": {"fired": 0.0625}}
        results[one.name] = {"report": {"runs": [score]}} if vae else {"scores": [score]}
    lines = TABLES["mask-loss"](results).splitlines()[2:]
    assert len({str(one.settings) for one in runs if "fields" in one.name and not isinstance(one, Decoded)}) == 2 * 5
    assert [line.split(" | ")[0] for line in lines] == ["| cells"] * 2 + ["| fields"] * 5 + ["| demo"] * 2
    assert "| 2 | 0.600 (0.500-0.700) | 0.500 (0.400-0.600) | 0.100 (0.100-0.100) | 0.250" in lines[0]
    assert "| - | - | 0.062" in lines[-1]
    del results["cells-loss-latent-by-vae-seed0"]  # a seed that is not measured by both is left out, the others stay
    assert "| 1 | 0.700 | 0.600 | 0.100 |" in TABLES["mask-loss"](results).splitlines()[2]


def test_worlds_for_photo_shapes_hold_no_square(tmp_path):
    options = Options((0,), 10, 2, tmp_path / "m", tmp_path)
    name = FAMILIES["shapes"][0](options)[0].name
    write_world(options, name)
    sizes = {Image.open(path).size for path in (data_folder(options, "cells-shapes") / "test/images").iterdir()}
    assert len(sizes) == 6
    assert all(width != height for width, height in sizes)


def demo_result(variant) -> dict:
    scores = {"miou": 0.5, "fired": 0.1}
    groups = dict.fromkeys(("seen", "held_out", "absent_hard", "absent_random"), scores)
    return {"settings": {"steps": 10}, "scores": [{"groups": groups}], "name": variant.stem}


def test_the_worlds_are_drawn_by_their_older_command_too(tmp_path):
    line = [sys.executable, ROOT / "train/demo/domains.py", "cells", "--out", tmp_path, "--images", TEST + VALIDATION + 1]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "train/images").iterdir())) == 1


def test_trainings_in_a_row_follow_one_another_in_the_curve(tmp_path):
    """The second leg counts its steps from nought again."""
    score = {"groups": {"seen": {"miou": 0.5}}}
    for number, loss in ((2, 0.8), (10, 0.4)):
        lines = [{"step": 10, "loss": loss}, {"step": 20, "loss": loss / 2}, {"step": 20, "validation": score}]
        (tmp_path / f"end-to-end-{number}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    losses, scores, starts = curves.run_points(curves.run_logs(tmp_path, "end-to-end"))
    assert losses == [(10, 0.8), (20, 0.4), (30, 0.4), (40, 0.2)]
    assert scores == [(20, 0.5), (40, 0.5)] and starts == [0, 20]


def test_the_committed_logs_make_the_learning_curves(tmp_path):
    curves.main(["--out", str(tmp_path / "curves.png")])
    assert Image.open(tmp_path / "curves.png").size[0] > 800
