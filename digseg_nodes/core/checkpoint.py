"""The DiGSeg checkpoint: one .safetensors file (or a diffusers folder) that train/ writes and the nodes read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import diffusers_folder
from .bare_unet import WRAPPERS, bare_scheduler, bare_unet_config, unet_prefix, unwrapped
from .config_checks import check_config
from .errors import CheckpointError
from .files import written_atomically
from .foreign import describe_foreign, describe_not_safetensors
from .geometry import PHOTO_SHAPES
from .host_saved import LARGEST, METADATA_TENSOR, metadata_of
from .latent_space import LATENT_CHANNELS, SEGMENTER_CHANNELS
from .ldm_names import LDM_PREFIX, names_from_ldm
from .mask_decoder import PREFIX, MaskDecoder, MaskDecoderConfig, build_mask_decoder
from .mask_targets import MASK_TARGETS
from .schedule import check_scheduler
from .untrusted import check_header, kind_of, parse_json, shown

FORMAT = 1
COMPONENTS = ("unet", "vae", "text_encoder", "mask_decoder")
PART_NAMES = dict(zip(COMPONENTS, ("U-Net", "VAE", "text encoder", "mask decoder"), strict=True))
"""As users read them."""
PREDICTION_TYPES = ("epsilon", "v_prediction")
INITIAL_NOISES = ("gaussian", "zero")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
"""Precisions that weights are stored in, by the names they have in options and configurations."""
LDM_LAYOUT = "ldm"
"""`digseg.layout` of a file in the original Stable Diffusion names, as train/convert.py writes it."""
LDM_CONV_IN = "digseg.conv_in.weight"
"""conv_in as it was before it was rearranged for InstructPixToPix nodes; the tensor our own loaders take."""
TEXT_PREFIX = "text_model."
"""`digseg.text_prefix` of an LDM file: what was put before the text encoder's names, as newer transformers omit it."""

END_TOKEN = 49407


