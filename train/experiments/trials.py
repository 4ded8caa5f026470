"""Experiment runs: each is one or two of this repository's commands, its result one JSON file, done once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from digseg_nodes.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "train/configs/demo/experiment.yaml"
MODELS = ROOT / "digseg_nodes/models"
BASE = MODELS / "digseg-demo-base.safetensors"
DIFFUSION = MODELS / "digseg-demo-diffusion.safetensors"


EXPORTS = ("digseg-lora.safetensors", "digseg.safetensors")
"""What a training leaves for the nodes: one of these."""


class OtherRunError(Exception):
    """A result of that name is there, made with other settings."""


class StoppedError(Exception):
    """A training was stopped before its end."""


@dataclass(frozen=True)
class Workspace:
    """Where results go, and `key=value` settings that every training gets besides its own."""

    folder: Path
    settings: tuple[str, ...] = ()

    def result(self, name: str) -> Path:
        """The JSON file of a finished run."""
        return self.folder / f"{name}.json"

    def finished(self, name: str, request: dict) -> dict | None:
        """The result of a finished run; raises OtherRunError when what was asked for then is not what is asked for now."""
        if not self.result(name).is_file():
            return None
        result = json.loads(self.result(name).read_text(encoding="utf-8"))
        if result.get("request") != json.loads(json.dumps(request)):
            raise OtherRunError(
                f"{self.result(name)} was made with other settings, another model or an older version. Choose another "
                "--output, or delete it and the folder beside it."
            )
        return result

    def call(self, script: str, *arguments: Any) -> None:
        """Run a command of this repository, e.g. "train/finetune.py"; its errors end the program with their message."""
        line = [str(argument) for argument in arguments]
        print("$", " ".join([script, *line]), flush=True)
        import_module(script.removesuffix(".py").replace("/", ".")).main(line)


@dataclass(frozen=True)
class Trial:
    """A fine-tuning and its score on held-back images.

    settings: `key=value` of train/finetune.py. data: content of a data YAML with a test part. images, options: of
    train/evaluate.py.
    """

    name: str
    settings: dict[str, Any]
    data: dict
    images: int
    options: tuple[str, ...] = ()

    def run(self, workspace: Workspace) -> dict:
        """Train, evaluate, keep the result; a finished run is read, a stopped one goes on."""
        base = fingerprint(Path(self.settings.get("base", BASE)))
        request = {"settings": [self.settings, workspace.settings, self.images, self.options], "data": self.data, "base": base}
        request = portable(request)
        if result := workspace.finished(self.name, request):
            return result
        folder = workspace.folder / self.name
        data = write_yaml(folder / "data.yaml", self.data)
        overrides = [f"{key}={as_yaml(value)}" for key, value in self.settings.items()]
        workspace.call(
            "train/finetune.py", "--config", CONFIG, f"data={data}", f"output={folder}", *overrides, *workspace.settings
        )
        if not any((folder / name).is_file() for name in EXPORTS):
            raise StoppedError(f"{self.name} was stopped; the same command goes on from there.")
        self.evaluate(workspace, folder, data)
        result = {"name": self.name, "settings": self.settings, "base": base, "request": request}
        result |= {"data": portable(self.data), **curves(folder / "log.jsonl"), **weights(folder)}
        result |= {"images": self.images, "scores": json.loads((folder / "scores.json").read_text(encoding="utf-8"))["runs"]}
        save(workspace.result(self.name), portable(result))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return result

    def evaluate(self, workspace: Workspace, folder: Path, data: Path) -> None:
        """Score the end of a run on the test part."""
        adapters, whole = (folder / name for name in EXPORTS)
        if adapters.is_file():
            what = ["--checkpoint", self.settings["base"], "--lora", adapters]
        else:
            what = ["--checkpoint", whole, "--components", self.settings.get("base", BASE)]
        where = ["--data", data, "--report", folder / "scores.json", "--images", self.images]
        workspace.call("train/evaluate.py", *what, *where, *self.options)


@dataclass(frozen=True)
class Probe:
    """A measurement of a finished checkpoint by a script that writes `--report FILE`."""

    name: str
    script: str
    arguments: tuple[Any, ...]
    checkpoint: Path
    data: dict | None = None

    def run(self, workspace: Workspace) -> dict:
        """Measure, keep the result; a finished one is read."""
        model = fingerprint(self.checkpoint)
        request = portable({"script": self.script, "arguments": self.arguments, "data": self.data, "model": model})
        if result := workspace.finished(self.name, request):
            return result
        folder = workspace.folder / self.name
        report, arguments = folder / "report.json", list(self.arguments)
        if self.data is not None:
            arguments += ["--data", write_yaml(folder / "data.yaml", self.data)]
        folder.mkdir(parents=True, exist_ok=True)
        workspace.call(self.script, "--checkpoint", self.checkpoint, "--report", report, *arguments)
        content = json.loads(report.read_text(encoding="utf-8"))
        result = {"name": self.name, "model": model, "request": request, "report": content}
        save(workspace.result(self.name), portable(result))
        return result


@dataclass(frozen=True)
class AskedWhole:
    """A finished trial's end, scored once more on photos that are not padded, whatever the training saw."""

    name: str
    of: Trial

    def run(self, workspace: Workspace) -> dict:
        """Measure, keep the result; a finished one is read."""
        trained, folder = trained_folder(workspace, self.of, self.name), workspace.folder / self.name
        checkpoint = folder / "whole.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        if not checkpoint.is_file():
            workspace.call("train/convert.py", trained / EXPORTS[1], checkpoint, "--set", "photo_shape=whole")
        arguments = ("--images", self.of.images, "--components", self.of.settings.get("base", BASE))
        return Probe(self.name, "train/evaluate.py", arguments, checkpoint, self.of.data).run(workspace)


