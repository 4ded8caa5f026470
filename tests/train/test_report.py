"""report.html: everything in one file, with the figures of the log."""

import json

import pytest
from PIL import Image

from train.scoring.report import chart, smoothed, speed_section, sweep_section, write_report


def test_the_report_holds_curves_scores_and_pictures(tmp_path):
    groups = {"seen": {"prompts": 3, "miou": 0.625}, "absent_random": {"prompts": 2, "fired": 0.5}}
    lines = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in (1, 2, 3)]
    lines.append({"step": 3, "validation": {"groups": groups, "classes": {"a <b>": 0.25, "c": 1.0}}})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/step-00000003.png")
    write_report(tmp_path, "my <run>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "my &lt;run&gt;" in page
    assert "a &lt;b&gt;" in page
    assert "0.625" in page
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "http" not in page


def test_the_report_tells_the_speed_in_words_and_what_to_do_about_waiting(tmp_path):
    timing = {"seconds_per_step": 0.5, "samples_per_second": 32.0, "peak_mib": 1234.5, "time": "2026-01-01T00:00:00+00:00"}
    lines = [{"step": step, "loss": 0.5, "grad_norm": step and 2.0, **timing, "data_wait": 0.25} for step in (1, 2, 3)]
    lines[1]["grad_norm"] = None  # fp16 skipped it
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_report(tmp_path, "run")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0.5 s a step, 32 samples a second" in page
    assert "25% of that time waiting for data, 1,234 MiB of memory at most" in page
    assert "raise <code>workers</code>" in page
    assert "Norm of the gradients" in page and "grad_norm 2.000" in page
    assert "raise <code>workers</code>" not in speed_section([{**line, "data_wait": 0.1} for line in lines])[0]


def test_a_log_of_before_there_were_times_has_no_speed(tmp_path):
    assert speed_section([{"step": 1, "loss": 0.5, "lr": 1e-3}]) == []


def test_smoothing_has_no_bias_at_the_start():
    assert [value for _, value in smoothed([(1, 4.0), (2, 4.0)])] == pytest.approx([4.0, 4.0])


def test_one_point_can_be_seen():
    assert "<circle" in chart({"mIoU": [(500, 0.5)]}, 1.0)
    assert "<circle" not in chart({"loss": [(step, 0.5) for step in range(100)]})


def test_the_sweep_names_every_class_and_its_best_threshold():
    thresholds = [0.0, 0.5, 0.75]
    sweep = {"thresholds": thresholds, "miou": [0.2, 0.6, 0.5], "best_threshold": 0.5}
    sweep["classes"] = {"cat": [0.1, 0.5, 0.9], "a <b>": [0.3, 0.7, 0.1]}
    page = sweep_section(sweep)
    assert "mean 0.600" in page
    assert page.count("<polyline") == 3
    assert "<tr><td>cat<td>0.75<td>0.900<td>0.500" in page
    assert "<title>a &lt;b&gt;</title>" in page


def test_a_chart_without_points_says_so():
    assert "nothing yet" in chart({"loss": []})
