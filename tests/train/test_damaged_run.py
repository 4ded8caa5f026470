"""A run folder that something happened to: damaged states and logs are named or passed over, never a traceback."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from train.finetune import main as finetune
from train.learning import loop
from train.learning.forecast import MemoryFullError, memory_errors
from train.learning.resume import latest_state, load_state, save_state
from train.learning.run_log import RunLog, read_log


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base, data):
    """A run folder of two steps, made once."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "config.yaml"
    config.write_text(f"base: {base}\ndata: {data}\ncache: {base.parent / 'cache'}\nresolution: 64\nbatch_size: 2\n")
    finetune(["--config", str(config), f"output={folder / 'run'}", "steps=2", "log_every=1"])
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The same as one's own: run folder and the command that goes on with it."""
    folder = shutil.copytree(trained / "run", tmp_path / "run")
    return folder, ["--config", str(trained / "config.yaml"), f"output={folder}", "steps=3", "log_every=1"]


def test_the_undamaged_run_goes_on(run):
    folder, line = run
    finetune(line)
    assert [entry["step"] for entry in read_log(folder / "log.jsonl")] == [1, 2, 3]


def state_without(folder, **changes):
    tensors, values = load_state(latest_state(folder))
    for name, value in changes.items():
        target = values if name in values else tensors
        name = name.replace("__", ".")
        if value is None:
            del target[name]
        else:
            target[name] = value
    save_state(folder, 2, tensors, values, keep=1)


STATES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("no state"),
    "huge header": lambda path: path.write_bytes(b"\xff" * 64),
    "no values": lambda path: save_file({"x": torch.ones(1)}, path),
    "bad values": lambda path: save_file({"x": torch.ones(1)}, path, metadata={"values": "{"}),
    "values of another kind": lambda path: save_file({"x": torch.ones(1)}, path, metadata={"values": "[]"}),
    "deep values": lambda path: save_file({"x": torch.ones(1)}, path, metadata={"values": "[" * 100_000}),
    "no weights": lambda path: state_without(path.parent, unet__conv_in__bias=None),
    "another shape": lambda path: state_without(path.parent, unet__conv_in__bias=torch.ones(7)),
    "no averages": lambda path: state_without(path.parent, ema__0=None),
    "no progress": lambda path: state_without(path.parent, progress=None),
    "other progress": lambda path: state_without(path.parent, progress={"stage": 1}),
    "no settings": lambda path: state_without(path.parent, config=None),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", STATES)
def test_a_damaged_state_is_named_with_what_to_do(run, damage):
    folder, line = run
    state = latest_state(folder / "checkpoints")
    STATES[damage](state)
    log = (folder / "log.jsonl").read_bytes()
    with pytest.raises(SystemExit) as end:
        finetune(line)
    assert str(state) in end.value.code and "Delete it" in end.value.code
    assert (folder / "log.jsonl").read_bytes() == log


def test_files_that_only_look_like_states_do_not_count(run):
    folder, line = run
    for name in ("step-latest", "step-000000xx", "step-1", "step-000000001"):
        (folder / f"checkpoints/{name}.safetensors").write_bytes(b"mine")
    finetune(line)
    assert load_state(latest_state(folder / "checkpoints"))[1]["progress"]["step"] == 3


def test_broken_lines_of_the_log_are_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = ['{"step": 1}', "", "null", "[]", "{", '{"step": "x"}', '{"loss": 1}', "\0\0\0", "[" * 100_000, '{"step": 2}']
    path.write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n{"step": 3}\n{"step')
    assert [line["step"] for line in read_log(path)] == [1, 2, 3]
    RunLog(path, True).open(2)
    assert [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [1, 2]


@pytest.mark.parametrize("name", ["log.jsonl", "digseg.safetensors", "report.html"])
def test_a_folder_where_a_file_belongs_is_named(run, name):
    folder, line = run
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(SystemExit) as end:
        finetune(line)
    assert name in end.value.code


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(), RuntimeError("can't allocate memory: you tried")],
)
def test_full_memory_is_said_with_what_to_do(run, error, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(loop.Trainer, "step", full)
    with pytest.raises(SystemExit, match=r"The memory is full.*gradient_checkpointing.*goes on from the last state"):
        finetune(run[1])


def test_other_errors_are_not_taken_for_full_memory():
    with pytest.raises(RuntimeError, match="a defect") as caught, memory_errors():
        raise RuntimeError("a defect")
    assert not isinstance(caught.value, MemoryFullError)


def test_layers_that_a_network_lacks_are_named(config_file, tmp_path):
    from tests.train.helpers import tiny_base

    base = tiny_base(tmp_path / "eight.safetensors", in_channels=8)
    for targets in ("[nothing]", "[]"):
        with pytest.raises(SystemExit, match=r"lora.targets"):
            finetune(["--config", str(config_file), f"base={base}", f"lora={{targets: {targets}}}"])
