"""The only module that touches ComfyUI's internals: model building, loading, text, sampling, VAE, progress, folders.

Everything is tested by feature, never by version number, so that the same code runs on old and new hosts.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import comfy.clip_model
import comfy.latent_formats
import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import node_helpers
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor

from .core import label_maps
from .core.checkpoint import (
    DTYPES,
    END_TOKEN,
    LDM_LAYOUT,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    describe_config,
    not_finite,
    open_checkpoint,
    pad_token,
)
from .core.ddim import ddim_sample
from .core.diffusers_folder import pipeline_folders
from .core.draw import thumbnail
from .core.engine import OnStep, Progress, halving, sampled_at_once_on_cpu
from .core.file_names import safe_names
from .core.foreign import describe_not_safetensors
from .core.host_saved import METADATA_TENSOR, metadata_tensor
from .core.latent_space import (
    LATENT_CHANNELS,
    PIXELS_PER_LATENT,
    PROMPT_TOKENS,
    SCALING_FACTOR,
    SEGMENTER_CHANNELS,
    segments,
)
from .core.ldm_names import translate, vae_modules
from .core.lora_fit import bias_of, check_not_empty, does_not_fit, faults
from .core.lora_names import adapter_settings, layers_of, to_kohya
from .core.mask_decoder import PREFIX, MaskDecoder, split_lora
from .core.preview import SIZE as PREVIEW_SIZE
from .core.preview import probe_latents
from .core.schedule import DDIMSchedule, alphas_cumprod, sigmas_of
from .core.text_layout import check_text_encoder
from .core.unet_layout import UnsupportedUNet, head_counts, host_layout
from .core.untrusted import check_header
from .core.vae_layout import vae_arguments, vae_layout

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import Sampler
    from comfy.sd import CLIP, VAE

FOLDER = "digseg"
DATA_SETS = "digseg-data"
DEFAULT_RESOLUTION = 512
STOCK_SIGMA_MAX = 4519.0
"""Sigma at a zero-terminal-SNR end for the host's own samplers, its own constant: 1e6 would break Euler in fp32."""
DECODE_CHUNK_CPU, GPU_CHUNK = 1, 32
"""Masks that one decode takes on a CPU, where more at a time are no faster; masks or U-Net items in a call on a GPU at most."""
_PROBES: WeakKeyDictionary[torch.nn.Module, Tensor] = WeakKeyDictionary()
"""What previews are read by, of every VAE in use."""
_OTHER_PARTS = (
    "Use the one of Load DiGSeg Checkpoint, or of the Stable Diffusion checkpoint the model was trained from (Load Checkpoint)."
)
WEIGHT_DTYPES = {
    "default": None,
    "fp32": DTYPES["fp32"],
    "fp16": DTYPES["fp16"],
    "bf16": DTYPES["bf16"],
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
"""Storage of the U-Net's weights; `_fast` also multiplies in fp8 where the device can."""

mm = comfy.model_management


def register_folders(bundled: Path) -> None:
    """Make ComfyUI/models/digseg (where users put checkpoints) and the pack's bundled models one list."""
    own = Path(folder_paths.models_dir) / FOLDER
    with suppress(OSError):  # models folders that nobody may write to are no reason to lose the nodes
        own.mkdir(parents=True, exist_ok=True)
    for folder in (own, bundled):
        folder_paths.add_model_folder_path(FOLDER, str(folder))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {".safetensors"})


def checkpoint_names() -> list[str]:
    """Names for a loader's list: every .safetensors of the digseg folders, then every diffusers folder in them."""
    folders = sorted({name for root in folder_paths.get_folder_paths(FOLDER) for name in pipeline_folders(Path(root))})
    inside = [Path(folder).parts for folder in folders]
    files = [
        name for name in folder_paths.get_filename_list(FOLDER) if not any(Path(name).parts[: len(one)] == one for one in inside)
    ]
    return list(dict.fromkeys(files + folders))


def checkpoint_path(name: str) -> Path:
    """The file or diffusers folder behind a name of `checkpoint_names`; CheckpointError when it is gone, or no such name."""
    listed = name in checkpoint_names()  # no path that leads elsewhere is
    file = folder_paths.get_full_path(FOLDER, name) if listed else None
    if file is not None:
        return Path(file)
    roots = folder_paths.get_folder_paths(FOLDER)
    for root in roots if listed else ():
        if (Path(root) / name / "model_index.json").is_file():
            return Path(root) / name
    raise CheckpointError(
        f"There is no checkpoint {name!r}. Put it into {roots[0]} and press R to refresh the list; "
        f"found there now: {', '.join(checkpoint_names()) or 'nothing'}."
    )


