"""Whether a LoRA under kohya's names fits a network, and in which words it does not.

ComfyUI only logs a change that it cannot calculate and goes on without it, so shapes are calculated here first, on the meta
device, in the order in which its weight adapters do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError
from .lora_names import layers_of, split_name

Parts = Mapping[str, Tensor]
"""A layer's tensors on the meta device, by kohya's suffix without its dot."""
_EVERYWHERE = {"alpha", "diff_b"}
_NOT_FLOAT = {"alpha", "reshape_weight"}


def _pair(parts: Parts, weight: Tensor) -> Tensor:
    down, mid = parts["lora_down.weight"], parts.get("lora_mid.weight")
    if mid is not None:
        product = down.transpose(0, 1).flatten(1) @ mid.transpose(0, 1).flatten(1)  # [I,R] @ [R,R*kh*kw]
        down = product.reshape(down.shape[1], down.shape[0], mid.shape[2], mid.shape[3]).transpose(0, 1)  # [R,I,kh,kw]
    return _like(torch.mm(parts["lora_up.weight"].flatten(1), down.flatten(1)), weight, down.shape[1])


def _hada(parts: Parts, weight: Tensor) -> Tensor:
    first, second = (_low_rank(parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"], parts.get(f"hada_t{n}")) for n in (1, 2))
    return _like(first * second, weight)


def _lokr(parts: Parts, weight: Tensor) -> Tensor:
    first = parts["lokr_w1"] if "lokr_w1" in parts else _low_rank(parts["lokr_w1_a"], parts["lokr_w1_b"])
    second = parts.get("lokr_w2")
    if second is None:
        second = _low_rank(parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2"))
    if second.ndim == 4:
        first = first.unsqueeze(2).unsqueeze(2)
    return _like(torch.kron(first, second), weight)  # fails with a core in some releases of torch, there and here


def _low_rank(a: Tensor, b: Tensor, core: Tensor | None = None) -> Tensor:
    """a @ b, or with a Tucker core [i,j,k,l]."""
    return torch.mm(a, b) if core is None else torch.einsum("i j k l, j r, i p -> p r k l", core, b, a)


def _oft(parts: Parts, weight: Tensor) -> Tensor:
    blocks = parts["oft_blocks"]
    *butterflies, count, size, across = blocks.shape
    if size != across or count * size != weight.shape[0] or len(butterflies) > 1:
        raise ValueError
    if not butterflies and "rescale" in parts:  # the host leaves it out of OFT
        raise ValueError
    return _butterflies(butterflies[0], size, parts, weight) if butterflies else weight


def _butterflies(count: int, size: int, parts: Parts, weight: Tensor) -> Tensor:
    """BOFT, which the host calculates only with an alpha."""
    if "alpha" not in parts or size % 2 or not 0 < count < 32:
        raise ValueError
    weight.unflatten(0, (-1, 2, 2 ** (count - 1) * (size // 2)))
    return weight * parts["rescale"] if "rescale" in parts else weight


def _whole(name: str) -> Callable[[Parts, Tensor], Tensor]:
    """A tensor of the weight's own shape."""
    return lambda parts, _: parts[name]


def _like(change: Tensor, weight: Tensor, inputs: int | None = None) -> Tensor:
    """A change in the weight's shape; ValueError where its rows or columns would be other ones than the weight's."""
    if change.shape[0] != weight.shape[0] or (inputs is not None and weight.ndim > 1 and inputs != weight.shape[1]):
        raise ValueError
    return change.reshape(weight.shape)


