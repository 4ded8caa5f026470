"""evaluate.py: the report, and results that do not depend on how images are shared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digseg_nodes.core.checkpoint import CheckpointConfig
from digseg_nodes.core.inference import ImageSettings
from tests.parity.builders import with_mask_decoder
from tests.train.helpers import tiny_base
from train.data.build import open_split
from train.data.config import load_data
from train.evaluate import main, make_parser, planned_runs
from train.networks.bases import load_networks
from train.networks.engine import DiffusersEngine
from train.scoring.predictions import encoded_samples

ROOT = Path(__file__).resolve().parents[2]


def test_the_report(data, tmp_path):
    checkpoint, report = tiny_base(tmp_path / "model.safetensors", in_channels=8), tmp_path / "report.json"
    line = ["--checkpoint", checkpoint, "--data", data, "--report", report, "--cpu", "--steps", 1, 2, "--ensemble", 1, 2]
    main([*map(str, line), "--records", "--closed"])
    values = json.loads(report.read_text(encoding="utf-8"))
    assert [(run["steps"], run["ensemble"]) for run in values["runs"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert values["images"] == 4
    first = values["runs"][0]
    assert set(first["groups"]) == {"seen", "absent_random"}
    assert len(first["sweep"]["miou"]) == 20
    assert len(first["records"]) == first["prompts"] == 8
    scores = [json.dumps([run["records"], run["sweep"]]) for run in values["runs"]]
    assert len(set(scores)) == 4, "other steps and noises draw other masks"
    assert set(first["closed"]["classes"]) == {"box", "disc"}
    assert (tmp_path / "report-1x1-worst.png").is_file()
    assert "closed label set" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()
    main([*map(str, line[:-6]), "--steps", "1", "--records", "--mirror"])
    mirrored = json.loads(report.read_text(encoding="utf-8"))["runs"][0]
    assert (first["unet_calls"], mirrored["unet_calls"]) == (1, 2)
    assert first["records"] != mirrored["records"]


def test_either_decoder_is_scored_and_the_report_says_which(data, tmp_path):
    plain = tiny_base(tmp_path / "model.safetensors", in_channels=8)
    guided, report = with_mask_decoder(plain, tmp_path / "guided.safetensors"), tmp_path / "report.json"
    found = {}
    for name, more in (("auto", []), ("guided", ["--decoder", "guided"]), ("vae", ["--decoder", "vae"])):
        main([*map(str, ["--checkpoint", guided, "--data", data, "--report", report, "--cpu", "--steps", 1, "--records"]), *more])
        found[name] = json.loads(report.read_text(encoding="utf-8"))
        del found[name]["runs"][0]["seconds"]
        said = {"guided": "guided mask decoder", "vae": "VAE"}[found[name]["decoder"]]
        assert f"masks decoded by the {said}" in report.with_suffix(".html").read_text(encoding="utf-8")
    assert [found[name]["decoder"] for name in found] == ["guided", "guided", "vae"]
    assert found["auto"] == found["guided"] and found["vae"]["runs"][0]["records"] != found["guided"]["runs"][0]["records"]
    with pytest.raises(SystemExit):
        main([*map(str, ["--checkpoint", plain, "--data", data, "--report", report, "--cpu", "--decoder", "guided"])])


@pytest.mark.parametrize(("noise", "calls"), [("gaussian", [3, 12]), ("zero", [3, 3])])
def test_a_checkpoint_without_noise_is_called_once_however_large_the_ensemble(noise, calls):
    config = CheckpointConfig(unet={}, scheduler={}, initial_noise=noise)
    line = ["--checkpoint", "c", "--data", "d", "--report", "r", "--steps", "3", "--ensemble", "1", "4"]
    assert [run.calls for run in planned_runs(config, make_parser().parse_args(line))] == calls


@pytest.mark.timeout(900)  # two starts of the command, one of them in two processes
def test_two_processes_report_what_one_does(data, tmp_path):
    checkpoint = tiny_base(tmp_path / "model.safetensors", in_channels=8)
    line = ["--checkpoint", checkpoint, "--data", data, "--steps", 2, "--cpu", "--records", "--closed"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    reports = {"one": [sys.executable], "two": launch}
    for name, start in reports.items():
        command = [*start, ROOT / "train/evaluate.py", *line, "--report", tmp_path / name / "r.json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "r.json").read_text(encoding="utf-8")) for name in reports)
    for report in (one, two):
        del report["runs"][0]["seconds"]
    assert one == two
    for picture in ("r-2x1-worst.png", "r-2x1-best.png"):
        assert (tmp_path / "one" / picture).read_bytes() == (tmp_path / "two" / picture).read_bytes()


def test_shards_cover_every_image_once(base, data):
    engine, sources = DiffusersEngine(load_networks(base)), [source for source, _ in open_split(load_data(data), "test")]
    numbers = [q.number for rank in (0, 1, 2) for q in encoded_samples(sources, engine, ImageSettings(64), shard=(rank, 3))]
    assert sorted(numbers) == [0, 1, 2, 3]
