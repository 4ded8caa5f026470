"""dev.py without a ComfyUI: the environment, the stamp, finding a host, failures that say what to do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys

import pytest

import dev


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder of its own in place of this checkout."""
    for name, path in {
        "ROOT": ".",
        "VENV": ".venv",
        "CACHE": ".host",
        "LOGS": ".host/logs",
        "SCENES": "demo_scenes",
        "STAMP": ".venv/digseg-installed.json",
    }.items():
        monkeypatch.setattr(dev, name, tmp_path / path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path


def make_comfyui(path):
    (path / "comfy").mkdir(parents=True)
    (path / "main.py").touch()
    return path


def test_venv_is_installed_once_and_again_when_the_list_changes(checkout):
    wanted, log = checkout / "requirements.txt", checkout / ".host" / "logs" / "pip.log"
    wanted.write_text("# nothing\n")
    python = dev.install_into_venv([wanted])
    assert python.is_file() and log.is_file()
    log.unlink()
    assert dev.install_into_venv([wanted]) == python
    assert not log.exists(), "pip ran although nothing had changed"
    wanted.write_text("# still nothing\n")
    dev.install_into_venv([wanted])
    assert log.is_file(), "a changed list was not installed"


def test_moved_venv_is_made_again(checkout):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / "elsewhere"], check=True)
    (checkout / "elsewhere").rename(dev.VENV)
    dev.STAMP.write_text("{}")
    assert dev.runs(dev.venv_python(), "import pip")
    assert not dev.STAMP.exists()


def test_failed_install_says_what_failed_and_what_to_do(checkout):
    with pytest.raises(dev.StepError) as failure:
        dev.pip(sys.executable, "Installing nonsense", "install", "--no-index", "--find-links", checkout, "nonsense-x")
    text = str(failure.value)
    assert text.startswith("FAILED: Installing nonsense")
    assert "No matching distribution found for nonsense-x" in text
    assert "What to do: check the network" in text


