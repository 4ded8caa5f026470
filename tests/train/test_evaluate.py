"""evaluate.py: the report, and results that do not depend on how images are shared."""

import json

from tests.train.helpers import tiny_base
from train.data.build import open_split
from train.data.config import load_data
from train.evaluate import main
from train.model import load_networks
from train.validate import questions


def test_the_report(data, tmp_path):
    checkpoint, report = tiny_base(tmp_path / "model.safetensors", in_channels=8), tmp_path / "report.json"
    line = ["--checkpoint", checkpoint, "--data", data, "--report", report, "--steps", 1, 2, "--ensemble", 1, 2, "--cpu"]
    main([*map(str, line), "--records", "--closed"])
    values = json.loads(report.read_text(encoding="utf-8"))
    assert [(run["steps"], run["ensemble"]) for run in values["runs"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert values["images"] == 4
    first = values["runs"][0]
    assert set(first["groups"]) == {"seen", "absent_random"}
    assert len(first["sweep"]["miou"]) == 20
    assert len(first["records"]) == first["prompts"] == 8
    assert set(first["closed"]["classes"]) == {"box", "disc"}
    assert (tmp_path / "report-1x1-worst.png").is_file()
    assert "closed label set" in (tmp_path / "report.html").read_text(encoding="utf-8").lower()


def test_shards_cover_every_image_once(base, data):
    networks, sources = load_networks(base), [source for source, _ in open_split(load_data(data), "test")]
    numbers = [q.number for rank in (0, 1, 2) for q in questions(sources, networks, 64, shard=(rank, 3))]
    assert sorted(numbers) == [0, 1, 2, 3]