def open_named(name: str, in_channels: int = SEGMENTER_CHANNELS, mask_target: str = "auto") -> Checkpoint:
    """Open a checkpoint of the digseg folders by its name in the list; only headers are read."""
    return open_checkpoint(checkpoint_path(name), in_channels, mask_target)


def fingerprint(name: str) -> float | str:
    """Changes when the checkpoint of that name changes on disk, so that a retrained file is loaded again."""
    try:
        path = checkpoint_path(name)
        return max(file.stat().st_mtime for file in (path, *path.rglob("*")))
    except CheckpointError as error:
        return str(error)


class _ImageFirstUNet(UNetModel):
    """The host concatenates [noisy, image], checkpoints are [image, noisy] (Marigold's order).

    The activations are swapped and not the weights, so that weights stay as published and LoRAs on conv_in stay right.
    """

    def _forward(self, x, *args, **kwargs):
        half = x.shape[1] // 2
        return super()._forward(torch.cat([x[:, half:], x[:, :half]], dim=1), *args, **kwargs)  # [N,4+4,h,w]


class _HostConfig(comfy.supported_models_base.BASE):
    """A host model config that takes our layout as it is, without the guesses made for plain Stable Diffusion."""

    latent_format = comfy.latent_formats.SD15
    unet_extra_config = {}  # noqa: RUF012 (the host reads a class attribute)
    memory_usage_factor = 1.0


class DiGSegModel(comfy.model_base.BaseModel):
    """The denoiser f_θ as a ComfyUI model; `digseg_config` is its checkpoint's CheckpointConfig, `digseg_mask_decoder` the
    HostMaskDecoder that came with it or None."""

    def __init__(self, host_config, config: CheckpointConfig):
        kinds = comfy.model_base.ModelType
        kind = kinds.V_PREDICTION if config.prediction_type == "v_prediction" else kinds.EPS
        pictures = segments(config.unet)
        super().__init__(host_config, kind, device=None, unet_model=_ImageFirstUNet if pictures else UNetModel)
        self.digseg_config = config
        self.concat_keys = ("concat_image",) if pictures else ()
        self.digseg_mask_decoder = None
        sigmas = sigmas_of(alphas_cumprod(config.scheduler)).clamp(max=STOCK_SIGMA_MAX)
        self.model_sampling.set_sigmas(sigmas)

    def state_dict_for_saving(self, *args, **kwargs):
        """What the host's save nodes write, with what our loaders need to know beside it; they drop foreign metadata."""
        tensors = super().state_dict_for_saving(*args, **kwargs)
        metadata = {**describe_config(self.digseg_config, "saved by ComfyUI"), "digseg.layout": LDM_LAYOUT}
        decoder = {} if self.digseg_mask_decoder is None else self.digseg_mask_decoder.patcher.model.state_dict()
        tensors |= {PREFIX + key: tensor for key, tensor in decoder.items()}
        return {**tensors, METADATA_TENSOR: metadata_tensor(metadata)}

    def concat_cond(self, **kwargs):
        """The image latent beside the noise; if it is missing or of another size, the host would go on silently."""
        if not self.concat_keys:
            return None
        latent, noise = kwargs.get("concat_latent_image"), kwargs["noise"]
        if latent is None:
            raise ValueError(
                "This DiGSeg model was sampled without an image. Put DiGSeg Conditioning before the "
                "sampler, or use DiGSeg Sampler."
            )
        if latent.shape[-2:] != noise.shape[-2:]:
            raise ValueError(
                f"The image latent is {tuple(latent.shape[-2:])}, the sampled latent "
                f"{tuple(noise.shape[-2:])} (height, width). Sample the LATENT of DiGSeg Conditioning."
            )
        return super().concat_cond(**{k: v for k, v in kwargs.items() if k not in ("denoise_mask", "concat_mask")})


def load_model(checkpoint: Checkpoint, weight_dtype: str = "default") -> ModelPatcher:
    """The checkpoint's U-Net as a ComfyUI MODEL. weight_dtype: a key of WEIGHT_DTYPES."""
    config = checkpoint.config
    layout, uneven_heads = _layout_of(checkpoint)
    weights = _native_unet(checkpoint.state_dict("unet", _read), layout, checkpoint.path.name)
    _check_unet(checkpoint, layout, weights)
    host_config = _HostConfig(layout)
    _choose_dtype(host_config, weights, WEIGHT_DTYPES[weight_dtype])
    host_config.optimizations["fp8"] = weight_dtype.endswith("_fast")
    model = DiGSegModel(host_config, config)
    if uneven_heads:
        _set_heads(model.diffusion_model, layout, head_counts(config.unet))
    offload = mm.unet_offload_device()
    model.to(offload)
    patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = patcher_class(model, load_device=mm.get_torch_device(), offload_device=offload)
    _load_weights(model, patcher, weights)
    model.digseg_mask_decoder = _managed(checkpoint.mask_decoder(_read))
    return patcher


