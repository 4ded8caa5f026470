"""The versions that CI installs fit the lists that people install."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def requirements(path: Path) -> list[Requirement]:
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


PINS = {one.name.lower().replace("_", "-"): one for one in requirements(ROOT / "tests/constraints.txt")}


@pytest.mark.parametrize("name", ["train/requirements.txt", "tests/requirements.txt"])
def test_every_package_that_is_asked_for_has_a_version_that_fits(name):
    for wanted in requirements(ROOT / name):
        pin = PINS[wanted.name.lower().replace("_", "-")]
        version = next(iter(pin.specifier)).version
        assert wanted.specifier.contains(version), f"{wanted} and {pin}"


def test_pins_are_exact_and_hold_where_they_were_tried():
    """Other Pythons and systems have other versions; ComfyUI names those of its own page itself."""
    for name, pin in PINS.items():
        assert [one.operator for one in pin.specifier] == ["=="] and pin.marker and not name.startswith("comfyui")


def test_ci_installs_them():
    assert "PIP_CONSTRAINT" in (ROOT / ".ci/run").read_text(encoding="utf-8")
