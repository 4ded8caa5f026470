# ruff: noqa: E501 - tables with a row a line
"""LoRA layers of every kind that fit a weight, and that do not, and LoRA files whose strengths are no numbers.

Sides of tensors are numbers or "O" (outputs of the weight), "I" (its inputs), "I9" (inputs times a 3x3 kernel), "O/4" and "I/2".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, float32, tensor

Sides = list
DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"
PAIR = {DOWN: [4, "I"], UP: ["O", 4]}
CONV = {DOWN: [4, "I", 3, 3], UP: ["O", 4, 1, 1]}
CORE = {DOWN: [4, "I", 1, 1], UP: ["O", 4, 1, 1], MID: [4, 4, 3, 3]}
HADA = {"hada_w1_a": ["O", 2], "hada_w1_b": [2, "I"], "hada_w2_a": ["O", 2], "hada_w2_b": [2, "I"]}
TUCKER = {
    "hada_w1_a": [2, "O"], "hada_w1_b": [2, "I"], "hada_w2_a": [2, "O"], "hada_w2_b": [2, "I"],
    "hada_t1": [2, 2, 3, 3], "hada_t2": [2, 2, 3, 3],
}  # fmt: skip
LOKR = {"lokr_w1": [4, 2], "lokr_w2": ["O/4", "I/2"]}

FIT: list[tuple[str, str, dict[str, Sides]]] = [
    ("a pair", "linear", PAIR),
    ("a pair with a strength", "linear", {**PAIR, "alpha": []}),
    ("a pair on a convolution", "conv", CONV),
    ("a pair and a bias", "conv", {**CONV, "diff_b": ["O"]}),
    ("a pair around a core", "conv", CORE),
    ("DoRA by outputs", "linear", {**PAIR, "dora_scale": ["O", 1]}),
    ("DoRA by inputs", "linear", {**PAIR, "dora_scale": [1, "I"]}),
    ("DoRA of a convolution", "conv", {**CONV, "dora_scale": [1, "I", 1, 1]}),
    ("LoHa", "linear", {**HADA, "alpha": []}),
    ("LoHa on a convolution", "conv", {**HADA, "hada_w1_b": [2, "I9"], "hada_w2_b": [2, "I9"]}),
    ("LoHa with cores", "conv", TUCKER),
    ("LoKr", "linear", LOKR),
    ("LoKr of low rank", "linear", {"lokr_w1": [4, 2], "lokr_w2_a": ["O/4", 2], "lokr_w2_b": [2, "I/2"], "alpha": []}),
    ("LoKr of low ranks", "linear", {"lokr_w1_a": [4, 1], "lokr_w1_b": [1, 2], "lokr_w2_a": ["O/4", 2], "lokr_w2_b": [2, "I/2"]}),
    ("LoKr on a convolution", "conv", {"lokr_w1": [4, 2], "lokr_w2": ["O/4", "I/2", 3, 3]}),
    ("OFT", "linear", {"oft_blocks": ["O/4", 4, 4]}),
    ("BOFT", "linear", {"oft_blocks": [1, "O/4", 4, 4], "alpha": []}),
    ("a difference", "linear", {"diff": ["O", "I"]}),
    ("a difference of a convolution and its bias", "conv", {"diff": ["O", "I", 3, 3], "diff_b": ["O"]}),
    ("a difference of a bias", "conv", {"diff_b": ["O"]}),
    ("a norm", "norm", {"w_norm": ["O"], "b_norm": ["O"]}),
    ("another weight", "linear", {"set_weight": ["O", "I"]}),
]  # fmt: skip
"""(kind of change, kind of layer, its tensors)."""

UNFIT: list[tuple[str, str, dict[str, Sides]]] = [
    ("two ranks", "linear", {DOWN: [2, "I"], UP: ["O", 3]}),
    ("other inputs", "linear", {DOWN: [4, 7], UP: ["O", 4]}),
    ("outputs and inputs exchanged", "linear", {DOWN: [4, "O"], UP: ["I", 4]}),
    ("half a pair", "linear", {DOWN: [4, "I"]}),
    ("a core of another rank", "conv", {**CORE, MID: [3, 4, 3, 3]}),
    ("a core that is a matrix", "conv", {**CORE, MID: [4, 4]}),
    ("a core alone", "conv", {MID: [4, 4, 3, 3]}),
    ("another shape to fill", "linear", {**PAIR, "reshape_weight": [2]}),
    ("5x5 on 3x3", "conv", {DOWN: [4, "I", 5, 5], UP: ["O", 4, 1, 1]}),
    ("DoRA of 3x3 numbers", "linear", {**PAIR, "dora_scale": [3, 3]}),
    ("DoRA of one number", "linear", {**PAIR, "dora_scale": []}),
    ("DoRA in a row", "linear", {**PAIR, "dora_scale": ["O"]}),
    ("DoRA of a difference", "linear", {"diff": ["O", "I"], "dora_scale": ["O", 1]}),
    ("a difference of 3x3 numbers", "linear", {"diff": [3, 3]}),
    ("a difference and a pair", "linear", {**PAIR, "diff": ["O", "I"]}),
    ("a bias of another length", "conv", {"diff_b": [5]}),
    ("a bias where there is none", "linear", {**PAIR, "diff_b": ["O"]}),
    ("LoHa of another size", "linear", {**HADA, "hada_w1_b": [2, 5], "hada_w2_b": [2, 5]}),
    ("LoHa of two sizes", "linear", {**HADA, "hada_w2_b": [2, 5]}),
    ("half a LoHa", "linear", {"hada_w1_a": ["O", 2], "hada_w1_b": [2, "I"]}),
    ("a LoHa without its beginning", "linear", {"hada_w2_a": ["O", 2], "hada_w2_b": [2, "I"]}),
    ("LoHa with one core", "conv", {name: sides for name, sides in TUCKER.items() if name != "hada_t2"}),
    ("LoKr of another size", "linear", {"lokr_w1": [5, 2], "lokr_w2": ["O/4", "I/2"]}),
    ("half a LoKr", "linear", {"lokr_w1": [4, 2]}),
    ("LoKr with half a product", "linear", {"lokr_w1": [4, 2], "lokr_w2_a": ["O/4", 2]}),
    ("OFT of another size", "linear", {"oft_blocks": [3, 5, 5]}),
    ("OFT of no squares", "linear", {"oft_blocks": ["O/4", 4, 3]}),
    ("OFT of two sides", "linear", {"oft_blocks": [4, 4]}),
    ("OFT that is scaled", "linear", {"oft_blocks": ["O/4", 4, 4], "rescale": ["O", 1]}),
    ("BOFT without a strength", "linear", {"oft_blocks": [1, "O/4", 4, 4]}),
    ("a norm of another length", "norm", {"w_norm": [5]}),
    ("half a norm", "norm", {"b_norm": ["O"]}),
    ("another weight of another shape", "linear", {"set_weight": [3, 3]}),
    ("another weight of one number", "linear", {"set_weight": []}),
    ("a strength alone", "linear", {"alpha": []}),
    ("rank 0", "linear", {DOWN: [0, "I"], UP: ["O", 0]}),
]  # fmt: skip
"""The same, of what ComfyUI leaves out or fails at."""

_A, _B = "unet.mid_block.a.to_q.lora_A.weight", "unet.mid_block.a.to_q.lora_B.weight"
_GOOD = {_A: torch.zeros(2, 6), _B: torch.zeros(8, 2)}
BAD_NAMES: list[tuple[str, dict[str, Tensor], dict | None, str]] = [
    ("lora_alpha of words", _GOOD, {"lora_alpha": "x"}, "its lora_alpha is 'x'; a number is expected"),
    ("lora_alpha in a list", _GOOD, {"lora_alpha": [4]}, r"its lora_alpha is '\[4\]'; a number"),
    ("lora_alpha of 400 digits", _GOOD, {"lora_alpha": 10**400}, "its lora_alpha is '1000.*; a number"),
    ("lora_alpha true", _GOOD, {"lora_alpha": True}, "its lora_alpha is 'True'; a number"),
    ("alpha_pattern is a list", _GOOD, {"alpha_pattern": [1, 2]}, r"its alpha_pattern is '\[1, 2\]'; a table of numbers"),
    ("alpha_pattern is a number", _GOOD, {"alpha_pattern": 5}, "its alpha_pattern is '5'; a table of numbers"),
    ("alpha_pattern of words", _GOOD, {"alpha_pattern": {"to_q": "x"}}, "its alpha_pattern of 'to_q' is 'x'; a number"),
    ("alpha of no elements", {**_GOOD, "unet.mid_block.a.to_q.alpha": torch.zeros(0)}, None, r"to_q.alpha is of shape \[0\]; one number"),
    ("alpha of three elements", {**_GOOD, "unet.mid_block.a.to_q.alpha": torch.zeros(3)}, None, r"to_q.alpha is of shape \[3\]; one number"),
    ("alpha NaN", {**_GOOD, "unet.mid_block.a.to_q.alpha": tensor(float("nan"))}, None, "to_q.alpha is nan; one number"),
    ("a pair of numbers", {_A: tensor(1.0), _B: tensor(1.0)}, {"lora_alpha": 4}, r"lora_A.weight is \[\]; a matrix"),
    ("a pair of rows", {_A: torch.zeros(6), _B: torch.zeros(8)}, None, r"lora_A.weight is \[6\]; a matrix"),
    ("a pair of rank 0", {_A: torch.zeros(0, 6), _B: torch.zeros(8, 0)}, None, r"lora_A.weight is \[0, 6\]; a matrix"),
    ("a tensor twice", {**_GOOD, "lora_unet_mid_block_a_to_q.lora_down.weight": torch.zeros(2, 6)}, None, "are the same tensor under two names"),
]  # fmt: skip
"""(what is wrong, tensors, adapter_config.json, the error)."""


def layer_of(layer: str, parts: Mapping[str, Sides], shape: tuple) -> dict[str, Tensor]:
    """A layer's tensors, random ones, for a weight of this shape."""
    outputs, inputs = shape[0], (*shape, 1)[1]
    letters = {"O": outputs, "I": inputs, "I9": inputs * 9, "O/4": outputs // 4, "I/2": inputs // 2}
    generator, made = torch.Generator().manual_seed(3), {}
    for name, sides in parts.items():
        made[f"{layer}.{name}"] = 1 + torch.rand([letters.get(side, side) for side in sides], generator=generator, dtype=float32)
    if "oft_blocks" in parts and "alpha" in parts:
        made[f"{layer}.alpha"] = tensor(100.0)
    return made