def _layout_of(checkpoint: Checkpoint) -> tuple[dict, bool]:
    """Keyword arguments of the host's UNetModel, and whether its heads are set afterwards; CheckpointError if none fits."""
    unet = checkpoint.config.unet
    with checkpoint.building("U-Net"):
        try:
            layout, uneven_heads = host_layout(unet)
        except UnsupportedUNet as error:
            raise CheckpointError(f"{checkpoint.path.name} has a U-Net that ComfyUI cannot run: {error}") from error
    if unet.get("upcast_attention"):
        layout["attn_precision"] = torch.float32
    return layout, uneven_heads


MASK_DECODER = "digseg_mask_decoder"
"""The attachment of a MODEL that holds the mask decoder of its LoRA; clones of the MODEL keep it."""


@dataclass(frozen=True)
class HostMaskDecoder:
    """A guided mask decoder in ComfyUI's model management, the GuidedDecoder of core/engine.py; always in fp32."""

    patcher: ModelPatcher

    @property
    def guide(self) -> float:
        """As trained."""
        return self.patcher.model.config.guide

    def photo_features(self, photo: Tensor) -> list[Tensor]:
        """[1,3,H,W] in [-1,1] → features on the device."""
        need = 3 * self.patcher.model.bytes_per_mask(tuple(photo.shape[-2:]))  # the photo's branch is wider, and one mask
        mm.load_models_gpu([self.patcher], memory_required=need)
        return self.patcher.model.photo_features(photo.to(self.patcher.load_device))

    def logits(self, latents: Tensor, features: list[Tensor]) -> Tensor:
        """Unscaled latents [N,4,h,w] → [N,H,W] float32 on the CPU."""
        found = self.patcher.model(latents.to(features[0].device, torch.float32), features).float().cpu()
        return _finite(found, "decoded mask", "mask decoder", self.patcher.model)

    def chunk(self, guide_size: tuple[int, int]) -> int:
        """How many masks one call may decode in the memory that is free now."""
        device = self.patcher.load_device
        if mm.is_device_cpu(device):
            return DECODE_CHUNK_CPU
        each = self.patcher.model.bytes_per_mask(guide_size)
        return int(max(1, min(GPU_CHUNK, 0.7 * mm.get_free_memory(device) // each)))


def _managed(decoder: MaskDecoder | None) -> HostMaskDecoder | None:
    """A mask decoder where ComfyUI can load and unload it."""
    if decoder is None:
        return None
    devices = {"load_device": mm.get_torch_device(), "offload_device": mm.unet_offload_device()}
    return HostMaskDecoder(comfy.model_patcher.ModelPatcher(decoder, **devices))


def _read(path: str) -> dict[str, Tensor]:
    return comfy.utils.load_torch_file(path, safe_load=True)


def _native_unet(weights: dict[str, Tensor], layout: dict, name: str) -> dict[str, Tensor]:
    """diffusers tensor names → the host's. Nothing may be left over."""
    names = comfy.utils.unet_to_diffusers(layout)
    left = sorted(set(weights) - set(names))
    if left:
        raise CheckpointError(
            f"{name}: {len(left)} U-Net tensors do not fit its config, for example {left[0]}. "
            "The file is damaged or was edited; export it again."
        )
    return {native: weights[key] for key, native in names.items() if key in weights}


def _choose_dtype(host_config: _HostConfig, weights: dict[str, Tensor], wanted: torch.dtype | None) -> None:
    """Storage and compute dtypes, by the host's own rules and flags unless a storage dtype is wanted."""
    supported = list(host_config.supported_inference_dtypes)
    device = mm.get_torch_device()
    dtype = wanted or mm.unet_dtype(
        device=device,
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    host_config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, supported))


def _check_unet(checkpoint: Checkpoint, layout: dict, weights: dict[str, Tensor]) -> None:
    """CheckpointError unless the host's U-Net of this layout has these tensors; found out before memory is taken for it."""
    with checkpoint.building("U-Net"), torch.device("meta"):
        expected = UNetModel(**layout, device="meta").state_dict()
    missing = sorted(set(expected) - set(weights))
    if missing:
        raise CheckpointError(
            f"{checkpoint.path.name} lacks {len(missing)} of {len(expected)} U-Net tensors, for example {missing[0]}. "
            "Download or export it again."
        )
    checkpoint.check_shapes("U-Net", weights, expected)


def _load_weights(model: DiGSegModel, patcher: ModelPatcher, weights: dict[str, Tensor]) -> None:
    extra = {}
    if "assign" in inspect.signature(model.load_model_weights).parameters and hasattr(patcher, "is_dynamic"):
        extra["assign"] = patcher.is_dynamic()
    model.load_model_weights(weights, "", **extra)


def _set_heads(unet: UNetModel, layout: dict, heads: list[int]) -> None:
    """Heads that differ per level in count and in width: the host's constructor has no words for them."""
    per_block = {}
    for key, native in comfy.utils.unet_to_diffusers(layout).items():
        if ".transformer_blocks." in key:
            side, index = key.split(".")[:2]
            level = -1 if side == "mid_block" else int(index) if side == "down_blocks" else len(heads) - 1 - int(index)
            words = native.split(".")
            per_block[".".join(words[: words.index("transformer_blocks") + 2])] = heads[level]
    for name, block in unet.named_modules():
        if isinstance(block, BasicTransformerBlock):
            width = block.attn1.to_q.weight.shape[1]
            for part in (block.attn1, block.attn2):
                part.heads, part.dim_head = per_block[name], width // per_block[name]
            block.n_heads, block.d_head = per_block[name], width // per_block[name]


def config_of(model: ModelPatcher) -> CheckpointConfig:
    """The checkpoint config of a MODEL made by a DiGSeg loader; a clear error for any other MODEL."""
    config = getattr(getattr(model, "model", None), "digseg_config", None)
    if config is None or not segments(config.unet):
        raise ValueError(
            f"This MODEL ({type(getattr(model, 'model', model)).__name__}) paints pictures, it cannot segment. Connect the "
            "MODEL of Load DiGSeg Checkpoint or Load DiGSeg U-Net."
        )
    return config


def lora_names() -> list[str]:
    """Names for a loader's list: the .safetensors of ComfyUI/models/loras."""
    return [name for name in folder_paths.get_filename_list("loras") if name.endswith(".safetensors")]


def lora_path(name: str) -> Path:
    """The file behind a name of `lora_names`; CheckpointError when it is gone."""
    file = folder_paths.get_full_path("loras", name) if name in lora_names() else None
    if file is None:
        raise CheckpointError(
            f"There is no LoRA {name!r}. Put it into {folder_paths.get_folder_paths('loras')[0]} and press R to refresh the list."
        )
    return Path(file)


def lora_fingerprint(name: str) -> float | str:
    """Changes when the LoRA of that name changes on disk."""
    try:
        return lora_path(name).stat().st_mtime
    except CheckpointError as error:
        return str(error)


def apply_lora(model: ModelPatcher, path: Path, strength: float = 1.0) -> ModelPatcher:
    """A copy of the MODEL with a LoRA on its U-Net, every tensor of it, or CheckpointError naming those that do not fit.

    The file may be kohya's, peft's, diffusers' or of the old attention processors. strength: 1 as trained, 0 none. A mask decoder
    in it takes the place of the MODEL's.
    """
    lora, decoder = read_lora(path)
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    _check_lora(path, lora, targets, model.model.state_dict())
    patches = comfy.lora.load_lora(lora, targets)
    lacking = sorted(layer for layer in layers_of(lora) if not {targets[layer], bias_of(targets[layer])} & set(patches))
    if lacking:
        raise CheckpointError(does_not_fit(path, lacking, len(layers_of(lora)), "have nothing to add"))
    patched = model.clone()
    patched.add_patches(patches, strength)
    if decoder is not None and strength:
        patched.set_attachments(MASK_DECODER, _managed(decoder))
    return patched


def _check_lora(path: Path, lora: dict[str, Tensor], targets: dict[str, str], weights: dict[str, Tensor]) -> None:
    """CheckpointError, naming them, for layers of a LoRA that the host would leave out, or fail at while it samples."""
    layers = layers_of(lora)
    unmapped = sorted(key for layer, keys in layers.items() if layer not in targets for key in keys)
    if unmapped:
        raise CheckpointError(does_not_fit(path, unmapped, len(lora), "find no layer in this U-Net"))
    named = [targets[layer] for layer in layers]
    twice = sorted(layer for layer in layers if named.count(targets[layer]) > 1)
    if twice:
        raise CheckpointError(does_not_fit(path, twice, len(layers), "change the same weight as another"))
    shapes = {layer: tuple(weights[targets[layer]].shape) for layer in layers}
    biases = {layer: tuple(weights[bias_of(targets[layer])].shape) for layer in layers if bias_of(targets[layer]) in weights}
    wrong = [f"{layer} ({what})" for layer, what in sorted(faults(lora, shapes, biases).items())]
    if wrong:
        raise CheckpointError(does_not_fit(path, wrong, len(layers), "cannot be applied"))


def read_lora(path: Path) -> tuple[dict[str, Tensor], MaskDecoder | None]:
    """A LoRA's tensors under kohya's names and the mask decoder it may carry; CheckpointError when the file is none."""
    check_header(path)
    try:
        lora, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:
        raise CheckpointError(describe_not_safetensors(path, error)) from error
    lora, decoder = split_lora(lora, metadata or {}, path.name)
    check_not_empty(lora, decoder, path.name)
    try:
        return to_kohya(lora, metadata, adapter_settings(path)), decoder
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is no LoRA for a DiGSeg model: {error}") from error


def load_clip(checkpoint: Checkpoint) -> CLIP:
    """The checkpoint's CLIP text encoder as a ComfyUI CLIP; textual-inversion files are not looked up."""
    config = checkpoint.config.text_encoder
    if config is None:
        raise CheckpointError(checkpoint.lacks("text encoder (CLIP)"))
    check_text_encoder(config, checkpoint.path.name)
    weights = {
        k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v
        for k, v in checkpoint.state_dict("text_encoder", _read).items()
        if not k.endswith("position_ids")
    }
    target = _clip_target(config)
    _check_clip(checkpoint, target, weights)
    # The host stores text encoders in fp16 even on a CPU, where nothing is gained by rounding an fp32 file.
    options = {"dtype": comfy.utils.weight_dtype(weights)} if mm.is_device_cpu(mm.text_encoder_device()) else {}
    arguments = {
        "target": target,
        "embedding_directory": None,
        "model_options": options,
        "parameters": comfy.utils.calculate_parameters(weights),
    }
    if "state_dict" in inspect.signature(comfy.sd.CLIP.__init__).parameters:
        clip = comfy.sd.CLIP(**arguments, state_dict=[weights])
    else:
        clip = comfy.sd.CLIP(**arguments)
        clip.load_sd(weights)
    return clip


def _check_clip(checkpoint: Checkpoint, target, weights: dict[str, Tensor]) -> None:
    """CheckpointError unless the host's text encoder has these tensors; found out before memory is taken for it."""
    with checkpoint.building("text encoder"), torch.device("meta"):
        built = target.clip(device="meta", dtype=torch.float32).state_dict()
    expected = {k.split(".transformer.", 1)[-1]: v for k, v in built.items() if ".transformer." in k}
    checkpoint.check_names("text encoder", set(weights), set(expected), optional="text_projection.weight")
    checkpoint.check_shapes("text encoder", weights, expected)


def _clip_target(config: dict):
    """Host classes for a CLIPTextModel config: SD 1.x (padded with the end token) or 2.x (with 0)."""
    tokens = {"start": 49406, "end": END_TOKEN, "pad": pad_token(config)}
    second = tokens["pad"] == 0
    json_config = {**config, "eos_token_id": tokens["end"]}

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                layer="last",
                textmodel_json_config=dict(json_config),
                special_tokens=tokens,
                return_projected_pooled=False,
            )

    class Model(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                model_options=model_options or {},
                clip_name="h" if second else "l",
                clip_model=Encoder,
            )

    class Words(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                pad_with_end=not second,
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                embedding_key="clip_h" if second else "clip_l",
            )

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory=embedding_directory, clip_name="h" if second else "l", tokenizer=Words)

    return comfy.supported_models_base.ClipTarget(Tokenizer, Model)