def test_comfyui_path_must_hold_comfyui(checkout, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(checkout))
    with pytest.raises(dev.StepError, match=r"there is no main\.py and comfy/ in it"):
        dev.find_host()
    comfyui = make_comfyui(checkout / "ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert dev.find_host() == comfyui


def test_comfyui_around_the_pack_is_found(checkout, monkeypatch):
    assert dev.find_host() is None
    comfyui = make_comfyui(checkout / "ComfyUI")
    monkeypatch.setattr(dev, "ROOT", comfyui / "custom_nodes" / "digseg")
    assert dev.find_host() == comfyui


def test_requirements_of_the_host_have_a_matching_torch_pair(checkout):
    (checkout / "requirements.txt").write_text("torch\ntorchvision\ntorchaudio\ntorchsde\naiohttp>=3\n")
    lines = dev.host_requirements(checkout).read_text().split()
    assert lines == [*dev.TORCH, *dev.UNLISTED, "torchsde", "aiohttp>=3"]


def test_what_the_host_asks_for_and_the_index_lacks_is_said_and_tried_once(checkout, monkeypatch, capsys):
    tried = []

    def fail(python, what, *arguments):
        tried.append(arguments)
        raise dev.StepError(what, "")

    (checkout / "requirements.txt").write_text("torch\ntorchaudio\naiohttp>=3\n")
    dev.VENV.mkdir()
    dev.STAMP.write_text("{}")
    monkeypatch.setattr(dev, "install_into_venv", lambda lists: sys.executable)
    monkeypatch.setattr(dev, "OPTIONAL", ("torchaudio_of_tomorrow", "torchaudio"))
    monkeypatch.setattr(dev, "runs", lambda python, code: False)
    monkeypatch.setattr(dev, "run_child", lambda command: 0)
    monkeypatch.setattr(dev, "pip", fail)
    dev.install_host(checkout)
    assert [words[:2] for words in tried] == [("install", "torchaudio")]
    assert tried[0][2].startswith("torch==")
    assert "going on without it" in capsys.readouterr().out
    dev.install_host(checkout)
    assert len(tried) == 1


def test_base_directory_holds_pack_and_models_and_its_removal_leaves_the_checkout(checkout):
    (checkout / "precious.txt").touch()
    comfyui = make_comfyui(checkout / "ComfyUI")
    (comfyui / "models" / "loras").mkdir(parents=True)
    base = dev.make_base(checkout / ".host" / "base", dev.Install(comfyui, sys.executable, bundled=False))
    assert (base / "custom_nodes" / dev.PACK_NAME / "precious.txt").is_file()
    assert '"loras": "loras"' in (base / "models.yaml").read_text()
    dev.remove_base(base)
    assert not base.exists() and (checkout / "precious.txt").is_file()


def test_a_kept_base_directory_follows_the_checkout_and_the_comfyui(checkout, tmp_path_factory, monkeypatch):
    comfyui = make_comfyui(checkout / "ComfyUI")
    (comfyui / "models").mkdir()
    tmp_path = tmp_path_factory.mktemp("other")
    base = dev.make_base(tmp_path / "base", dev.Install(comfyui, sys.executable, bundled=False))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    monkeypatch.setattr(dev, "ROOT", moved)
    dev.make_base(base, dev.Install(comfyui, sys.executable, bundled=True))
    assert (base / "custom_nodes" / dev.PACK_NAME).resolve() == moved
    assert not (base / "models.yaml").exists()
    (base / "custom_nodes" / dev.PACK_NAME).unlink()
    (base / "custom_nodes" / dev.PACK_NAME / "somebody's").mkdir(parents=True)
    with pytest.raises(dev.StepError, match="something else is there"):
        dev.link_pack(base / "custom_nodes")
    shutil.rmtree(base / "custom_nodes" / dev.PACK_NAME)
    (base / "custom_nodes" / dev.PACK_NAME).touch()
    with pytest.raises(dev.StepError, match="something else is there"):
        dev.link_pack(base / "custom_nodes")


def test_inputs_are_photos_and_videos_not_the_true_masks(checkout):
    dev.SCENES.mkdir()
    for name in ("photo.png", "mask.png", "film.mp4", "notes.txt"):
        (dev.SCENES / name).touch()
    (dev.SCENES / "scenes.json").write_text('[{"image": "photo.png", "prompts": [{"mask": "mask.png"}, {"mask": null}]}]')
    assert {path.name for path in dev.demo_inputs()} == {"photo.png", "film.mp4"}


def test_error_shows_the_failed_import_of_the_pack_not_the_end_of_the_log(tmp_path):
    log = tmp_path / "host.log"
    log.write_text("Traceback\nCannot import /x/custom_nodes/digseg-nodes module\n" + "later\n" * 50)
    assert dev.telling_lines(log)[-1].startswith("Cannot import")


def test_wheel_is_unpacked_once(checkout, monkeypatch):
    def download(python, what, *arguments):
        folder = arguments[arguments.index("--dest") + 1]
        shutil.make_archive(f"{folder}/demo-1-py3-none-any", "zip", checkout / "content")
        shutil.move(f"{folder}/demo-1-py3-none-any.zip", f"{folder}/demo-1-py3-none-any.whl")

    (checkout / "content" / "inner").mkdir(parents=True)
    (checkout / "content" / "inner" / "main.py").touch()
    monkeypatch.setattr(dev, "venv_python", lambda: sys.executable)
    monkeypatch.setattr(dev, "pip", download)
    target = dev.unpack_wheel("demo", "inner/", checkout / ".host" / "demo")
    assert [path.name for path in target.iterdir()] == ["main.py"]
    assert not list((checkout / ".host").glob("tmp*"))
    monkeypatch.setattr(dev, "pip", lambda *_: pytest.fail("downloaded again"))
    dev.unpack_wheel("demo", "inner/", target)


def test_free_port_can_be_bound():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", dev.free_port()))


def test_unknown_arguments_go_to_pytest():
    args, rest = dev.parse(["test", "-k", "host", "-x"])
    assert args.run is dev.test and rest == ["-k", "host", "-x"]


def test_only_a_whole_run_takes_several_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert dev.in_processes([]) == dev.in_processes(["-x", "-k", "host"]) == ["-n", "2", "--dist", "loadfile"]
    for line in (["tests/unit"], ["tests/unit/test_masks.py::test_x"], ["-s"], ["--pdb"], ["-n0"], ["-n", "4"]):
        assert dev.in_processes(line) == []


def test_failure_ends_with_status_1_and_no_traceback(checkout, monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(checkout / "nowhere"))
    monkeypatch.setattr(dev, "exit_on_signals", lambda: None)
    assert dev.main(["demo"]) == 1
    shown = capsys.readouterr().err
    assert "COMFYUI_PATH is" in shown and "What to do:" in shown


@pytest.mark.parametrize("command", ["test", "bench", "stress"])
def test_what_the_archive_lacks_is_said(checkout, monkeypatch, capsys, command):
    monkeypatch.setattr(dev, "find_or_make_install", lambda: pytest.fail("nothing is installed for it"))
    monkeypatch.setattr(dev, "exit_on_signals", lambda: None)
    assert dev.main([command]) == 1
    assert "clone the repository to run this" in capsys.readouterr().err