@dataclass(frozen=True)
class Decoded:
    """A finished trial's end, scored once more with another decoder."""

    name: str
    of: Trial
    decoder: str

    def run(self, workspace: Workspace) -> dict:
        """Measure, keep the result; a finished one is read."""
        checkpoint = trained_folder(workspace, self.of, self.name) / EXPORTS[1]
        components = self.of.settings.get("base", BASE)
        arguments = ("--images", self.of.images, "--components", components, "--decoder", self.decoder)
        return Probe(self.name, "train/evaluate.py", arguments, checkpoint, self.of.data).run(workspace)


def trained_folder(workspace: Workspace, of: Trial, name: str) -> Path:
    """The folder of the finished trial that `name` measures; StoppedError where it is not trained yet."""
    folder = workspace.folder / of.name
    if not (folder / EXPORTS[1]).is_file():
        raise StoppedError(f"{of.name} is not trained yet, and {name} is a measurement of it.")
    return folder


def write_yaml(path: Path, values: dict) -> Path:
    """Write a YAML file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def as_yaml(value: Any) -> str:
    """A setting as one line of YAML."""
    return (
        yaml.safe_dump(str(value) if isinstance(value, Path) else value, default_flow_style=True, width=10**6)
        .split("\n...")[0]
        .strip()
    )


def portable(value: Any) -> Any:
    """JSON values whose paths are relative to the repository, or bare names outside it."""
    if isinstance(value, dict):
        return {key: portable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [portable(one) for one in value]
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith(os.sep)):
        path = Path(value)
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return value


def curves(log: Path) -> dict:
    """Losses [(step, loss)] and validations [(step, mIoU)] of a run's log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [(line["step"], round(line["loss"], 5)) for line in lines if "loss" in line]
    return {"losses": losses, "curve": [(line["step"], line["validation"]["miou"]) for line in lines if "validation" in line]}


def weights(folder: Path) -> dict:
    """Name and size in bytes of the file a run leaves for the nodes."""
    file = next(path for name in EXPORTS if (path := folder / name).is_file())
    return {"file": file.name, "bytes": file.stat().st_size}


def fingerprint(path: Path) -> dict:
    """Which file a number belongs to: its name and the start of its SHA-256."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()[:12]}


def save(path: Path, result: dict) -> None:
    """Write a result in one go, so that a killed run leaves none rather than half of one."""
    write_text(path, json.dumps(result, indent=1) + "\n")