def load_vae(checkpoint: Checkpoint) -> VAE:
    """The checkpoint's VAE as a ComfyUI VAE, in fp16 or fp32 (bf16 only by the host's flag: it flips pixels)."""
    config = checkpoint.config.vae
    if config is None:
        raise CheckpointError(checkpoint.lacks("VAE"))
    dtype = mm.vae_dtype(mm.vae_device(), [torch.float16, torch.float32])
    with checkpoint.building("VAE"):
        layout = vae_layout(config, checkpoint.path.name)
    weights = checkpoint.state_dict("vae", _read)
    _check_vae(checkpoint, weights)
    vae = comfy.sd.VAE(sd=weights, config=layout, dtype=dtype)
    vae.digseg_config = checkpoint.config
    return vae


def _check_vae(checkpoint: Checkpoint, weights: dict[str, Tensor]) -> None:
    """CheckpointError unless the host's VAE has these tensors; found out before memory is taken for it."""
    with checkpoint.building("VAE"), torch.device("meta"):
        built = AutoencoderKL(**vae_arguments(checkpoint.config.vae)).state_dict()
    expected = {k: v.flatten(1) if ".attn_1." in k and v.ndim == 4 else v for k, v in built.items()}  # convolutions in the host
    modules = vae_modules(checkpoint.config.vae)
    found = {translate(k, modules) or k: v for k, v in weights.items()}
    checkpoint.check_names("VAE", set(found), set(expected))
    checkpoint.check_shapes("VAE", found, expected)


