"""The networks: opening a base, widening its first convolution, and the frozen VAE and text encoder."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from digseg_nodes.core.checkpoint import (
    PART_NAMES,
    TEXT_PREFIX,
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    not_finite,
    open_checkpoint,
)
from digseg_nodes.core.latent_space import LATENT_CHANNELS, SCALING_FACTOR, segments, unet_input_channels
from digseg_nodes.core.mask_decoder import MaskDecoder
from digseg_nodes.core.schedule import alphas_cumprod
from digseg_nodes.core.text_layout import check_text_encoder
from train.networks.single_file import is_single_file, open_single_file, open_vae_file


@dataclass
class Networks:
    """A U-Net that takes image and mask latents, the frozen VAE and text encoder, what the base says about itself, and its
    guided mask decoder where it has one."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    config: CheckpointConfig
    mask_decoder: MaskDecoder | None = None

    def to(self, device: str | torch.device | None) -> "Networks":
        """Move everything to a device, None meaning the accelerator of this machine or else the CPU."""
        for module in self._modules():
            module.to(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        return self

    def eval(self) -> "Networks":
        """Put everything into evaluation mode."""
        for module in self._modules():
            module.eval()
        return self

    def _modules(self) -> list[nn.Module]:
        parts = (self.unet, self.vae, self.text_encoder, self.mask_decoder)
        return [module for module in parts if module is not None]

    @property
    def alpha_bar(self) -> Tensor:
        """The base's noise schedule: [T] float32, alpha_bar of every timestep."""
        return alphas_cumprod(self.config.scheduler).float()


def open_base(path: Path) -> Checkpoint:
    """A text-to-image base, a single-file Stable Diffusion, or a DiGSeg checkpoint to go on from.

    Raises CheckpointError for anything else.
    """
    if not path.exists():
        raise CheckpointError(missing(path))
    try:
        return open_checkpoint(path, in_channels=LATENT_CHANNELS)
    except CheckpointError as first:
        if path.suffix == ".safetensors" and is_single_file(path):
            return open_single_file(path)
        try:
            return open_checkpoint(path)
        except CheckpointError:
            raise first from None


def missing(path: Path) -> str:
    """An error text for a model that is not there."""
    text = (
        f"There is no file or folder {path}. Name a .safetensors file or a diffusers folder on this machine; nothing is "
        "downloaded."
    )
    if len(path.parts) == 2 and not path.suffix and not path.is_absolute():
        text += (
            f" If it is the name of a Hugging Face repository, download that first: huggingface-cli download {path.as_posix()} "
            f"--local-dir {path.name}"
        )
    return text


def open_components(path: Path | None, checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Which checkpoint VAE and text encoder come from: from `path` what it holds (it may be a VAE alone), else the base's."""
    other = checkpoint
    if path is not None:
        other = open_vae_file(path) or open_base(path)
    return {name: other if name in other.components else checkpoint for name in ("vae", "text_encoder")}


def load_networks(base: Path, components: Path | None = None, init: str = "pretrained", seed: int = 0) -> Networks:
    """Load a base; `components` names a second checkpoint for the VAE and text encoder of a U-Net-only file.

    init "random" keeps the architecture and forgets the U-Net's weights (for comparisons).
    """
    checkpoint = open_base(base)
    parts = open_components(components, checkpoint)
    _check_widths(checkpoint, parts["text_encoder"])
    unet = load_unet(checkpoint, init, seed)
    vae = _load(AutoencoderKL.from_config, parts["vae"], "vae").eval().requires_grad_(False)
    text = _load(text_model, parts["text_encoder"], "text_encoder").eval().requires_grad_(False)
    config = replace(
        checkpoint.config,
        unet=plain_config(unet),
        vae=parts["vae"].config.vae,
        text_encoder=parts["text_encoder"].config.text_encoder,
        base_model=checkpoint.config.base_model or base.stem,
    )
    return Networks(unet, vae, text, config, checkpoint.mask_decoder())


def _check_widths(unet: Checkpoint, text: Checkpoint) -> None:
    """CheckpointError for a text encoder whose texts the U-Net cannot read."""
    reads, writes = unet.config.unet.get("cross_attention_dim"), (text.config.text_encoder or {}).get("hidden_size")
    if isinstance(reads, int) and writes is not None and reads != writes:
        raise CheckpointError(
            f"The texts of {text.path} are {writes} numbers wide, the U-Net of {unet.path} reads {reads}: Stable Diffusion 1.x "
            "(768) and 2.x (1024) do not fit together. Name `components:` of the family of the U-Net."
        )


def load_unet(checkpoint: Checkpoint, init: str = "pretrained", seed: int = 0) -> UNet2DConditionModel:
    """The checkpoint's U-Net in float32, widened to take the mask latent too where it does not yet."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if init == "random":
            config = widened(checkpoint.config.unet)
            _expected(UNet2DConditionModel.from_config, checkpoint, "unet", config)
            return UNet2DConditionModel.from_config(config)
        expected = _expected(UNet2DConditionModel.from_config, checkpoint, "unet", checkpoint.config.unet)
        tensors = _sound(checkpoint, "unet")
        checkpoint.check_names("U-Net", set(tensors), set(expected))
        checkpoint.check_shapes("U-Net", tensors, expected)
        unet = UNet2DConditionModel.from_config(checkpoint.config.unet)
    unet.load_state_dict(tensors)
    return expand_conv_in(unet) if not segments(unet.config) else unet


def widened(unet: dict) -> dict:
    """A U-Net's diffusers config with the input channels of a DiGSeg model."""
    return {**unet, "in_channels": unet_input_channels(unet.get("out_channels", LATENT_CHANNELS))}


def expand_conv_in(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Double the input channels: weight repeated along the input axis and halved, bias kept, so that the output for
    (a, b) starts as the old output for (a + b) / 2. Order: [image latent, noisy mask latent]."""
    old = unet.conv_in
    new = nn.Conv2d(2 * old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        new.weight.copy_(torch.cat([old.weight, old.weight], dim=1) / 2)
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)
    return unet


def plain_config(model) -> dict:
    """A diffusers config as JSON-serialisable values, without private keys."""
    return {key: value for key, value in dict(model.config).items() if not key.startswith("_") or key == "_class_name"}


def text_model(config: dict) -> CLIPTextModel:
    """A text encoder with random weights from its config."""
    return CLIPTextModel(CLIPTextConfig(**config))


_LAYERS = ("encoder.", "decoder.", f"{TEXT_PREFIX}encoder.")
"""Names of tensors that a VAE or a text encoder cannot go without and compute the same."""


def _load(build, checkpoint: Checkpoint, component: str) -> nn.Module:
    config = getattr(checkpoint.config, component)
    if config is None or component not in checkpoint.components:
        raise CheckpointError(
            f"{checkpoint.path} has no {component.replace('_', ' ')}. Name a checkpoint that has one "
            "as `components:` in the configuration."
        )
    _check_kind(checkpoint, component, config)
    expected = _expected(build, checkpoint, component, config)
    tensors = _prefixed_like(expected, _sound(checkpoint, component))
    lost = [name for name in expected if name not in tensors and not name.endswith("position_ids")]
    unexpected = [name for name in tensors if name not in expected]
    if lost:
        raise CheckpointError(
            f"The {component} of {checkpoint.path} lacks {len(lost)} tensors, e.g. {lost[0]}"
            f"{f'; it has {unexpected[0]} instead' if unexpected else ''}. The file is damaged or of another kind."
        )
    if layers := [name for name in unexpected if name.startswith(_LAYERS)]:
        raise CheckpointError(
            f"The {component} of {checkpoint.path} has {len(layers)} tensors that its config knows nothing of, e.g. {layers[0]}. "
            "The file was edited; download or export it again."
        )
    checkpoint.check_shapes(PART_NAMES[component], tensors, expected)
    model = build(config)
    model.load_state_dict(tensors, strict=False)
    return model


def _check_kind(checkpoint: Checkpoint, component: str, config: dict) -> None:
    """CheckpointError for a text encoder or a VAE that the trained model could not use."""
    if component == "text_encoder":
        check_text_encoder(config, checkpoint.path.name)
    elif (channels := config.get("latent_channels", LATENT_CHANNELS)) != LATENT_CHANNELS:
        raise CheckpointError(
            f"{checkpoint.path.name} has a VAE with latents of {channels} channels; DiGSeg reads {LATENT_CHANNELS}. Use the VAE "
            "of a Stable Diffusion 1.x or 2.x."
        )


def _expected(build, checkpoint: Checkpoint, component: str, config: dict) -> dict[str, Tensor]:
    """The tensors that a part has by its config, without memory for them; CheckpointError when nothing can be built from it."""
    with checkpoint.building(PART_NAMES[component]), torch.device("meta"):
        return build(config).state_dict()


def _sound(checkpoint: Checkpoint, component: str) -> dict[str, Tensor]:
    """A component's tensors in float32; CheckpointError where they hold NaN or infinite values."""
    tensors = {name: tensor.float() for name, tensor in checkpoint.state_dict(component).items()}
    if bad := not_finite(tensors):
        raise CheckpointError(
            f"The {component} of {checkpoint.path} holds NaN or infinite values in {len(bad)} of {len(tensors)} tensors, e.g. "
            f"{bad[0]}: the training that made it diverged, or the file is damaged. Use an earlier one, or export it again."
        )
    return tensors


def _prefixed_like(expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text encoders carry the prefix "text_model." or not, depending on the release of transformers."""
    wanted = next(iter(expected)).startswith(TEXT_PREFIX)
    bare = {name.removeprefix(TEXT_PREFIX): tensor for name, tensor in tensors.items()}
    return {TEXT_PREFIX + name: tensor for name, tensor in bare.items()} if wanted else bare


def call_unet(unet, image: Tensor, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """The U-Net on concat([image latent, noisy mask latent]): the on-disk order (docs/checkpoint-format.md)."""
    return unet(torch.cat([image, noisy], dim=1), timesteps, encoder_hidden_states=text, return_dict=False)[0]


def encode_pixels(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Posterior mean times scaling factor: [B,3,H,W] in [-1,1] -> [B,4,H/8,W/8]. Paper section 3.4."""
    return vae.encode(pixels).latent_dist.mean * scaling(vae)


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """[B,4,h,w] -> unclamped pixels [B,3,8h,8w], nominally in [-1,1]."""
    return vae.decode(latents / scaling(vae)).sample


def scaling(vae: AutoencoderKL) -> float:
    """What latents are multiplied by before the U-Net reads them."""
    return vae.config.scaling_factor or SCALING_FACTOR


def module_digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights, for content-addressed caches."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
