"""The DiGSeg checkpoint: one .safetensors file (or a diffusers folder) that train/ writes and the nodes read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .foreign import describe_foreign, describe_not_safetensors

FORMAT = 1
COMPONENTS = ("unet", "vae", "text_encoder", "mask_decoder")
PREDICTION_TYPES = ("epsilon", "v_prediction")
MASK_TARGETS = ("binary", "overlay")
INITIAL_NOISES = ("gaussian", "zero")


class CheckpointError(ValueError):
    """A file that cannot be used as a DiGSeg checkpoint; the message says what it is and what to do."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint says about itself, stored as JSON in `digseg.config`.

    unet, vae, text_encoder, scheduler: configs as diffusers / transformers write them (vae and text_encoder None when
    the file has no such part). mask_target: how masks are drawn, `binary` (white on black, the paper's 3.4) or
    `overlay` (white on the photo). default_steps: DDIM steps. initial_noise: `gaussian` (3.7) or `zero` (one-step
    checkpoints). threshold: the paper's τ in [0, 1]. resolution: longest image side in pixels seen in training.
    """

    unet: dict
    scheduler: dict
    vae: dict | None = None
    text_encoder: dict | None = None
    mask_target: str = "binary"
    default_steps: int = 10
    initial_noise: str = "gaussian"
    threshold: float = 0.5
    resolution: int = 512
    class_names: list[str] = field(default_factory=list)
    base_model: str = ""

    def __post_init__(self):
        _one_of("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _one_of("mask_target", self.mask_target, MASK_TARGETS)
        _one_of("initial_noise", self.initial_noise, INITIAL_NOISES)

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`, from the scheduler config."""
        return self.scheduler.get("prediction_type", "epsilon")

    def to_json(self) -> str:
        """The config as a JSON string, prediction_type included for readers that skip the scheduler."""
        return json.dumps({**asdict(self), "prediction_type": self.prediction_type})

    @classmethod
    def from_json(cls, text: str) -> CheckpointConfig:
        """Parse `to_json`'s string; unknown keys of newer files are ignored, missing ones get their defaults."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in json.loads(text).items() if k in known})


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CheckpointError(f"The checkpoint's {name} is {value!r}; this version knows {', '.join(allowed)}. "
                              "Update the node pack, or convert the checkpoint.")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: headers are read, tensors are not.

    parts maps a component name to (weight files, key prefix inside them).
    """

    path: Path
    config: CheckpointConfig
    parts: dict[str, tuple[list[Path], str]]

    @property
    def components(self) -> tuple[str, ...]:
        """The parts the file carries, among COMPONENTS."""
        return tuple(self.parts)

    def state_dict(self, component: str, read: Callable[[str], dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        """Tensors of one component in diffusers / transformers names; `read` loads a whole file (default: lazily)."""
        if component not in self.parts:
            raise CheckpointError(f"{self.path.name} has no {component.replace('_', ' ')} (it has: "
                                  f"{', '.join(self.components)}). Take it from your Stable Diffusion checkpoint.")
        files, prefix = self.parts[component]
        out: dict[str, Tensor] = {}
        for file in files:
            tensors = read(str(file)).items() if read else _read_prefixed(file, prefix)
            out.update({k[len(prefix):]: v for k, v in tensors if k.startswith(prefix)})
        return out


def _read_prefixed(file: Path, prefix: str):
    with safe_open(str(file), framework="pt") as f:
        for key in f.keys():  # noqa: SIM118 (safe_open is no dict)
            if key.startswith(prefix):
                yield key, f.get_tensor(key)


def save_checkpoint(path: str | os.PathLike, components: dict[str, dict[str, Tensor]], config: CheckpointConfig, *,
                    title: str, description: str = "", license: str = "") -> None:
    """Write a single-file checkpoint atomically (a reader never sees half a file).

    components: tensors per component of COMPONENTS, in diffusers / transformers names. Raises CheckpointError on an
    unknown component or an empty U-Net.
    """
    unknown = set(components) - set(COMPONENTS)
    if unknown or not components.get("unet"):
        raise CheckpointError(f"A checkpoint holds {', '.join(COMPONENTS)} and at least the unet; "
                              f"got {sorted(components)}.")
    tensors = {f"{c}.{k}": v.detach().cpu().contiguous() for c, sd in components.items() for k, v in sd.items()}
    metadata = {"digseg.format": str(FORMAT), "digseg.config": config.to_json(),
                **_modelspec(config, title, description, license)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def _modelspec(config: CheckpointConfig, title: str, description: str, license: str) -> dict[str, str]:
    wide = config.unet.get("cross_attention_dim")
    base = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}.get(wide, "tiny")
    return {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": f"{base}/digseg",
            "modelspec.implementation": "diffusers", "modelspec.title": title, "modelspec.description": description,
            "modelspec.date": date.today().isoformat(), "modelspec.license": license,
            "modelspec.resolution": f"{config.resolution}x{config.resolution}",
            "modelspec.prediction_type": config.prediction_type}


def open_checkpoint(path: str | os.PathLike, in_channels: int = 8) -> Checkpoint:
    """Open a DiGSeg checkpoint (single file or diffusers folder), reading headers only.

    in_channels: input channels its U-Net must have, 8 for DiGSeg, 4 for a text-to-image base in the same format.
    Raises CheckpointError for anything else, naming what the file is and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no file {path}. Put DiGSeg checkpoints into ComfyUI/models/digseg/.")
    checkpoint = _open_folder(path) if path.is_dir() else _open_file(path)
    found = checkpoint.config.unet.get("in_channels", 4)
    if found != in_channels:
        raise CheckpointError(_wrong_channels(path, found, in_channels))
    return checkpoint


def _wrong_channels(path: Path, found: int, expected: int) -> str:
    kinds = {4: "a plain text-to-image model", 8: "a DiGSeg-shaped model (image + mask latents)",
             9: "an inpainting model"}
    advice = ("Fine-tune it first (python train/finetune.py), or choose a DiGSeg checkpoint." if expected == 8 else
              "Choose the text-to-image base it was made from.")
    return (f"{path.name} has a U-Net with {found} input channels: {kinds.get(found, 'an unknown kind of model')}. "
            f"{expected} input channels are needed here. {advice}")


def _open_file(path: Path) -> Checkpoint:
    try:
        with safe_open(str(path), framework="pt") as f:
            metadata, keys = f.metadata() or {}, list(f.keys())
            ours = "digseg.format" in metadata
            shapes = {} if ours else {k: tuple(f.get_slice(k).get_shape()) for k in keys}
    except Exception as error:
        raise CheckpointError(describe_not_safetensors(path, error)) from error
    if "digseg.format" not in metadata:
        raise CheckpointError(describe_foreign(path, shapes))
    if int(metadata["digseg.format"]) > FORMAT:
        raise CheckpointError(f"{path.name} is format {metadata['digseg.format']}, this version reads up to {FORMAT}. "
                              "Update the node pack.")
    present = {k.split(".", 1)[0] for k in keys}
    parts = {c: ([path], f"{c}.") for c in COMPONENTS if c in present}
    return Checkpoint(path, CheckpointConfig.from_json(metadata["digseg.config"]), parts)


def _open_folder(path: Path) -> Checkpoint:
    """A diffusers folder as Marigold and cocogold publish it; how its masks are drawn is not recorded there."""
    if not (path / "unet" / "config.json").is_file():
        raise CheckpointError(f"{path} is a folder without unet/config.json. A diffusers folder holds "
                              "model_index.json, unet/, vae/, text_encoder/ and scheduler/.")
    configs = {c: _folder_config(path / c) for c in ("unet", "vae", "text_encoder")}
    scheduler = path / "scheduler" / "scheduler_config.json"
    if not scheduler.is_file():
        raise CheckpointError(f"{path} has no scheduler/scheduler_config.json: the noise schedule is unknown. "
                              "Download the whole folder.")
    config = CheckpointConfig(scheduler=json.loads(scheduler.read_text("utf-8")), base_model=path.name, **configs)
    parts = {c: (_weight_files(path / c), "") for c, cfg in configs.items() if cfg is not None}
    return Checkpoint(path, config, parts)


def _folder_config(folder: Path) -> dict | None:
    file = folder / "config.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of one diffusers sub-folder: full precision before variants, sharded files in one list."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16", ".bf16"):
            for name in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
                if (folder / name).is_file():
                    shards = json.loads((folder / name).read_text("utf-8"))["weight_map"].values()
                    return [folder / n for n in sorted(set(shards))]
            if (folder / f"{stem}{variant}.safetensors").is_file():
                return [folder / f"{stem}{variant}.safetensors"]
    raise CheckpointError(f"{folder} holds a config.json but no .safetensors weights (pickles are never opened). "
                          "Download the safetensors variant.")