def encode_text(clip: CLIP | None, text: str) -> Tensor:
    """c of one wording, taken literally (no weights in brackets): [1,77,D] float32. Longer texts are cut."""
    if not hasattr(clip, "tokenize"):
        raise ValueError(f"There is no CLIP: the loader it comes from found none in its file. {_OTHER_PARTS}")
    escaped = text.replace("\\(", "\\\\(").replace("\\)", "\\\\)")  # the host takes one backslash before a bracket away
    tokens = clip.tokenize(escaped, disable_weights=True)
    encoded = clip.encode_from_tokens(tokens)[:, :PROMPT_TOKENS].float()
    return _finite(encoded, "text encoding", "text encoder", clip.cond_stage_model)


def check_vae(vae: VAE | None) -> None:
    """Raises ValueError unless this is a VAE of Stable Diffusion's kind, with latents of LATENT_CHANNELS channels."""
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError(f"There is no VAE: the loader it comes from found none in its file. {_OTHER_PARTS}")
    if vae.latent_channels != LATENT_CHANNELS:
        raise ValueError(
            f"This VAE makes latents of {vae.latent_channels} channels, DiGSeg models read {LATENT_CHANNELS}. Use the VAE of the "
            "Stable Diffusion 1.x or 2.x that the model was trained from, or of Load DiGSeg Checkpoint."
        )


