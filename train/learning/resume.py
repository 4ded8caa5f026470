"""Training states for exact resuming: one safetensors file each, written atomically, the last K kept."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from digseg_nodes.core.files import written_atomically

PATTERN = "step-" + "[0-9]" * 8 + ".safetensors"


class ResumeError(RuntimeError):
    """A run that cannot be continued or saved; the message says why and what to do."""


def state_path(folder: Path, step: int) -> Path:
    """File of the state after `step` steps."""
    return folder / f"step-{step:08d}.safetensors"


def latest_state(folder: Path) -> Path | None:
    """The newest whole state; half-written files have another suffix and are never seen."""
    return max(folder.glob(PATTERN), default=None)


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], values: dict, keep: int) -> Path:
    """Write a state and drop all but the last `keep`. A full disk raises ResumeError and leaves the previous states."""
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, step)
    for left in folder.glob("step-*.tmp"):  # of a killed process; a run folder has one writer
        left.unlink()
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with written_atomically(path, sync=True) as temporary:
            save_file(content, temporary, metadata={"values": json.dumps(values)})
    except Exception as error:
        raise ResumeError(
            f"The training state of step {step} could not be written to {folder}: {error}. "
            "Free some disk space and start the same command again; earlier states are intact."
        ) from error
    for old in sorted(folder.glob(PATTERN))[:-keep]:
        old.unlink()
    return path


def load_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and values of a state. Raises ResumeError for a file that is damaged or no state."""
    try:
        with safe_open(str(path), framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118 (safe_open is no dict)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResumeError(_damaged(path, error)) from error


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Context that restores the state `path`; raises ResumeError where it lacks something or holds it in another shape."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, ResumeError):
            raise
        raise ResumeError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"The training state {path} cannot be gone on from: {type(error).__name__}: {error}. The file is damaged, or from "
        "another program. Delete it: the run goes on from the state before, or from the start."
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict]:
    """An optimizer's state as named tensors and JSON values, for any optimizer whose state is made of both.

    bitsandbytes nests the quantised part in a dictionary of its own, which counts as if it were flat.
    """
    tensors, values = {}, {}
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in _flat(entries):
            (tensors if isinstance(value, Tensor) else values)[f"optimizer.{number}.{key}"] = value
    return _unshared(tensors), values


def _flat(entries: dict) -> Iterator[tuple[str, object]]:
    for key, value in entries.items():
        yield from value.items() if isinstance(value, dict) else [(key, value)]


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that several names share (the code book of 8-bit moments) become copies: a file holds each name once."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict) -> None:
    """Inverse of optimizer_tensors. Tensors get the memory layout of their parameter, which fused kernels rely on."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict] = {}
    for name, value in {**tensors, **values}.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = _laid_out_as(parameters[int(number)], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(parameter: Tensor, value):
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def check_same_run(saved: dict, current: dict, free: set[str]) -> None:
    """Raise ResumeError when a setting outside `free` differs: the continued run would be another run."""
    different = [key for key in current if key not in free and key in saved and saved[key] != current[key]]
    if different:
        details = "; ".join(f"{key} was {saved.get(key)!r}, now {current[key]!r}" for key in different)
        raise ResumeError(
            f"The run folder holds a run with other settings ({details}). Choose another `output:` for a new "
            "run, or use the old settings to continue."
        )
