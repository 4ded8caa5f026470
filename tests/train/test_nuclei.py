"""The experiment on real microscope pictures: split by kind, objects counted as the Bowl counts them, both models scored."""

import json

import numpy as np
import pytest
from PIL import Image

from train.experiments import nuclei


@pytest.fixture
def pictures(tmp_path):
    """Twenty grey and ten purple pictures with two discs each, in the layout of the data set."""
    rng = np.random.default_rng(0)
    folder, rows = tmp_path / "data", ["name,kind"]
    y, x = np.mgrid[:64, :96]
    for number in range(30):
        name, kind = f"{number:03d}", "grey" if number < 20 else "purple"
        numbers = np.zeros((64, 96), np.uint16)
        for one, centre in enumerate(((20, 20), (40, 70)), start=1):
            numbers[(y - centre[0]) ** 2 + (x - centre[1] + number % 5) ** 2 < 100] = one
        picture = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        picture[numbers > 0] = 200
        for kind_of_file, array in (
            ("images", picture),
            ("masks/nucleus", (numbers > 0).astype(np.uint8) * 255),
            ("instances", numbers),
        ):
            (folder / kind_of_file).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind_of_file / f"{name}.png")
        rows.append(f"{name},{kind}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_every_kind_is_split_alike_and_smaller_lists_are_part_of_larger_ones(pictures, tmp_path):
    names = {count: nuclei.members(nuclei.split(pictures, tmp_path / str(count), count), "train")[1] for count in (5, 10, None)}
    assert set(names[5]) < set(names[10]) < set(names[None])
    data = nuclei.split(pictures, tmp_path / "all", None)
    parts = {part: set(nuclei.members(data, part)[1]) for part in nuclei.PARTS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 30
    assert sum(name < "020" for name in parts["test"]) == 4 and sum(name >= "020" for name in parts["test"]) == 2


def test_a_perfect_prediction_scores_one_and_joined_or_missing_nuclei_cost(pictures, tmp_path):
    data = nuclei.split(pictures, tmp_path / "all", None)
    perfect = nuclei.score(data, lambda picture: picture.mean(2) > 100)
    assert perfect["all"] == {"pictures": 6, "iou": 1.0, "object_f1": 1.0} and set(perfect) == {"all", "grey", "purple"}
    numbers = np.zeros((40, 80), int)
    numbers[5:25, 5:25], numbers[5:25, 45:65] = 1, 2
    assert nuclei.object_counts(numbers == 1, numbers) == (1, 0, 1)
    joined = numbers > 0
    joined[10:12, 20:50] = True
    assert nuclei.object_counts(joined, numbers) == (0, 1, 2)
    dust = numbers > 0
    dust[30:33, 30:33] = True
    assert nuclei.object_counts(dust, numbers) == (2, 0, 0)


def test_the_specialist_learns_bright_discs(pictures, tmp_path):
    data, report = nuclei.split(pictures, tmp_path / "all", None), tmp_path / "report.json"
    line = ["specialist", str(data), "--report", str(report), "--resolution", "64", "--steps"]
    nuclei.main([*line, "1"])
    before = json.loads(report.read_text())["scores"]["all"]["iou"]
    nuclei.main([*line, "40"])
    assert json.loads(report.read_text())["scores"]["all"]["iou"] > max(0.5, before + 0.2)