def encode_image(vae: VAE, pixels: Tensor) -> Tensor:
    """E(x) before scaling: pixels [B,3,H,W] in [0,1], sides multiples of 8 → latents [B,4,H/8,W/8] float32."""
    return _finite(vae.encode(pixels.movedim(1, -1)).float(), "image latent", "VAE", vae.first_stage_model)


def decode(vae: VAE, latents: Tensor) -> Tensor:
    """D(z) unclamped: unscaled latents [N,4,h,w] → pixels [N,3,8h,8w] in about [-1,1], float32 on the CPU.

    Halves the batch when memory runs out, and tiles when even one item does not fit.
    """
    need = vae.memory_used_decode(latents.shape, vae.vae_dtype)
    mm.load_models_gpu([vae.patcher], memory_required=need)

    def run(batch: Tensor) -> Tensor:
        return vae.first_stage_model.decode(batch.to(vae.device, vae.vae_dtype)).float().cpu()

    def run_tiled(batch: Tensor) -> Tensor:
        return comfy.utils.tiled_scale(
            batch, run, 64, 64, 16, upscale_amount=PIXELS_PER_LATENT, output_device=torch.device("cpu")
        )

    found = halving(HostEngine(vae=vae), run, latents, run_tiled)
    return _finite(found, "decoded mask", "VAE", vae.first_stage_model)


def _is_oom(error: Exception) -> bool:
    check = getattr(mm, "is_oom", None)
    return check(error) if check else isinstance(error, mm.OOM_EXCEPTION)


