"""predict.py: the files it writes, and that a second start does only what is missing."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from safetensors.torch import load_file, save_file

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.masks import overlay, semantic_map
from digseg_nodes.core.palettes import palette
from digseg_nodes.core.pixels import to_bytes
from digseg_nodes.core.prompts import parse_prompts
from tests.train.helpers import folder_dataset, tiny_base
from train.data.base import DataError
from train.predict import main
from train.predicting import masks_on_disk
from train.predicting.masks_on_disk import Layout, write_masks
from train.predicting.photos import find_photos

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "model.safetensors", in_channels=8)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder_dataset(tmp_path / "data", count=2, size=(48, 64))
    return tmp_path / "data/images"


def options(checkpoint, images, out, *more, prompts=("red box: crate", "disc")) -> list[str]:
    line = ["--checkpoint", checkpoint, "--images", images, "--output", out, "--steps", 1, "--device", "cpu", *more]
    return [*map(str, line), "--prompts", *prompts]


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def refused(line: list[str], capsys) -> str:
    """What a command says that ends with status 1 and no traceback."""
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code not in (0, None)
    return f"{capsys.readouterr().err}{end.value.code}"


def test_masks_palette_and_overlay_per_image(tmp_path):
    folder_dataset(tmp_path / "data", count=2, size=(48, 64))
    checkpoint, out = tiny_base(tmp_path / "model.safetensors", in_channels=8), tmp_path / "out"
    line = ["--checkpoint", checkpoint, "--images", tmp_path / "data/images", "--output", out, "--steps", 1]
    line = [*map(str, line), "--prompts", "red box: crate", "disc", "--threshold", "0.4", "--device", "cpu"]
    main(line)
    masks = [np.asarray(Image.open(out / "masks" / name / "000.png")) for name in ("red_box", "disc")]
    assert all(mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 255} for mask in masks)
    semantic = Image.open(out / "semantic/000.png")
    assert semantic.mode == "P"
    ids = np.asarray(semantic)
    assert set(np.unique(ids)) <= {0, 1, 2}
    assert np.array_equal(ids > 0, (masks[0] > 0) | (masks[1] > 0))
    assert Image.open(out / "overlays/000.jpg").size == (64, 48)

    (out / "overlays/001.jpg").unlink()
    before = (out / "overlays/000.jpg").stat().st_mtime_ns
    main(line)
    assert (out / "overlays/001.jpg").is_file()
    assert (out / "overlays/000.jpg").stat().st_mtime_ns == before


def test_every_photo_has_a_line_about_each_mask_and_coco_run_lengths(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    main(options(checkpoint, photos, out, "--threshold", 0.5, "--coco"))
    lines = lines_of(out)
    assert [line["image"] for line in lines] == ["000.png", "001.png"]
    coco = json.loads((out / "predictions.coco.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in coco["categories"]] == ["red box", "disc"]
    masks = {(entry["image_id"], entry["category_id"]): coco_masks.decode(entry["segmentation"]) for entry in coco["annotations"]}
    for number, line in enumerate(lines, 1):
        assert (line["height"], line["width"]) == (48, 64)
        for category, said in enumerate(line["classes"], 1):
            mask = np.asarray(Image.open(out / "masks" / said["mask"] / f"{line['file']}.png")) > 0
            assert said["area"] == mask.sum() and said["coverage"] == pytest.approx(mask.mean(), abs=1e-6)
            if mask.any():
                x, y, width, height = said["box"]
                assert mask[y : y + height, x : x + width].sum() == mask.sum() and said["score"] > 0.5
                assert mask[y].any() and mask[:, x].any() and mask[y + height - 1].any() and mask[:, x + width - 1].any()
                assert np.array_equal(masks[number, category], mask)
            else:
                assert (number, category) not in masks and said["box"] is None


def test_masks_of_other_settings_are_refused_or_made_anew(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    main(options(checkpoint, photos, out))
    before = (out / "masks/disc/000.png").read_bytes()
    said = refused(options(checkpoint, photos, out, "--threshold", 0.01), capsys)
    assert "threshold 0.5 -> 0.01" in said and "--overwrite" in said
    assert (out / "masks/disc/000.png").read_bytes() == before
    main(options(checkpoint, photos, out, "--threshold", 0.01, "--overwrite"))
    assert (out / "masks/disc/000.png").read_bytes() != before
    (out / "settings.json").unlink()
    assert "not known how they were made" in refused(options(checkpoint, photos, out), capsys)


def test_an_interrupted_overwrite_leaves_no_mask_of_the_old_settings(checkpoint, photos, tmp_path, monkeypatch):
    out, stopped = tmp_path / "out", []
    main(options(checkpoint, photos, out))
    old = (out / "masks/disc/001.png").read_bytes()

    def stop_at_the_second(image, stem, *rest):
        if stem == "001":
            stopped.append(stem)
            raise KeyboardInterrupt
        return write_masks(image, stem, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(masks_on_disk, "write_masks", stop_at_the_second)
        main(options(checkpoint, photos, out, "--threshold", 0.01, "--overwrite"))
    assert stopped and (out / "masks/disc/001.png").read_bytes() == old
    with next(out.glob("predictions.*.part")).open("a") as part:
        part.write('{"image": "001.png", "bytes"')  # the line a kill tore apart
    main(options(checkpoint, photos, out, "--threshold", 0.01))
    assert (out / "masks/disc/001.png").read_bytes() != old
    assert [line["image"] for line in lines_of(out)] == ["000.png", "001.png"] and not list(out.glob("*.part"))


def test_broken_photos_are_named_and_do_not_stop_the_rest(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    (photos / "._000.png").write_bytes(b"\0\5\26\7")
    main(options(checkpoint, photos, out))
    assert "left out as hidden: ._000.png" in capsys.readouterr().err
    (photos / "0000.jpg").write_bytes(b"no photo")
    shutil.copy(photos / "000.png", photos / "002.png")
    said = refused(options(checkpoint, photos, out), capsys)
    assert "1 of 4 photos could not be segmented" in said and said.count("0000.jpg") >= 2
    assert [line["image"] for line in lines_of(out)] == ["000.png", "001.png", "002.png"]


@pytest.mark.parametrize(
    ("more", "prompts", "words"),
    [
        (("--threshold", "-1"), ["disc"], "--threshold is -1.0; use above 0 and below 1"),
        (("--threshold", "7"), ["disc"], "--threshold is 7.0"),
        (("--threshold", "nan"), ["disc"], "--threshold is nan"),
        (("--resolution", "7"), ["disc"], "--resolution is 7; use 32 to 4096 pixels"),
        (("--resolution", "100000"), ["disc"], "--resolution is 100000"),
        (("--ensemble", "0"), ["disc"], "--ensemble is 0; use 1 to 64"),
        (("--steps", "1500"), ["disc"], "--steps is 1500; use 1 to 1000"),
        (("--steps", "-3"), ["disc"], "--steps is -3"),
        (("--tile", "8"), ["disc"], "--tile is 8; use 64 pixels or more"),
        (("--seed", "-1"), ["disc"], "--seed is -1"),
        (("--device", "nowhere"), ["disc"], "--device nowhere cannot be used"),
        ((), ["cat", "cat"], "--prompts: The class 'cat' is named twice"),
        ((), ["", " "], "--prompts: The text is empty"),
        ((), [": puppy"], "has no name before the colon"),
        ((), [f"c{n}" for n in range(256)], "256 prompts; a palette PNG numbers up to 255"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(more, prompts, words, photos, tmp_path, capsys):
    said = refused(options(tmp_path / "unread.safetensors", photos, tmp_path / "out", *more, prompts=prompts), capsys)
    assert words in said
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers_end_the_run_before_a_mask_is_written(checkpoint, photos, tmp_path, capsys):
    weights = {
        name: tensor * float("nan") if name.startswith("unet.conv_in") else tensor
        for name, tensor in load_file(checkpoint).items()
    }
    save_file(weights, tmp_path / "nan.safetensors", metadata=open_checkpoint(checkpoint).metadata)
    said = refused(options(tmp_path / "nan.safetensors", photos, tmp_path / "out"), capsys)
    assert "holds NaN" in said
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_output_that_is_a_file_is_named(checkpoint, photos, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert f"{tmp_path / 'out'}" in refused(options(checkpoint, photos, tmp_path / "out"), capsys)
    assert (tmp_path / "out").read_text() == "mine"


def test_prompts_and_photos_that_look_alike_get_files_of_their_own(checkpoint, photos, tmp_path):
    (photos / "001.png").unlink()
    Image.open(photos / "000.png").save(photos / "000.jpg")
    out, prompts = tmp_path / "out", ["C++", "C#", "a/b", "a b", "A b", "very " * 80 + "long"]
    main(options(checkpoint, photos, out, prompts=prompts))
    assert len(list((out / "masks").glob("*/*.png"))) == 2 * len(prompts)
    assert len(list((out / "semantic").iterdir())) == 2
    assert [said["name"] for said in lines_of(out)[0]["classes"]] == [prompt.name for prompt in parse_prompts("\n".join(prompts))]


@pytest.mark.parametrize("kind", ["list", "shard", "folder of shards", "pattern", "one photo"])
def test_photos_come_from_folders_lists_and_shards(kind, photos, tmp_path):
    expected = np.asarray(Image.open(photos / "000.png").convert("RGB"))
    place = tmp_path / "place"
    place.mkdir()
    if kind == "list":
        (place / "list.txt").write_text(f"../data/images/000.png\n\n{photos / '001.png'}\n", encoding="utf-8")
    elif kind != "one photo":
        with tarfile.open(place / "s-0.tar", "w") as shard:
            for name in ("000.png", "001.png"):
                shard.add(photos / name, f"inner/{name}")
                shard.add(__file__, f"inner/{name[:3]}.txt")
    images = {"list": place / "list.txt", "shard": place / "s-0.tar", "folder of shards": place, "pattern": place / "*.tar"}
    found, hidden = find_photos(str(images.get(kind, photos / "000.png")))
    assert len(found) == (1 if kind == "one photo" else 2) and hidden == []
    assert np.array_equal(found[0].read(), expected)
    assert len({photo.stem for photo in found}) == len(found) and "000" in found[0].stem


def test_what_holds_no_photos_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "torn.tar").write_bytes(b"no tar" * 500)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "empty" / "pipe.jpg")
    for name, words in {
        "empty": "holds no photos",
        "nowhere": "no image folder",
        "list.txt": "UTF-8",
        "torn.tar": "tar file",
    }.items():
        with pytest.raises(DataError, match=words):
            find_photos(str(tmp_path / name))
    (tmp_path / "names.txt").write_text("gone.jpg\nempty/pipe.jpg\n")
    found, _ = find_photos(str(tmp_path / "names.txt"))
    for photo in found:
        with pytest.raises(DataError, match=r"is not there, or is no regular file"):
            photo.read()


def test_many_prompts_are_asked_in_parts_and_give_the_files_of_one_call(tmp_path, monkeypatch):
    torch.manual_seed(0)
    image, soft = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), torch.rand(150, 20, 30)
    prompts, asked = parse_prompts("\n".join(f"c{n}" for n in range(150))), []

    def ask(some):
        asked.append(len(some))
        return soft[sum(asked) - len(some) : sum(asked)]

    monkeypatch.setattr(masks_on_disk, "SOFT_VALUES", 20 * 30 * 8)
    layout = Layout(tmp_path, [prompt.name for prompt in prompts])
    write_masks(image, "x", prompts, ask, 0.5, layout)
    assert max(asked) == 8 and sum(asked) == 150
    ids = semantic_map(soft[None], torch.full((150,), 0.5))[0].numpy()
    assert np.array_equal(np.asarray(Image.open(layout.semantic("x"))), ids)
    painted = overlay(torch.from_numpy(image)[None] / 255, (soft > 0.5).float()[:, None], palette(150) / 255)[0]
    Image.fromarray(to_bytes(painted)).save(tmp_path / "expected.jpg")
    assert layout.overlay("x").read_bytes() == (tmp_path / "expected.jpg").read_bytes()


@pytest.mark.timeout(900)  # two starts of the command, one of them in two processes
def test_two_processes_write_what_one_does(checkpoint, photos, tmp_path):
    shutil.copy(photos / "000.png", photos / "002.png")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in {"one": [sys.executable], "two": launch}.items():
        command = [*start, ROOT / "train/predict.py", *options(checkpoint, photos, tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 3 * 4 + 2