_LOKR = [
    ({*first, *second}, {"dora_scale"} | ({"lokr_t2"} if len(second) == 2 else set()), _lokr)
    for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
    for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
]
_HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_WAYS: list[tuple[set[str], set[str], Callable[[Parts, Tensor], Tensor]]] = [
    ({"lora_down.weight", "lora_up.weight"}, {"lora_mid.weight", "reshape_weight", "dora_scale"}, _pair),
    (_HADA, {"dora_scale"}, _hada),
    (_HADA | {"hada_t1", "hada_t2"}, {"dora_scale"}, _hada),
    *_LOKR,
    ({"oft_blocks"}, {"rescale", "dora_scale"}, _oft),
    ({"diff"}, set(), _whole("diff")),
    ({"w_norm"}, {"b_norm"}, _whole("w_norm")),
    ({"set_weight"}, set(), _whole("set_weight")),
]
"""How a layer is changed: the tensors that it takes, those that may be beside them, and the change they make."""


def faults(lora: Mapping[str, Tensor], shapes: Mapping[str, tuple], biases: Mapping[str, tuple]) -> dict[str, str]:
    """Layers of a LoRA that cannot be applied → what they hold, on which weight.

    shapes: layer → its weight's shape. biases: layer → its bias's, of those that have one.
    """
    found = {}
    for layer, keys in layers_of(lora).items():
        parts = {split_name(key)[1][1:]: lora[key] for key in keys}
        if not _fits(parts, shapes[layer], biases.get(layer)):
            held = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(parts.items()))
            found[layer] = f"{held} on a weight of {list(shapes[layer])}"
    return found


def _fits(parts: dict[str, Tensor], shape: tuple, bias: tuple | None) -> bool:
    """Whether a layer's tensors are one whole set, of floating-point numbers, that changes weight and bias of these shapes."""
    if any(not tensor.is_floating_point() for name, tensor in parts.items() if name not in _NOT_FLOAT):
        return False
    added = [tuple(parts[name].shape) for name in ("diff_b", "b_norm") if name in parts]
    if added not in ([], [bias]):
        return False
    if "diff_b" in parts and set(parts) <= _EVERYWHERE:
        return True
    for needed, may, change in _WAYS:
        if needed <= set(parts) <= needed | may | _EVERYWHERE:
            return _changes(parts, shape, change)
    return False


def _changes(parts: dict[str, Tensor], shape: tuple, change: Callable[[Parts, Tensor], Tensor]) -> bool:
    """Whether the tensors make a change of this shape."""
    if "reshape_weight" in parts and parts["reshape_weight"].tolist() != list(shape):
        return False
    weight = torch.empty(shape, device="meta")
    there = {name: torch.empty(tensor.shape, device="meta") for name, tensor in parts.items()}
    try:
        made = change(there, weight)
        if "dora_scale" in there:
            made = _scaled(there["dora_scale"], made)
    except (RuntimeError, ValueError, IndexError, KeyError):
        return False
    return made.shape == weight.shape and 0 not in made.shape and all(tensor.numel() for tensor in there.values())


def _scaled(scale: Tensor, change: Tensor) -> Tensor:
    """A change with DoRA's magnitudes: along the outputs, or along the inputs as the host takes them otherwise."""
    axis = 0 if scale.shape[0] == change.shape[0] else 1
    if axis == 0 and scale.ndim != change.ndim:  # broadcast along the inputs, they would scale something else
        raise ValueError
    norm = torch.empty([side if at == axis else 1 for at, side in enumerate(change.shape)], device="meta")
    return change * (scale / norm)


def check_not_empty(lora: Mapping[str, Tensor], decoder: object, name: str) -> None:
    """CheckpointError for a LoRA file that changes nothing. decoder: the mask decoder in it, or None."""
    if not lora and decoder is None:
        raise CheckpointError(f"{name} is no LoRA: it holds no tensors. Download or export it again.")


def bias_of(weight: str) -> str:
    """Name of the bias beside a layer's weight."""
    return weight.removesuffix("weight") + "bias"


def does_not_fit(path: Path, names: list[str], total: int, what: str) -> str:
    """The error for `names` of `total` layers or tensors of a LoRA file; what: what is wrong with them."""
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{path.name} does not fit this model: {len(names)} of {total} {what}: {listed}. Use a LoRA trained on this "
        "checkpoint's U-Net (the same Stable Diffusion family); text encoder layers cannot be applied to a MODEL."
    )
