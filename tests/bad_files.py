# ruff: noqa: E501 - tables with a row a line
"""Checkpoints as strangers, accidents and attackers make them: a table of bad files, and mutations of good ones."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

from digseg_nodes.core.schedule import STABLE_DIFFUSION

UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "cross_attention_dim": 8,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
CONFIG = {
    "unet": UNET,
    "scheduler": {**STABLE_DIFFUSION, "prediction_type": "v_prediction"},
    "vae": {"latent_channels": 4, "scaling_factor": 0.18215, "block_out_channels": [32, 32]},
    "text_encoder": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "hidden_act": "gelu"},
    "mask_target": "binary",
    "default_steps": 10,
    "initial_noise": "gaussian",
    "threshold": 0.5,
    "resolution": 64,
    "class_names": ["cat"],
    "base_model": "base",
    "prediction_type": "v_prediction",
}
SHAPES = {"unet.conv_in.weight": [32, 8, 3, 3], "unet.conv_in.bias": [32], "vae.encoder.conv_in.weight": [32, 3, 3, 3]}
DEEP = "[" * 100_000 + "]" * 100_000


def edited(config: dict, path: str, value: object) -> dict:
    """A copy with the field `path` ("unet.in_channels") set to `value`; `...` takes it away."""
    copy = json.loads(json.dumps(config))
    put(copy, tuple(path.split(".")), value)
    return copy


def put(values, place: tuple, value: object) -> None:
    """Set what is at a key path, in place; `...` takes it away."""
    *above, last = place
    for key in above:
        values = values[key]
    if value is ...:
        del values[last]
    else:
        values[last] = value


def header(metadata: dict | None = None, shapes: dict[str, list[int]] = SHAPES) -> dict:
    """A safetensors header of half-precision tensors, one behind the other."""
    out, end = {}, 0
    if metadata is not None:
        out["__metadata__"] = metadata
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        out[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return out


def file_bytes(head: dict | bytes, data: bytes | None = None) -> bytes:
    """A safetensors file of a header and its data, zeros unless given."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode("utf-8", "surrogatepass")
    if data is None:
        ends = [entry["data_offsets"][1] for name, entry in head.items() if name != "__metadata__"]
        data = bytes(max(ends, default=0))
    return struct.pack("<Q", len(text)) + text + data


def our_file(config: object = CONFIG, **metadata: str) -> bytes:
    """A DiGSeg file whose digseg.config is `config` (text as it is, or a value made JSON)."""
    text = config if isinstance(config, str) else json.dumps(config)
    return file_bytes(header({"digseg.format": "1", "digseg.config": text, **metadata}))


def folder(at: Path, **changes: object) -> Path:
    """A diffusers folder; `changes` replace the content of "unet/config.json" and the like (None: no such file)."""
    files: dict[str, object] = {
        "model_index.json": {"_class_name": "MarigoldDepthPipeline"},
        "unet/config.json": UNET,
        "unet/diffusion_pytorch_model.safetensors": file_bytes(header(None, {"conv_in.weight": [32, 8, 3, 3]})),
        "vae/config.json": CONFIG["vae"],
        "vae/diffusion_pytorch_model.safetensors": file_bytes(header(None, {"encoder.conv_in.weight": [32, 3, 3, 3]})),
        "scheduler/scheduler_config.json": CONFIG["scheduler"],
    }
    for name, content in {**files, **changes}.items():
        if content is None:
            continue
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return at


Make = Callable[[Path], Path]
"""Makes a bad file or folder under a path it is given and returns what is to be opened."""


def one_file(content: bytes) -> Make:
    def make(at: Path) -> Path:
        path = at / "model.safetensors"
        path.write_bytes(content)
        return path

    return make


def one_folder(**changes: object) -> Make:
    return lambda at: folder(at / "model", **changes)