def _finite(tensor: Tensor, what: str, part: str, network: torch.nn.Module) -> Tensor:
    """The same tensor, that `part` has made; RuntimeError with the cause when it holds NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        raise RuntimeError(f"The {what} holds NaN or infinite values: {_cause(part, network.state_dict())}")
    return tensor


def _cause(part: str, weights: dict[str, Tensor]) -> str:
    """Why a network with these weights has made values that are no numbers, and what to do."""
    if bad := not_finite(weights):
        return (
            f"so do {len(bad)} of the {len(weights)} tensors of the {part}, for example {bad[0]}. Its file is damaged or its "
            "training has diverged, or that of a LoRA on it. Export it again, or take the LoRA off."
        )
    if all(tensor.dtype == torch.float32 for tensor in weights.values() if tensor.is_floating_point()):
        return (
            f"its {part} runs in fp32, and its weights are finite but too large. Its training has diverged, or a LoRA on it is "
            "too strong: lower the strength, or use another checkpoint."
        )
    option = {"VAE": "vae", "text encoder": "text-enc"}.get(part, "unet")
    return f"the {part} overflows in this precision. Start ComfyUI with --fp32-{option}, or choose weight_dtype fp32."


def chunk_size(model: ModelPatcher, latent_size: tuple[int, int]) -> int:
    """How many items [1,4,h,w] one U-Net call may take in the memory that is free now."""
    if mm.is_device_cpu(model.load_device):
        return sampled_at_once_on_cpu(*latent_size)
    free = getattr(model, "get_free_memory", mm.get_free_memory)(model.load_device)
    each = max(1, model.model.memory_required([1, LATENT_CHANNELS, *latent_size]))
    return int(max(1, min(GPU_CHUNK, 0.7 * max(0, free - model.model_size()) // each)))


def decode_chunk_size(vae: VAE, latent_size: tuple[int, int]) -> int:
    """How many mask latents [1,4,h,w] one VAE decode may take in the memory that is free now."""
    if mm.is_device_cpu(vae.device):
        return DECODE_CHUNK_CPU
    each = max(1, vae.memory_used_decode((1, LATENT_CHANNELS, *latent_size), vae.vae_dtype))
    return int(max(1, min(GPU_CHUNK, 0.7 * mm.get_free_memory(vae.device) // each)))


def conditioning(text: Tensor, image_latents: Tensor) -> list:
    """CONDITIONING for the host's samplers: text [N,77,D] and unscaled image latents [N,4,h,w], item by item."""
    return [[text, {"concat_latent_image": image_latents}]]


def attach_image(conditioning: list, image_latents: Tensor) -> list:
    """Tie unscaled image latents [N,4,h,w] to a user's CONDITIONING, for the host's own samplers."""
    return node_helpers.conditioning_set_values(conditioning, {"concat_latent_image": image_latents})


def skipped() -> ExecutionBlocker:
    """In the place of an output: the nodes behind it do not run, and nothing is reported."""
    return ExecutionBlocker(None)


def stock_sigmas(schedule: DDIMSchedule) -> Tensor:
    """A schedule as SIGMAS [n+1] for the host's own samplers, ending at 0."""
    return torch.cat([schedule.sigmas.clamp(max=STOCK_SIGMA_MAX), torch.zeros(1, dtype=torch.float64)]).float()


def data_set_folder(name: str) -> Path:
    """Where a data set of this name lies under the host's output folder; ValueError for no name."""
    if not name.strip():
        raise ValueError("data_set is empty; give the data set a name, such as my-data.")
    return Path(folder_paths.get_output_directory()) / DATA_SETS / safe_names([name.strip()])[0]


def save_label_maps(ids: Tensor, names: tuple[str, ...], prefix: str) -> list[Path]:
    """Write class ids [B,H,W] as palette PNGs and classes.txt under the host's output folder; returns the PNGs' paths."""
    label_maps.check_count(names)
    height, width = ids.shape[1:]
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    return label_maps.save_label_maps(ids, names, Path(folder), stem, counter)


def sample(
    model: ModelPatcher,
    text: Tensor,
    image_latents: Tensor,
    noise: Tensor,
    schedule: DDIMSchedule,
    on_step: OnStep | None = None,
    sampler: Sampler | None = None,
) -> Tensor:
    """One batch of mask latents through the host's model management with exact DDIM, or with a host SAMPLER.

    text [N,77,D]; image_latents [N,4,h,w] unscaled; noise [N,4,h,w] of unit variance (or zeros). on_step(i, x0) gets
    the unscaled x0 estimate. Returns unscaled z_s [N,4,h,w] float32, on the host's intermediate device.
    """

    def ddim(model_fn, x, sigmas, extra_args=None, callback=None, disable=None):
        ones = x.new_ones([x.shape[0]])
        # x is the noise scaled by the host, by sigma or by sqrt(1 + sigma^2) as its rules say: start from the noise itself.
        return ddim_sample(
            lambda y, sigma: model_fn(y, ones * sigma, **(extra_args or {})),
            noise.to(x),
            schedule,
            lambda i, x0, y: callback({"i": i, "denoised": x0, "x": y, "sigma": sigmas[i]}),
        )

    def report(i, x0, _x, _total):
        if on_step is not None:
            on_step(i, x0 / SCALING_FACTOR)

    sigmas = torch.cat([schedule.sigmas, schedule.prev_sigmas[-1:]]).float()
    if sampler is not None:
        sigmas = sigmas.clamp(max=STOCK_SIGMA_MAX)
    positive = conditioning(text, image_latents)
    latents = comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        sampler or comfy.samplers.KSAMPLER(ddim),
        sigmas,
        positive,
        positive,
        torch.zeros_like(noise),
        callback=report,
        disable_pbar=True,
        seed=0,
    )
    return _finite(latents.float(), "mask latent", "U-Net", model.model.diffusion_model)


