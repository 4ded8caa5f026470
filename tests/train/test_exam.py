"""exam.py on small copies of the public data sets' layouts, with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig
from tests.train.exports import save_png, save_text
from tests.train.helpers import tiny_base
from train.exam import EXAMS, main
from train.networks.decoder_export import write_with_decoder

SIZE = (32, 48)
LABELS = np.zeros(SIZE, np.uint8)
LABELS[4:20, 4:24], LABELS[20:30, 24:44] = 1, 2


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)).save(path)


def context_map(path: Path) -> None:
    numbers = np.zeros(SIZE, np.uint16)
    numbers[LABELS == 1], numbers[LABELS == 2] = 427, 440
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": numbers})


def write_all(root: Path) -> None:
    """One photo of every data set, where its archives put it."""
    photo(root / "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg")
    save_png(root / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png", LABELS)
    for year, name in (("VOC2010", "2008_000002"), ("VOC2012", "2007_000033")):
        photo(root / f"VOCdevkit/{year}/JPEGImages/{name}.jpg")
    context_map(root / "VOCdevkit/VOC2010/trainval/2008_000002.mat")
    save_text(root / "VOCdevkit/VOC2010/ImageSets/Main/val.txt", "2008_000002\n")
    save_png(root / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", LABELS)
    save_text(root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "2007_000033\n")
    photo(root / "cityscapes/leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png")
    save_png(root / "cityscapes/gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", LABELS + 7)
    photo(root / "coco/val2017/000000000139.jpg")
    save_png(root / "coco/stuffthingmaps/val2017/000000000139.png", LABELS)
    photo(root / "Kvasir-SEG/images/cju0.jpg")
    save_png(root / "Kvasir-SEG/masks/cju0.jpg", (LABELS == 1).astype(np.uint8) * 255)
    save_text(root / "Kvasir-SEG/test.txt", "cju0\n")
    photo(root / "LoveDA/Val/Rural/images_png/2522.png")
    save_png(root / "LoveDA/Val/Rural/masks_png/2522.png", LABELS + 1)
    photo(root / "PhenoBench/val/images/05-15_00028.png")
    save_png(root / "PhenoBench/val/semantics/05-15_00028.png", LABELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("exam") / "model.safetensors", in_channels=8)


def sit(checkpoint: Path, root: Path, report: Path, *more: str) -> dict:
    main(["--checkpoint", str(checkpoint), "--data-root", str(root), "--report", str(report), "--cpu", "--steps", "1", *more])
    return json.loads(report.read_text(encoding="utf-8"))


def test_every_data_set_that_is_there_is_scored(checkpoint, tmp_path, capsys):
    write_all(tmp_path)
    report = sit(checkpoint, tmp_path, tmp_path / "report.json")
    assert list(report["scores"]) == [exam.name for exam in EXAMS]
    assert {name: scores["classes"] for name, scores in report["scores"].items()} == {
        "ADE20K-150": 150, "PASCAL Context-59": 59, "PASCAL VOC-20": 20, "Cityscapes": 19, "COCO-Stuff": 171, "Kvasir-SEG": 1,
        "LoveDA": 7, "PhenoBench": 3,
    }  # fmt: skip
    for scores in report["scores"].values():
        assert scores["images"] == 1
        assert 0 <= scores["closed_miou"] <= 1
        assert 0 <= scores["miou"] <= 1
    printed = capsys.readouterr().out
    assert "not there" not in printed
    assert "ODISE: Xu et al. 2023" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("ADE20K-150"))
    assert line.endswith("  ODISE 0.299, VPD 0.546, CAT-Seg 0.379, DiGSeg")


def test_what_is_not_there_is_named_and_what_is_scored_is_kept(checkpoint, tmp_path, capsys):
    write_all(tmp_path)
    report = tmp_path / "report.json"
    first = sit(checkpoint, tmp_path, report, "--only", "kvasir_seg")
    assert list(first["scores"]) == ["Kvasir-SEG"]
    assert (
        "ADE20K-150          not asked for, or not there (train/configs/data/ade20k.yaml says where)" in capsys.readouterr().out
    )
    (tmp_path / "Kvasir-SEG").rename(tmp_path / "away")
    second = sit(checkpoint, tmp_path, report, "--only", "kvasir_seg", "phenobench")
    assert second["scores"]["Kvasir-SEG"] == first["scores"]["Kvasir-SEG"]
    assert "PhenoBench" in second["scores"]
    with pytest.raises(SystemExit, match="is no report of this checkpoint and these settings"):
        sit(checkpoint, tmp_path, report, "--seed", "5")


def test_a_data_set_that_cannot_be_read_does_not_stop_the_others(checkpoint, tmp_path, capsys):
    write_all(tmp_path)
    (tmp_path / "Kvasir-SEG/test.txt").unlink()
    with pytest.raises(SystemExit, match="1 data sets cannot be read"):
        sit(checkpoint, tmp_path, tmp_path / "report.json", "--only", "kvasir_seg", "phenobench")
    assert "Kvasir-SEG          cannot be read: There is no list of images" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "report.json").read_text())["scores"]) == ["PhenoBench"]
    with pytest.raises(SystemExit, match="There is no folder"):
        sit(checkpoint, tmp_path / "nowhere", tmp_path / "other.json")


def test_scores_of_another_decoder_or_of_other_components_are_not_kept(checkpoint, tmp_path, capsys):
    write_all(tmp_path)
    guided, report = tmp_path / "guided.safetensors", tmp_path / "report.json"
    small = MaskDecoder(MaskDecoderConfig(widths=(4, 8, 8, 8), blocks=1, guide=1))
    write_with_decoder(guided, small, open_checkpoint(checkpoint))
    line = (guided, tmp_path, report, "--only", "kvasir_seg")
    assert sit(*line, "--decoder", "vae")["decoder"] == "vae"
    assert "Decoder of the masks: vae." in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"is no report of this checkpoint and these settings \(decoder was vae, now guided\)"):
        sit(*line, "--decoder", "guided")
    with pytest.raises(SystemExit, match=r"components was None, now model.safetensors \w+\). Name another --report"):
        sit(*line, "--decoder", "vae", "--components", str(checkpoint))
    report.unlink()
    assert sit(*line)["decoder"] == "guided"
    assert sit(*line, "--decoder", "guided")["decoder"] == "guided"
    with pytest.raises(SystemExit, match="the checkpoint has no mask decoder"):
        sit(checkpoint, *line[1:], "--decoder", "guided")


@pytest.mark.parametrize(("option", "named"), [("--steps", "--steps has 2 values"), ("--ensemble", "--ensemble has 2 values")])
def test_several_values_of_one_setting_are_refused_before_anything_is_scored(checkpoint, tmp_path, option, named):
    with pytest.raises(SystemExit, match=rf"{named} \(1 4\), and exam.py scores one. Give one"):
        sit(checkpoint, tmp_path, tmp_path / "report.json", option, "1", "4")
    assert not (tmp_path / "report.json").exists()