def fields() -> list[tuple[str, Make, str]]:
    """Every field of a config with values that it cannot have."""
    rows = [
        ("default_steps", -5), ("default_steps", 0), ("default_steps", 10**9), ("default_steps", 2.5), ("default_steps", "x"),
        ("default_steps", None), ("default_steps", True), ("default_steps", [4]),
        ("resolution", 10**9), ("resolution", 0), ("resolution", -64), ("resolution", "512"), ("resolution", {}),
        ("threshold", -0.1), ("threshold", 2), ("threshold", "half"), ("threshold", None),
        ("class_names", "cat"), ("class_names", [1, 2]), ("class_names", {"a": 1}), ("base_model", 3), ("base_model", ["x"]),
        ("unet", None), ("unet", []), ("unet", "UNet2DConditionModel"), ("scheduler", None), ("scheduler", 7), ("vae", "vae"),
        ("text_encoder", [1]),
        ("unet.in_channels", "8"), ("unet.in_channels", -8), ("unet.in_channels", 10**12), ("unet.in_channels", None),
        ("unet.block_out_channels", []), ("unet.block_out_channels", [0]), ("unet.block_out_channels", 320),
        ("unet.block_out_channels", ["32"]), ("unet.block_out_channels", [32] * 1000), ("unet.layers_per_block", 10**6),
        ("unet.cross_attention_dim", "wide"), ("unet.cross_attention_dim", -1), ("unet.attention_head_dim", 0),
        ("unet.transformer_layers_per_block", 10**9), ("unet.down_block_types", "CrossAttnDownBlock2D"),
        ("unet.up_block_types", [1, 2]), ("unet.use_linear_projection", "yes"),
        ("vae.latent_channels", "4"), ("vae.scaling_factor", 0), ("vae.scaling_factor", "x"), ("vae.block_out_channels", [-1]),
        ("vae.layers_per_block", 1e9), ("text_encoder.hidden_size", 0), ("text_encoder.num_hidden_layers", 10**9),
        ("text_encoder.hidden_act", 3), ("text_encoder.num_attention_heads", "8"),
        ("scheduler.num_train_timesteps", 0), ("scheduler.num_train_timesteps", 10**12), ("scheduler.num_train_timesteps", "x"),
        ("scheduler.beta_start", -1), ("scheduler.beta_end", "0.012"), ("scheduler.trained_betas", "none"),
        ("scheduler.trained_betas", [0.1] * 3), ("scheduler.trained_betas", [2.0] * 1000), ("scheduler.steps_offset", -1),
        ("scheduler.prediction_type", 5), ("scheduler.set_alpha_to_one", "no"), ("scheduler.timestep_spacing", ["trailing"]),
    ]  # fmt: skip
    made = [
        (f"{path} {value!r:.30}", one_file(our_file(edited(CONFIG, path, value))), f"checkpoint's {path} is")
        for path, value in rows
    ]
    sums = "trained_betas for"
    return [(name, make, sums if name.startswith("scheduler.trained_betas [0.1") else words) for name, make, words in made]


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
NO_WEIGHTS = {"unet/diffusion_pytorch_model.safetensors": None}
BAD: list[tuple[str, Make, str]] = [
    *fields(),
    ("prediction_type sample", one_file(our_file(edited(CONFIG, "scheduler.prediction_type", "sample"))), "prediction_type is 'sample'"),
    ("mask_target heat", one_file(our_file(edited(CONFIG, "mask_target", "heat"))), "mask_target is 'heat'"),
    ("initial_noise pink", one_file(our_file(edited(CONFIG, "initial_noise", "pink"))), "initial_noise is 'pink'"),
    ("unet missing", one_file(our_file(edited(CONFIG, "unet", ...))), "digseg.config cannot be read"),
    ("cosine betas", one_file(our_file(edited(CONFIG, "scheduler.beta_schedule", "squaredcos_cap_v2"))), "beta_schedule is"),
    ("odd spacing", one_file(our_file(edited(CONFIG, "scheduler.timestep_spacing", "odd"))), "timestep_spacing is 'odd'"),
    ("config is a list", one_file(our_file([1])), "digseg.config cannot be read"),
    ("config is no JSON", one_file(our_file("{")), "digseg.config cannot be read"),
    ("config is empty", one_file(our_file("")), "digseg.config cannot be read"),
    ("config is deep", one_file(our_file(f'{{"unet": {DEEP}}}')), "nested too deep"),
    ("config has a long number", one_file(our_file('{"unet": {}, "scheduler": {}, "default_steps": 1' + "0" * 5000 + "}")), "cannot be read"),
    ("config has NaN", one_file(our_file('{"unet": {}, "scheduler": {}, "threshold": NaN}')), "NaN is no number"),
    ("config has 1e400", one_file(our_file('{"unet": {}, "scheduler": {}, "threshold": 1e400}')), "too large for a number"),
    ("config is large", one_file(our_file('{"unet": "' + "x" * (17 * 2**20) + '"}')), "has a header of"),
    ("no config", one_file(file_bytes(header({"digseg.format": "1"}))), "digseg.config cannot be read"),
    ("format 99", one_file(our_file(CONFIG, **{"digseg.format": "99"})), "is format 99"),
    ("format of words", one_file(our_file(CONFIG, **{"digseg.format": "new"})), "is format new"),
    ("format of 5000 digits", one_file(our_file(CONFIG, **{"digseg.format": "9" * 5000})), "is format 9999"),
    ("format ²", one_file(our_file(CONFIG, **{"digseg.format": "²"})), "is format ²"),
    ("layout without parts", one_file(our_file(CONFIG, **{"digseg.layout": "ldm"})), "has no U-Net"),
    ("header of 2^63", one_file(struct.pack("<Q", 2**63) + b"{}"), "not a complete .safetensors file"),
    ("header of 0", one_file(struct.pack("<Q", 0)), "not a complete .safetensors file"),
    ("header past the end", one_file(struct.pack("<Q", 1000) + b"{}"), "not a complete .safetensors file"),
    ("header of 20 MiB", one_file(struct.pack("<Q", 20 * 2**20) + b" " * (20 * 2**20)), "has a header of 20,971,520 bytes"),
    ("header is deep", one_file(file_bytes(DEEP.encode(), b"")), "not a complete .safetensors file"),
    ("header is a list", one_file(file_bytes(b"[]", b"")), "not a complete .safetensors file"),
    ("header in Latin-1", one_file(file_bytes(b'{"\xe9": 1}', b"")), "not a complete .safetensors file"),
    ("metadata of numbers", one_file(file_bytes(b'{"__metadata__": {"digseg.format": 1}}', b"")), "not a complete .safetensors"),
    ("metadata is a list", one_file(file_bytes(b'{"__metadata__": []}', b"")), "not a complete .safetensors file"),
    ("offsets overlap", one_file(file_bytes({"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
     "b": {"dtype": "F16", "shape": [4], "data_offsets": [4, 12]}})), "not a complete .safetensors file"),
    ("shape of 2^62", one_file(file_bytes({"a": {"dtype": "F16", "shape": [2**62, 4], "data_offsets": [0, 8]}})), "not a complete"),
    ("negative shape", one_file(file_bytes({"a": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 8]}})), "not a complete"),
    ("unknown dtype", one_file(file_bytes({"a": {"dtype": "F17", "shape": [4], "data_offsets": [0, 8]}})), "not a complete"),
    ("200,000 empty tensors", one_file(file_bytes(header(None, {f"{n}": [0] for n in range(200_000)}))), "lists 200,000 tensors"),
    ("200,000 tensors in escapes", one_file(file_bytes(json.dumps(header(None, {f"{n}": [0] for n in range(200_000)})).replace(
     "data_offsets", "\\u0064ata_offsets").encode(), b"")), "lists 200,000 tensors"),
    ("nothing there", lambda at: at / "gone.safetensors", "There is no file"),
    ("a name of 5,000 letters", lambda at: at / ("x" * 5000), "cannot be opened"),
    ("a path of 5,000 letters", lambda at: at / ("abc/" * 1250), "cannot be opened|There is no file"),
    ("NUL in the name", lambda at: at / "a\0b", "cannot be opened"),
    ("half a surrogate", lambda at: at / "a\ud800b", "cannot be opened|There is no file"),
    ("an empty folder", lambda at: at, "without unet/config.json"),
    ("folder: unet config is a list", one_folder(**{"unet/config.json": []}), "JSON object is expected"),
    ("folder: unet config is deep", one_folder(**{"unet/config.json": DEEP}), "nested too deep"),
    ("folder: unet config is cut off", one_folder(**{"unet/config.json": '{"in_ch'}), "cannot be read"),
    ("folder: unet config is no text", one_folder(**{"unet/config.json": b"\xff\xfe\0"}), "cannot be read"),
    ("folder: unet config is 17 MiB", one_folder(**{"unet/config.json": " " * (17 * 2**20)}), "bytes; up to"),
    ("folder: unet channels of words", one_folder(**{"unet/config.json": edited(UNET, "in_channels", "8")}), "unet.in_channels is"),
    ("folder: no scheduler", one_folder(**{"scheduler/scheduler_config.json": None}), "noise schedule is unknown"),
    ("folder: scheduler is deep", one_folder(**{"scheduler/scheduler_config.json": DEEP}), "nested too deep"),
    ("folder: scheduler of numbers", one_folder(**{"scheduler/scheduler_config.json": [1, 2]}), "JSON object is expected"),
    ("folder: thresholding", one_folder(**{"scheduler/scheduler_config.json": {"thresholding": True}}), "dynamic thresholding"),
    ("folder: index is deep", one_folder(**{"model_index.json": DEEP}), "nested too deep"),
    ("folder: index has 5,000 digits", one_folder(**{"model_index.json": '{"a": 1' + "0" * 5000 + "}"}), "cannot be read"),
    *(
        (f"folder: steps of {steps}", one_folder(**{"model_index.json": f'{{"default_denoising_steps": {steps}}}'}), words)
        for steps, words in (
            ('"x"', "default_steps is 'x'"), ("-5", "default_steps is -5"), ("1e400", "too large"), ("NaN", "no number"),
            ("[4]", "default_steps is"), ("2.5", "default_steps is 2.5"), ("true", "default_steps is True"), ("0", "default_steps is 0"),
        )
    ),
    *(
        (f"folder: resolution {side}", one_folder(**{"model_index.json": f'{{"default_processing_resolution": {side}}}'}), words)
        for side, words in (("1000000000", "resolution is 1000000000"), ("-1", "resolution is -1"), ('"big"', "resolution is 'big'"))
    ),
    ("folder: no weights", one_folder(**NO_WEIGHTS), "no .safetensors weights"),
    ("folder: pickle only", one_folder(**NO_WEIGHTS, **{"unet/diffusion_pytorch_model.bin": b"\x80"}), "pickles are never opened"),
    *(
        (f"folder: weight_map {value!r:.20}", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": value}}), "must be a table of file names")
        for value in ([], "x", None, 3, {"a": 1}, {"a": None}, {"a": "x\0y"})
    ),
    ("folder: no weight_map", one_folder(**NO_WEIGHTS, **{INDEX: {}}), "must be a table of file names"),
    ("folder: parts missing", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": {"a": "p1", "b": "p2"}}}), "lacks 2 of its 2 parts"),
    ("folder: 20,000 parts", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": {str(n): f"p{n}" for n in range(20_000)}}}), "names 20,000"),
    ("folder: parts above", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": {"a": "../../../etc/passwd"}}}), "lacks 1 of its 1"),
    ("folder: own metadata of numbers", one_folder(**{"digseg_config.json": {"config": CONFIG, "metadata": {"a": 1}}}), "table of texts"),
    ("folder: own metadata is a list", one_folder(**{"digseg_config.json": {"config": CONFIG, "metadata": []}}), "table of texts"),
    ("folder: own config missing", one_folder(**{"digseg_config.json": {"metadata": {}}}), "cannot be read"),
    ("folder: own config is a list", one_folder(**{"digseg_config.json": {"config": [], "metadata": {}}}), "cannot be read"),
]  # fmt: skip

if hasattr(os, "mkfifo"):
    BAD += [
        ("a pipe", lambda at: (os.mkfifo(at / "p.safetensors"), at / "p.safetensors")[1], "no regular file"),
        ("/dev/zero", lambda _: Path("/dev/zero"), "no regular file"),
        ("/dev/full", lambda _: Path("/dev/full"), "no regular file"),
        ("a link to a device", lambda at: (link("/dev/zero")(at / "z.safetensors"), at / "z.safetensors")[1], "no regular file"),
        ("a link to itself", lambda at: (link("l.safetensors")(at / "l.safetensors"), at / "l.safetensors")[1], "cannot be opened"),
        ("folder: config is a pipe", one_folder(**{"unet/config.json": os.mkfifo}), "without unet/config.json"),
        ("folder: part is a pipe", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": {"a": "p"}}, "unet/p": os.mkfifo}), "regular file"),
        ("folder: weights lead out", one_folder(**{"unet/diffusion_pytorch_model.safetensors": None, "../out": b"x",
         "unet/model.safetensors": link("../../out")}), "leads out of the checkpoint's folder"),
        ("folder: part leads out", one_folder(**NO_WEIGHTS, **{INDEX: {"weight_map": {"a": "p"}},
         "../out": b"x", "unet/p": link("../../out")}), "leads out of the checkpoint's folder"),
    ]  # fmt: skip

VALUES = (
    None,
    True,
    -1,
    0,
    1,
    7,
    10**9,
    10**30,
    0.5,
    1e300,
    "",
    "x",
    "0",
    "\ud800",
    "a\0b",
    [],
    [0],
    [[]],
    {},
    {"a": 1},
    ["x"] * 50,
)


def mutated(rng: random.Random) -> bytes:
    """A DiGSeg file with something changed: a value of its config or header, bytes of the header, or its length."""
    how = rng.randrange(5)
    if how == 0:
        paths = [f"{part}.{name}" for part in ("unet", "vae", "text_encoder", "scheduler") for name in CONFIG[part]]
        config = CONFIG
        for _ in range(rng.randint(1, 3)):
            path = rng.choice([*CONFIG, *paths])
            try:
                config = edited(config, path, rng.choice((*VALUES, ...)))
            except (KeyError, TypeError):  # its parent is gone already
                continue
        return our_file(config)
    if how == 1:
        metadata = {
            "digseg.format": "1",
            "digseg.config": json.dumps(CONFIG),
            rng.choice(["digseg.layout", "digseg.text_prefix", "x"]): "ldm",
        }
        head = header(metadata)
        entry = head[rng.choice(list(SHAPES))]
        entry[rng.choice(["dtype", "shape", "data_offsets", "more"])] = rng.choice(VALUES)
        return file_bytes(json.dumps(head).encode("utf-8", "surrogatepass"), bytes(8000))
    content = bytearray(our_file())
    length = int.from_bytes(content[:8], "little")
    if how == 2:
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(8 + length)] = rng.randrange(256)
    elif how == 3:
        start = rng.randrange(8, 8 + length)
        del content[start : start + rng.randint(1, 200)]
    else:
        content[:8] = struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, len(content), 2**31, 2**64 - 1]))
        content = content[: rng.randrange(len(content) + 1)] if rng.random() < 0.5 else content
    return bytes(content)


def mutated_folder(at: Path, rng: random.Random) -> Path:
    """A diffusers folder with something changed in one of its JSON files."""
    name = rng.choice(
        ["model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json", "digseg_config.json"]
    )
    base = {
        "unet/config.json": UNET,
        "vae/config.json": CONFIG["vae"],
        "scheduler/scheduler_config.json": CONFIG["scheduler"],
    }.get(name, {"config": CONFIG, "metadata": {}, "default_denoising_steps": 4, "default_processing_resolution": 64})
    if rng.random() < 0.5:
        return folder(at, **{name: edited(base, rng.choice(list(base)), rng.choice(VALUES))})
    text = bytearray(json.dumps(base).encode())
    for _ in range(rng.randint(1, 6)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    return folder(at, **{name: bytes(text)})
