"""What a user of the registry gets: the archive in an empty ComfyUI runs an example and trains two steps from there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import dev
from tools.api import Client, to_prompt


@pytest.fixture(scope="module")
def installed(install, archived, tmp_path_factory):
    """A ComfyUI whose custom_nodes holds the archive, unpacked; (its Host, the pack's folder)."""
    folder = tmp_path_factory.mktemp("registry") / "digseg"  # the registry names the folder as it likes
    for name in archived:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dev.ROOT / name, folder / name)
    patch = pytest.MonkeyPatch()
    patch.setattr(dev, "link_pack", lambda nodes: (nodes / dev.PACK_NAME).symlink_to(folder, target_is_directory=True))
    with dev.running_host(install, "archive") as host:
        yield host, folder
    patch.undo()


def run_graph(host, folder: Path, name: str) -> tuple[dict, dict]:
    """The prompt of one of the archive's own graphs, and what its nodes showed."""
    with Client(host.url) as client:
        prompt = to_prompt(json.loads((folder / "workflows" / f"{name}.json").read_text(encoding="utf-8")), client.object_info())
        return prompt, client.run(prompt).outputs


def test_the_demo_graph_runs(installed):
    prompt, outputs = run_graph(*installed, "text_to_mask")
    share = next(node for node, content in prompt.items() if content["class_type"] == "PreviewAny")
    assert float(outputs[share]["text"][0]) > 0.01


def test_the_trainer_runs_from_there_on_a_pair_saved_there(installed, tmp_path):
    prompt, outputs = run_graph(*installed, "teach")
    data = next(outputs[node]["text"][0] for node, content in prompt.items() if content["class_type"] == "PreviewAny")
    overrides = ["steps=2", "batch_size=1", f"data={data}", f"output={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
    command = [
        dev.everything_python(dev.find_or_make_install()),
        "train/finetune.py",
        "--config",
        "train/configs/lora_example.yaml",
    ]
    trained = subprocess.run([*command, *overrides], cwd=installed[1], capture_output=True, text=True)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (tmp_path / "run" / "digseg-lora.safetensors").is_file()