def pad_token(text_encoder: dict) -> int:
    """The token that fills short prompts, by the text encoder's config: 0 for OpenCLIP's (gelu, SD 2.x), else the end."""
    return 0 if text_encoder.get("hidden_act") == "gelu" else END_TOKEN


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint says about itself, stored as JSON in `digseg.config`.

    unet, vae, text_encoder, scheduler: configs as diffusers / transformers write them (vae and text_encoder None when
    the file has no such part). mask_target: how masks are drawn, `binary` (white on black, the paper's 3.4) or
    `overlay` (white on the photo). default_steps: DDIM steps. initial_noise: `gaussian` (3.7) or `zero` (one-step
    checkpoints). threshold: the paper's τ in [0, 1]. resolution: longest image side in pixels seen in training. photo_shape:
    how photos that are not square were shaped in training, of geometry.PHOTO_SHAPES; files that do not say were padded to a
    square. mask_decoder: `MaskDecoderConfig.to_dict` of the guided mask decoder, None where there is none.
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
    photo_shape: str = "square"
    mask_decoder: dict | None = None

    def __post_init__(self):
        check_config({f.name: getattr(self, f.name) for f in fields(self)})
        _one_of("photo_shape", self.photo_shape, PHOTO_SHAPES)
        _one_of("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _one_of("mask_target", self.mask_target, MASK_TARGETS)
        _one_of("initial_noise", self.initial_noise, INITIAL_NOISES)
        if self.mask_decoder is not None:
            MaskDecoderConfig.from_dict(self.mask_decoder)

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`, from the scheduler config."""
        return self.scheduler.get("prediction_type", "epsilon")

    def to_json(self) -> str:
        """The config as a JSON string, prediction_type included for readers that skip the scheduler.

        Where a part was once loaded from (transformers notes the folder) is nobody's business and stays out.
        """
        values = {**asdict(self), "prediction_type": self.prediction_type}
        for part in values.values():
            if isinstance(part, dict):
                part.pop("_name_or_path", None)
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> CheckpointConfig:
        """Parse `to_json`'s string; unknown keys of newer files are ignored, missing ones get their defaults."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in parse_json(text).items() if k in known})


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CheckpointError(
            f"The checkpoint's {name} is {value!r}; this version knows {', '.join(allowed)}. "
            "Update the node pack, or convert the checkpoint."
        )


@dataclass(frozen=True)
class Part:
    """Where one component lies: weight files, and how stored names become diffusers / transformers names.

    prefix: cut off the stored names, others are not of this component. names: stored name → name, instead of a prefix.
    """

    files: list[Path]
    prefix: str = ""
    names: dict[str, str] | None = None

    def name_of(self, stored: str) -> str | None:
        """The tensor's diffusers / transformers name; None when it is not of this component."""
        if self.names is not None:
            return self.names.get(stored)
        return unwrapped(stored[len(self.prefix) :]) if stored.startswith(self.prefix) else None


DEMO_BASE = "digseg-demo-base"
"""The bundled text-to-image model, which no Stable Diffusion checkpoint can stand in for."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: headers are read, tensors are not. metadata: the file's own, empty for folders."""

    path: Path
    config: CheckpointConfig
    parts: dict[str, Part]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def components(self) -> tuple[str, ...]:
        """The parts the file carries, among COMPONENTS."""
        return tuple(self.parts)

    def lacks(self, part: str) -> str:
        """The error text for a part (in users' words) that is needed and not there: what there is, and where to take it from."""
        demo = self.config.base_model == DEMO_BASE
        source = (
            f"{DEMO_BASE} (node Load DiGSeg Base)"
            if demo
            else "the Stable Diffusion checkpoint it was trained from (node Load Checkpoint)"
        )
        return (
            f"{self.path.name} holds no {part}, only: {', '.join(self.components)}. Load it with Load DiGSeg U-Net, and take "
            f"CLIP and VAE from {source}."
        )

    def check_names(self, part: str, found: set[str], expected: set[str], optional: str = "") -> None:
        """Raises CheckpointError unless the tensors found of a part are those its network has; `optional` may be missing.

        ComfyUI only logs tensors that lack or are left over, and goes on with whatever it has.
        """
        missing, unknown = sorted(expected - found - {optional}), sorted(found - expected)
        if missing or unknown:
            raise CheckpointError(
                f"{self.path.name}: its {part} lacks {len(missing)} of {len(expected)} tensors and has {len(unknown)} unknown "
                f"ones, for example {(missing or unknown)[0]}. The file is damaged or was edited; download or export it again."
            )

    def check_shapes(self, part: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError for the first tensor that both have and whose shape is not the same."""
        for name, tensor in expected.items():
            if name in found and found[name].shape != tensor.shape:
                raise CheckpointError(
                    f"{self.path.name}: the tensor {name} of its {part} is {list(found[name].shape)}; by its config it is "
                    f"{list(tensor.shape)}. The file was edited; download or export it again."
                )

    @contextmanager
    def building(self, part: str) -> Iterator[None]:
        """Whatever a library raises while it builds a part from its config is raised as a CheckpointError of one line."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{self.path.name}: no {part} can be built from its config ({one_line(error)}). The config was edited or is of "
                "another kind of model; download or export the checkpoint again."
            ) from error

    def state_dict(self, component: str, read: Callable[[str], dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        """Tensors of one component in diffusers / transformers names; `read` loads a whole file (default: lazily)."""
        if component not in self.parts:
            raise CheckpointError(
                f"{self.path.name} has no {component.replace('_', ' ')} (it has: "
                f"{', '.join(self.components)}). Take it from your Stable Diffusion checkpoint."
            )
        part = self.parts[component]
        out: dict[str, Tensor] = {}
        for file in part.files:
            tensors = read(str(file)).items() if read else _read_wanted(file, part)
            out.update({part.name_of(k): v for k, v in tensors if part.name_of(k) is not None})
        self._check_floats(component, out)
        return dict(_modern(out)) if component == "vae" else out

    def _check_floats(self, component: str, tensors: dict[str, Tensor]) -> None:
        """Raises CheckpointError for weights that are no floating-point numbers; counters and position_ids are no weights."""
        for name, tensor in tensors.items():
            if tensor.ndim and not tensor.is_floating_point() and not name.endswith("position_ids"):
                raise CheckpointError(
                    f"{self.path.name}: the tensor {name} of its {PART_NAMES[component]} is {str(tensor.dtype)[6:]}; "
                    "floating-point numbers are expected. The file is quantised or was edited; use one in fp16 or fp32."
                )

    def mask_decoder(self, read: Callable[[str], dict[str, Tensor]] | None = None) -> MaskDecoder | None:
        """The guided mask decoder in float32, or None of a checkpoint without one; `read` as for `state_dict`."""
        config, there = self.config.mask_decoder, "mask_decoder" in self.parts
        if config is None and not there:
            return None
        if config is None or not there:
            found = "has its tensors and no configuration" if there else "is described and has no tensors"
            raise CheckpointError(
                f"{self.path.name}: the mask decoder {found}. The file was edited; export or download it again."
            )
        return build_mask_decoder(config, self.state_dict("mask_decoder", read), self.path.name)


def _read_wanted(file: Path, part: Part) -> Iterator[tuple[str, Tensor]]:
    with safe_open(str(file), framework="pt") as f:
        for key in f.keys():  # noqa: SIM118 (safe_open is no dict)
            if part.name_of(key) is not None:
                yield key, f.get_tensor(key)


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _modern(vae: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The VAE's attention as today's diffusers names and shapes it: Marigold v1.0's is older, LDM's is convolutions."""
    for name, tensor in vae.items():
        if ".attentions." not in name:
            yield name, tensor
            continue
        *module, layer, kind = name.split(".")
        yield ".".join([*module, _OLD_ATTENTION.get(layer, layer), kind]), tensor.flatten(1) if tensor.ndim == 4 else tensor


def save_checkpoint(
    path: str | os.PathLike,
    components: dict[str, dict[str, Tensor]],
    config: CheckpointConfig,
    *,
    title: str,
    description: str = "",
    license: str = "",
    extra_metadata: dict[str, str] | None = None,
) -> None:
    """Write a single-file checkpoint atomically (a reader never sees half a file).

    components: tensors per component of COMPONENTS, in diffusers / transformers names. extra_metadata goes on top of the
    `modelspec.*` fields. Raises CheckpointError on an unknown component, an empty U-Net, or half a mask decoder.
    """
    unknown = set(components) - set(COMPONENTS)
    if unknown or not components.get("unet"):
        raise CheckpointError(f"A checkpoint holds {', '.join(COMPONENTS)} and at least the unet; got {sorted(components)}.")
    if (config.mask_decoder is None) == ("mask_decoder" in components):
        raise CheckpointError("A mask decoder's tensors and its configuration belong together; only one of them was given.")
    tensors = {f"{c}.{k}": v.detach().cpu().contiguous() for c, sd in components.items() for k, v in sd.items()}
    metadata = describe_config(config, title, description, license)
    write_safetensors(Path(path), tensors, {**metadata, **(extra_metadata or {})})


def one_line(error: Exception) -> str:
    """An error's kind and text in one short line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 200 else text[:197] + "..."


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinite values."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return [name for name, tensor in floats.items() if not torch.isfinite(_comparable(tensor)).all()]


def _comparable(tensor: Tensor) -> Tensor:
    """fp8 knows no comparisons."""
    return tensor.half() if tensor.element_size() == 1 else tensor


def describe_config(config: CheckpointConfig, title: str, description: str = "", license: str = "") -> dict[str, str]:
    """The `__metadata__` of a checkpoint file."""
    return {"digseg.format": str(FORMAT), "digseg.config": config.to_json(), **_modelspec(config, title, description, license)}


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a .safetensors file atomically: a reader sees the old file or the new one, never half of it."""
    with written_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _modelspec(config: CheckpointConfig, title: str, description: str, license: str) -> dict[str, str]:
    wide = config.unet.get("cross_attention_dim")
    base = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}.get(wide, "tiny")
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{base}/digseg",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.description": description,
        "modelspec.date": date.today().isoformat(),
        "modelspec.license": license,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": config.prediction_type,
    }


def open_checkpoint(path: str | os.PathLike, in_channels: int = SEGMENTER_CHANNELS, mask_target: str = "auto") -> Checkpoint:
    """Open a DiGSeg checkpoint (single file or diffusers folder), reading headers only.

    in_channels: input channels its U-Net must have, those of two latents for DiGSeg, of one for a text-to-image base in the
    same format.
    mask_target: how its masks are drawn, `binary` or `overlay`; `auto` takes what the file says (binary where a folder
    says nothing). A file that says nothing at all (a U-Net alone) needs it said.
    Raises CheckpointError for anything else, naming what the file is and what to do.
    """
    path = Path(path)
    if mask_target != "auto":
        _one_of("mask_target", mask_target, MASK_TARGETS)
    kind = kind_of(path)
    if kind is None:
        raise CheckpointError(f"There is no file {shown(path)}. Put DiGSeg checkpoints into ComfyUI/models/digseg/.")
    try:
        checkpoint = _open_folder(path, mask_target) if kind == "folder" else _open_file(path, mask_target)
    except OSError as error:  # a folder or file in it that may not be read
        raise CheckpointError(f"{shown(path)} cannot be read ({error.strerror}). Check who may read it.") from error
    found = checkpoint.config.unet.get("in_channels", LATENT_CHANNELS)
    if found != in_channels:
        raise CheckpointError(_wrong_channels(path, found, in_channels))
    if in_channels == LATENT_CHANNELS:  # a base spaces its own steps for painting; DiGSeg models made from it use trailing (3.7)
        scheduler = {**checkpoint.config.scheduler, "timestep_spacing": "trailing"}
        return replace(checkpoint, config=replace(checkpoint.config, scheduler=scheduler))
    return checkpoint


def _wrong_channels(path: Path, found: int, expected: int) -> str:
    kinds = {
        LATENT_CHANNELS: "a plain text-to-image model",
        SEGMENTER_CHANNELS: "a DiGSeg-shaped model (image + mask latents)",
        9: "an inpainting model",
    }
    advice = (
        "Fine-tune it first (python train/finetune.py), or choose a DiGSeg checkpoint."
        if expected == SEGMENTER_CHANNELS
        else "Choose the text-to-image base it was made from."
    )
    return (
        f"{path.name} has a U-Net with {found} input channels: {kinds.get(found, 'an unknown kind of model')}. "
        f"{expected} input channels are needed here. {advice}"
    )


def _open_file(path: Path, mask_target: str) -> Checkpoint:
    check_header(path)
    try:
        with safe_open(str(path), framework="pt") as f:
            metadata, keys = f.metadata() or {}, list(f.keys())
            if METADATA_TENSOR in keys and f.get_slice(METADATA_TENSOR).get_shape() <= [LARGEST]:
                metadata |= metadata_of(f.get_tensor(METADATA_TENSOR), path.name)
            ours = "digseg.format" in metadata
            shapes = {} if ours else {k: tuple(f.get_slice(k).get_shape()) for k in keys}
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(describe_not_safetensors(path, error)) from error
    if not ours:
        return _open_bare(path, shapes, metadata, mask_target)
    config = _read_config(path, metadata)
    parts = _parts_of(path, keys, config, metadata)
    if "unet" not in parts:
        raise CheckpointError(f"{path.name} says it is a DiGSeg checkpoint, but has no U-Net. Export or download it again.")
    return _drawn_as(Checkpoint(path, config, parts, metadata), mask_target)


def _drawn_as(checkpoint: Checkpoint, mask_target: str) -> Checkpoint:
    """The checkpoint with its masks read as `mask_target`; a mask decoder learnt to read what the file says and stays behind."""
    if mask_target in ("auto", checkpoint.config.mask_target):
        return checkpoint
    parts = {name: part for name, part in checkpoint.parts.items() if name != "mask_decoder"}
    return replace(checkpoint, config=replace(checkpoint.config, mask_target=mask_target, mask_decoder=None), parts=parts)


def _read_config(path: Path, metadata: dict[str, str]) -> CheckpointConfig:
    known = [str(number) for number in range(1, FORMAT + 1)]
    if metadata["digseg.format"] not in known:
        raise CheckpointError(
            f"{path.name} is format {metadata['digseg.format'][:20]}, this version reads up to {FORMAT}. Update the node pack."
        )
    try:
        config = CheckpointConfig.from_json(metadata["digseg.config"])
        check_scheduler(config.scheduler)
        return config
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} says it is a DiGSeg checkpoint, but its digseg.config cannot be read "
            f"({str(error)[:200]}). Export or download it again."
        ) from error


def _parts_of(path: Path, keys: Iterable[str], config: CheckpointConfig, metadata: dict[str, str]) -> dict[str, Part]:
    if metadata.get("digseg.layout") == LDM_LAYOUT:
        return _ldm_parts(path, keys, config, metadata.get("digseg.text_prefix", ""))
    keys = list(keys)
    outer = next((wrapper for wrapper in WRAPPERS if keys and all(key.startswith(wrapper) for key in keys)), "")
    present = {key.removeprefix(outer).split(".", 1)[0] for key in keys}
    return {c: Part([path], f"{outer}{c}.") for c in COMPONENTS if c in present}


def _ldm_parts(path: Path, keys: Iterable[str], config: CheckpointConfig, text_prefix: str) -> dict[str, Part]:
    """Parts of a file in LDM names; conv_in from the copy that was not rearranged, where there is one."""
    keys = [key for key in keys if key != METADATA_TENSOR]
    configs = {"unet": config.unet, "vae": config.vae, "text_encoder": config.text_encoder}
    names = {c: found for c in LDM_PREFIX if configs[c] and (found := names_from_ldm(c, keys, configs[c]))}
    if LDM_CONV_IN in keys:
        names["unet"] = {k: n for k, n in names["unet"].items() if n != "conv_in.weight"} | {LDM_CONV_IN: "conv_in.weight"}
    if "text_encoder" in names:
        names["text_encoder"] = {k: n.removeprefix(text_prefix) for k, n in names["text_encoder"].items()}
    own = {k: k.removeprefix(PREFIX) for k in keys if k.startswith(PREFIX)}
    names |= {"mask_decoder": own} if own else {}
    return {c: Part([path], names=n) for c, n in names.items()}


def _open_bare(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str], mask_target: str) -> Checkpoint:
    """A U-Net of Stable Diffusion's size and eight input channels without our metadata, once its masks are known."""
    unet = bare_unet_config(shapes)
    if unet is None or mask_target == "auto":
        raise CheckpointError(describe_foreign(path, shapes, known_size=unet is not None))
    scheduler = bare_scheduler(unet["cross_attention_dim"], metadata, shapes)
    config = CheckpointConfig(unet=unet, scheduler=scheduler, mask_target=mask_target, base_model=path.stem, photo_shape="whole")
    prefix, ldm = unet_prefix(shapes)
    if not ldm:
        return Checkpoint(path, config, {"unet": Part([path], prefix)}, metadata)
    stored = [k if prefix else LDM_PREFIX["unet"] + k for k in shapes]
    names = names_from_ldm("unet", stored, unet)
    cut = "" if prefix else LDM_PREFIX["unet"]
    return Checkpoint(path, config, {"unet": Part([path], names={k.removeprefix(cut): n for k, n in names.items()})}, metadata)


def _open_folder(path: Path, mask_target: str) -> Checkpoint:
    """A diffusers folder as Marigold and cocogold publish it; how its masks are drawn is not recorded there."""
    configs = diffusers_folder.read_configs(path)
    own = diffusers_folder.own_config(path)
    if own:
        return _open_own_folder(path, configs, own, mask_target)
    task = diffusers_folder.dense_prediction(path)
    if task and mask_target == "auto":
        raise CheckpointError(
            f"{path.name} is a Marigold model for {task}: it was trained without text and cannot segment "
            "what you name. If it was fine-tuned on masks since, choose mask_target binary or overlay."
        )
    if diffusers_folder.is_painter(path) and mask_target == "auto":
        raise CheckpointError(
            f"{path.name} is an InstructPix2Pix model: it paints what it is told and cannot segment. Use it "
            "with ComfyUI's own nodes. If it was fine-tuned on masks since, choose mask_target binary or "
            "overlay."
        )
    config = CheckpointConfig(
        scheduler=diffusers_folder.read_scheduler(path),
        base_model=path.name,
        mask_target="binary" if mask_target == "auto" else mask_target,
        photo_shape="whole",
        **diffusers_folder.pipeline_defaults(path),
        **configs,
    )
    return Checkpoint(path, config, {c: Part(diffusers_folder.weight_files(path / c)) for c in configs})


def _open_own_folder(path: Path, configs: dict[str, dict], own: dict, mask_target: str) -> Checkpoint:
    """A diffusers folder that train/convert.py wrote: what it says about itself is in a file of its own."""
    said = own.get("metadata", {})
    if not isinstance(said, dict) or not all(isinstance(text, str) for text in said.values()):
        raise CheckpointError(
            f"The metadata in {shown(path / diffusers_folder.OWN_CONFIG)} must be a table of texts. Convert the checkpoint again."
        )
    metadata = {"digseg.format": str(FORMAT), **said, "digseg.config": json.dumps(own.get("config"))}
    config = _read_config(path, metadata)
    folders = [*configs, *(c for c in ("mask_decoder",) if (path / c).is_dir())]
    parts = {c: Part(diffusers_folder.weight_files(path / c)) for c in folders}
    return _drawn_as(Checkpoint(path, config, parts, metadata), mask_target)
