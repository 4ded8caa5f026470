"""Photos of several shapes in one run: micro-batches of one shape, the same whoever computes them, and what they teach."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from tests.train.helpers import folder_dataset
from train.data.build import open_split
from train.data.config import load_data
from train.latents.batches import PixelBatch
from train.learning.loop import Trainer
from train.learning.resume import latest_state, load_state
from train.networks.engine import open_segmenter
from train.scoring.predictions import encoded_samples, predict, score_sample
from train.settings.train_config import load_config

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "digseg_nodes/models/digseg-demo-base.safetensors"
SIZES = {"wide": (48, 64), "upright": (96, 64), "square": (64, 64)}
MODES = {"cached": [], "fresh": ["cache_latents=false", "augment.variants=1"]}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A data YAML over photos of three shapes."""
    root = tmp_path_factory.mktemp("mixed")
    parts = []
    for seed, (name, size) in enumerate(SIZES.items()):
        folder_dataset(root / name, size=size, seed=seed)
        parts.append({"type": "folder", "images": f"{name}/images", "masks": f"{name}/masks"})
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump({"name": "mixed", "train": parts, "validation": parts}), encoding="utf-8")
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_state(latest_state(run / "checkpoints"))[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_micro_batch_holds_one_shape_and_nothing_is_filled_up(config_file, mixed, mode):
    settings = [f"data={mixed}", "resolution=128", "gradient_accumulation=3", "batch_size=2", *MODES[mode]]
    batches = Trainer(load_config(config_file, settings)).batches
    shapes = set()
    for step in range(8):
        for part in batches[step]:
            image, side = (part.pixels, 8) if isinstance(part, PixelBatch) else (part.image, 1)
            assert image.shape[2:] == torch.Size(side * length for length in part.noise.shape[2:])
            assert part.valid is None
            shapes.add(tuple(part.noise.shape[2:]))
    assert shapes == {(12, 16), (16, 11), (16, 16)}  # 96 x 64 becomes 128 x 88: sides are multiples of 8


@pytest.mark.parametrize("mode", MODES)
def test_a_run_over_several_shapes_goes_on_bit_for_bit(config_file, mixed, tmp_path, mode):
    settings = [f"data={mixed}", "resolution=128", "steps=6", "batch_size=2", "checkpoints.every=2", *MODES[mode]]
    Trainer(load_config(config_file, [*settings, f"output={tmp_path / 'whole'}"])).run()
    stopped = Trainer(load_config(config_file, [*settings, f"output={tmp_path / 'parts'}"]))
    stopped.resume()
    for step in range(3):
        stopped.step(stopped.batches[step])
    stopped.save()
    Trainer(load_config(config_file, [*settings, f"output={tmp_path / 'parts'}"])).run()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.timeout(600)
def test_two_processes_take_the_micro_batches_of_one(config_file, mixed, tmp_path):
    settings = [f"data={mixed}", "resolution=128", "steps=3", "batch_size=2", "optimizer.max_grad_norm=null"]
    Trainer(load_config(config_file, [*settings, "gradient_accumulation=2", f"output={tmp_path / 'one'}"])).run()
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line += [str(ROOT / "train/finetune.py"), "--config", str(config_file), *settings, f"output={tmp_path / 'two'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    moved = torch.cat([(one[name] - two[name]).abs().flatten() for name in one if name.startswith("unet.")])
    assert moved.mean() < 1e-5


def drawn_photos(root: Path, size: tuple[int, int], count: int, seed: int) -> Path:
    """Photos of one yellow disc on a dark ground; returns their data YAML."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    for index in range(count):
        centre = rng.uniform(20, (size[0] - 20, size[1] - 20))
        mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 18**2
        image = rng.integers(0, 90, (*size, 3), np.uint8)
        image[mask] = (230, 220, 30)
        for folder, pixels in (("images", image), ("masks/disc", mask.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{index:03d}.png")
    part = {"type": "folder", "images": "images", "masks": "masks"}
    (root / "data.yaml").write_text(yaml.safe_dump({"name": "disc", "train": part, "test": part}), encoding="utf-8")
    return root / "data.yaml"


def miou(checkpoint: Path, data: Path) -> float:
    engine = open_segmenter(checkpoint, None, None, torch.device("cpu"), 4).engine
    [(source, _)] = open_split(load_data(data), "test")
    records = []
    for one in encoded_samples([source], engine, ImageSettings()):
        soft = predict(engine, one.image, one.prompts, SamplerSettings())
        records += [result.record.iou for result in score_sample(one.number, one.sample, soft, 0.5)]
    return float(np.mean(records))


@pytest.mark.timeout(900)
def test_what_is_learnt_on_wide_photos_holds_for_upright_ones(config_file, tmp_path):
    train = drawn_photos(tmp_path / "train", (72, 128), 16, 0)
    tests = {name: drawn_photos(tmp_path / name, size, 6, 1) for name, size in (("wide", (72, 128)), ("upright", (128, 72)))}
    scores: dict[str, list[float]] = {name: [] for name in tests}
    for seed in range(2):
        run = tmp_path / f"run-{seed}"
        settings = [f"base={BASE}", f"data={train}", f"output={run}", f"cache={tmp_path / 'cache'}", f"seed={seed}"]
        settings += ["resolution=128", "steps=50", "batch_size=4", "objective=end_to_end", "ema=0.9", "sampling.absent=0"]
        Trainer(load_config(config_file, [*settings, "log_every=50", "checkpoints.every=100"])).run()
        assert open_checkpoint(run / "digseg.safetensors").config.photo_shape == "own"
        for name, data in tests.items():
            scores[name].append(miou(run / "digseg.safetensors", data))
    print(scores)
    spread = max(abs(one[0] - one[1]) for one in scores.values())
    assert min(scores["wide"]) > 0.6
    assert abs(np.mean(scores["wide"]) - np.mean(scores["upright"])) <= max(spread, 0.08)
