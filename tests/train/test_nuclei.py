"""The experiment on real microscope pictures: prepared, split by kind, objects counted as the Bowl counts them, models scored."""

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


STAINS = [((10, 10, 10), (120, 120, 120))] * 4 + [((230, 200, 235), (130, 70, 150)), ((225, 225, 225), (90, 90, 90))]
"""Ground and nuclei of the pictures of a made-up download: four fluorescent, one purple, one of grey brightfield."""


@pytest.fixture
def download(tmp_path):
    """Six pictures as the Bowl has them: RGBA, a file per nucleus, three squares each; the third lies partly on the second."""
    for letter, (ground, nucleus) in zip("fedcba", reversed(STAINS), strict=True):
        folder = tmp_path / "stage1_train" / letter
        picture = np.full((40, 60, 4), (*ground, 255), np.uint8)
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for number, left in enumerate((5, 25, 30)):
            mask = np.zeros((40, 60), np.uint8)
            mask[10:20, left : left + 10] = 255
            picture[mask > 0, :3] = nucleus
            Image.fromarray(mask).save(folder / f"masks/{number}.png")
        Image.fromarray(picture).save(folder / f"images/{letter}.png")
    return tmp_path / "stage1_train"


def prepared(download, out):
    """The folder that the command makes, and the rows of its index."""
    nuclei.main(["prepare", str(download), "--out", str(out)])
    return out, nuclei.read_index(out)


def test_the_download_becomes_the_folder_that_is_split_and_scored(download, tmp_path, capsys):
    (tmp_path / "made").mkdir()
    folder, rows = prepared(download, tmp_path / "made")
    assert "wrote 6 pictures with 18 nuclei" in capsys.readouterr().out
    assert [row["kind"] for row in rows] == ["fluorescence"] * 4 + ["stained_purple", "brightfield_grey"]
    about = {"width": "60", "height": "40", "nuclei": "3", "area": str(round(250 / 2400, 4))}
    assert rows[1] == {"name": "001", "kind": "fluorescence", **about, "id": "b"}
    picture, mask, numbers = nuclei.read(folder, "004")
    assert picture[0, 0].tolist() == [230, 200, 235] and picture[12, 6].tolist() == [130, 70, 150]
    assert np.bincount(numbers.ravel()).tolist() == [2150, 100, 100, 50] and (mask == (numbers > 0)).all()
    nuclei.main(["split", str(folder), "--out", str(tmp_path / "lists")])
    data = tmp_path / "lists/data.yaml"
    assert [len(nuclei.members(data, part)[1]) for part in nuclei.PARTS] == [1, 4, 1]
    assert nuclei.score(data, lambda picture: picture.mean(2) > 60)["all"]["iou"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists", "made", "stage1_train"]


def test_a_mask_without_pixels_is_no_nucleus_and_is_told(download, tmp_path, capsys):
    Image.new("L", (60, 40)).save(download / "a/masks/00.png")
    folder, rows = prepared(download, tmp_path / "made")
    assert "; 1 masks have no pixel of their own" in capsys.readouterr().out
    assert rows[0]["nuclei"] == "3" and np.unique(nuclei.read(folder, "000")[2]).tolist() == [0, 1, 2, 3]


def without_masks(download):
    for path in (download / "c/masks").iterdir():
        path.unlink()


def with_a_wide_mask(download):
    Image.new("L", (61, 40), 255).save(download / "e/masks/0.png")


def with_two_pictures(download):
    Image.new("RGB", (60, 40)).save(download / "a/images/other.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_masks, r"1 of 6 pictures in .* have no masks: c; expected <id>/masks"),
        (with_a_wide_mask, r"0\.png is 61x40 pixels but .*e\.png is 60x40"),
        (with_two_pictures, r"holds 2 images; expected one"),
    ],
)
def test_a_spoilt_download_is_refused_in_words_and_leaves_nothing(download, tmp_path, spoil, said):
    spoil(download)
    with pytest.raises(SystemExit, match=said):
        prepared(download, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["stage1_train"]


def test_what_is_no_download_and_a_folder_in_use_are_refused(download, tmp_path):
    with pytest.raises(SystemExit, match=r"no folders with images/ in them; expected <id>/images.* Unpack stage1_train\.zip"):
        prepared(tmp_path, tmp_path / "made")
    with pytest.raises(SystemExit, match=r"There is no folder .*stage1_train\.zip\. Unpack"):
        prepared(tmp_path / "stage1_train.zip", tmp_path / "made")
    (tmp_path / "made").mkdir()
    (tmp_path / "made/mine.txt").write_text("mine")
    for out in (tmp_path / "made", tmp_path / "made/mine.txt"):
        with pytest.raises(SystemExit, match=r"no empty folder; expected a new or an empty one\. Name another --out"):
            prepared(download, out)
    assert (tmp_path / "made/mine.txt").read_text() == "mine"
