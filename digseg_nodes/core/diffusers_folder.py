"""Reading a diffusers pipeline folder, as Marigold and cocogold publish theirs: configs and weight files, no tensors."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import CheckpointError
from .schedule import check_scheduler
from .untrusted import kind_of, read_json, shown

WEIGHTED = ("unet", "vae", "text_encoder")
VARIANTS = ("", ".fp16", ".bf16")
MOST_PARTS = 10_000
"""Files that an index may name; the largest models have some hundred."""
OWN_CONFIG = "digseg_config.json"
"""What a folder written by train/convert.py says about itself beyond diffusers' own files: {config, metadata}."""

_DDIM_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
"""What diffusers' DDIMScheduler takes for a setting that a scheduler_config.json does not mention."""

_DENSE_PREDICTIONS = ("depth", "disparity", "normals", "intrinsics")


def pipeline_folders(root: Path) -> list[str]:
    """Names of the diffusers folders below `root` at any depth, relative to it with slashes; links are followed, as ComfyUI
    does, and hidden folders and what lies inside a diffusers folder are passed over."""
    found, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True):
        is_pipeline = "model_index.json" in files and Path(folder) != root
        real = os.path.realpath(folder)
        if is_pipeline and real not in seen:
            found.append(Path(folder).relative_to(root).as_posix())
        if is_pipeline or real in seen:  # links may lead in circles
            below.clear()
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def _nested(folder: Path) -> str:
    """A hint at the diffusers folder that lies inside, as in the Hugging Face cache."""
    inside = pipeline_folders(folder)
    return f" There is one inside: {folder / inside[0]}" if inside else ""


def read_configs(folder: Path) -> dict[str, dict]:
    """Configs of the U-Net, VAE and text encoder the folder holds; the U-Net at least."""
    configs = {c: read_json(folder / c / "config.json") for c in WEIGHTED if (folder / c / "config.json").is_file()}
    if "unet" not in configs:
        raise CheckpointError(
            f"{folder} is a folder without unet/config.json. A diffusers folder holds model_index.json, "
            f"unet/, vae/, text_encoder/ and scheduler/.{_nested(folder)}"
        )
    if configs["unet"].get("addition_embed_type") == "text_time":
        raise CheckpointError(
            f"{folder.name} is an SDXL model. DiGSeg checkpoints are fine-tuned from Stable Diffusion 1.x or "
            "2.x with train/finetune.py."
        )
    return configs


def read_scheduler(folder: Path) -> dict:
    """The folder's scheduler config, with diffusers' defaults for what it does not mention."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no scheduler/scheduler_config.json: the noise schedule is unknown. Download the whole folder."
        )
    scheduler = {**_DDIM_DEFAULTS, **read_json(file)}
    try:
        check_scheduler(scheduler)
    except ValueError as error:
        raise CheckpointError(f"The scheduler of {folder.name} cannot be followed: {error}") from error
    return scheduler


def pipeline_defaults(folder: Path) -> dict:
    """default_steps and resolution where model_index.json names them (Marigold v1.1 does)."""
    index = _model_index(folder)
    found = {"default_steps": index.get("default_denoising_steps"), "resolution": index.get("default_processing_resolution")}
    return {key: value for key, value in found.items() if value is not None}


def own_config(folder: Path) -> dict | None:
    """The content of OWN_CONFIG; None for folders by others."""
    file = folder / OWN_CONFIG
    return read_json(file) if file.is_file() else None


def dense_prediction(folder: Path) -> str | None:
    """`depth`, `normals` and the like where the folder says it is a Marigold model for such a task."""
    said = _model_index(folder).get("prediction_type")
    return said if said in _DENSE_PREDICTIONS else None


def is_painter(folder: Path) -> bool:
    """Whether the folder says it is an InstructPix2Pix model, which has eight input channels too."""
    return "InstructPix2Pix" in str(_model_index(folder).get("_class_name"))


def _model_index(folder: Path) -> dict:
    file = folder / "model_index.json"
    return read_json(file) if file.is_file() else {}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of one sub-folder: full precision before variants, sharded files in one list, all there."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in VARIANTS:
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                _check_inside([single])
                return [single]
            for name in (f"{stem}.safetensors.index{variant}.json", f"{stem}{variant}.safetensors.index.json"):
                if (folder / name).is_file():
                    return _shards(folder / name)
    raise CheckpointError(
        f"{folder} holds a config.json but no .safetensors weights (pickles are never opened). Download the safetensors variant."
    )


def _shards(index: Path) -> list[Path]:
    """The files an index names, which must lie beside it: names in files by others lead nowhere else."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) and "\0" not in name for name in listed.values()):
        raise CheckpointError(f"The weight_map of {shown(index)} must be a table of file names. Download the folder again.")
    names = sorted(set(listed.values()))
    if len(names) > MOST_PARTS:
        raise CheckpointError(
            f"{shown(index)} names {len(names):,} parts; up to {MOST_PARTS:,} are read. Download the folder again."
        )
    files = [index.parent / Path(name).name for name in names]
    missing = [shown(file.name) for file in files if kind_of(file) != "file"]
    if missing or not files:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of its {len(files)} parts ({', '.join(missing[:3])}). Download them too."
        )
    _check_inside(files)
    return files


def _check_inside(files: list[Path]) -> None:
    """Raises CheckpointError for the first weight file that is a link out of the checkpoint's folder."""
    outside = [file for file in files if not file.resolve().is_relative_to(_home(file.parent.resolve()))]
    if outside:
        raise CheckpointError(
            f"{shown(outside[0].name)} in {shown(outside[0].parent)} leads out of the checkpoint's folder. Put the file itself "
            "there."
        )


def _home(folder: Path) -> Path:
    """What the files of a sub-folder may be links into: the checkpoint's folder, or its repository in Hugging Face's cache."""
    above = [parent.parent for parent in folder.parents if parent.name == "snapshots"]
    return above[0] if above else folder.parent