@dataclass(frozen=True)
class HostEngine:
    """ComfyUI's networks as the Engine of core/inference.py: MODEL, CLIP and VAE, as far as a node has them.

    resolution_from: a MODEL or None that is asked for the resolution and the shape of photos alone.
    """

    model: ModelPatcher | None = None
    clip: CLIP | None = None
    vae: VAE | None = None
    resolution_from: ModelPatcher | None = None

    @property
    def config(self) -> CheckpointConfig:
        """The MODEL's checkpoint config; ValueError for a MODEL that cannot segment."""
        return config_of(self.model)

    @property
    def resolution(self) -> int:
        """The training resolution of the MODEL, else of the VAE's checkpoint, else DEFAULT_RESOLUTION."""
        return self._seen.resolution if self._seen else DEFAULT_RESOLUTION

    @property
    def photo_shape(self) -> str:
        """How the same checkpoint saw photos that are not square; whole where nothing says so."""
        return self._seen.photo_shape if self._seen else "whole"

    @property
    def _seen(self) -> CheckpointConfig | None:
        """The config of the MODEL, else of the VAE's checkpoint."""
        model = self.model or self.resolution_from
        return getattr(getattr(model, "model", None), "digseg_config", None) or getattr(self.vae, "digseg_config", None)

    @property
    def mask_decoder(self) -> HostMaskDecoder | None:
        """That of the MODEL's LoRA, else of its checkpoint."""
        if self.model is None:
            return None
        return self.model.get_attachment(MASK_DECODER) or getattr(self.model.model, "digseg_mask_decoder", None)

    def check_vae(self) -> None:
        """See `check_vae`."""
        check_vae(self.vae)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text by text, so that a long list can be cancelled: [N,77,D]."""
        rows = []
        for text in texts:
            mm.throw_exception_if_processing_interrupted()
            rows.append(encode_text(self.clip, text).cpu())
        return torch.cat(rows)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `encode_image`."""
        return encode_image(self.vae, pixels)

    def preview_probe(self) -> Tensor:
        """Encoded once for every VAE."""
        network = self.vae.first_stage_model
        if network not in _PROBES:
            _PROBES[network] = probe_latents(self.encode_pixels)
        return _PROBES[network]

    def sample(
        self,
        text: Tensor,
        image: Tensor,
        noise: Tensor,
        schedule: DDIMSchedule,
        on_step: OnStep,
        sampler: Sampler | None = None,
    ) -> Tensor:
        """See `sample`."""
        return sample(self.model, text, image, noise, schedule, on_step, sampler)

    def decode(self, latents: Tensor) -> Tensor:
        """See `decode`."""
        return decode(self.vae, latents)

    def sample_chunk(self, latent_size: tuple[int, int]) -> int:
        """See `chunk_size`."""
        return chunk_size(self.model, latent_size)

    def decode_chunk(self, latent_size: tuple[int, int]) -> int:
        """See `decode_chunk_size`."""
        return decode_chunk_size(self.vae, latent_size)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the device ran out of memory."""
        return _is_oom(error)

    def release_memory(self) -> None:
        """Give cached device memory back."""
        mm.soft_empty_cache()

    def progress(self, total: int) -> Progress:
        """The running node's progress bar; it keeps the latest picture, and raises when the user pressed Cancel."""
        bar, latest = comfy.utils.ProgressBar(total), None

        def show(done: int, total: int, preview: Image.Image | None) -> None:
            nonlocal latest
            mm.throw_exception_if_processing_interrupted()
            # ComfyUI shrinks it itself, but an empty picture in its publishing loop would end the server.
            latest = latest if preview is None else ("JPEG", thumbnail(preview, PREVIEW_SIZE), PREVIEW_SIZE)
            bar.update_absolute(done, total, latest)

        return Progress(total, show, previews=True)
