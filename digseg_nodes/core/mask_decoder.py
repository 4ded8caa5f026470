"""The guided mask decoder: mask latents and the photo's own pixels to masks with the photo's edges.

A small network instead of the VAE's decoder. The latent says what is found, the photo where it ends. What depends on the photo
alone is computed once and shared by all its prompts; per prompt only the latent's branch and the merge remain. No layer looks at
statistics of a whole picture or of other prompts, so a mask depends on its own latent and photo alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import CheckpointError
from .latent_space import LATENT_CHANNELS, PIXELS_PER_LATENT, SCALING_FACTOR
from .untrusted import parse_json

PREFIX = "mask_decoder."
"""Of the decoder's tensors in a file."""
LORA_CONFIG = "digseg.mask_decoder"
"""Metadata of a LoRA file that carries a mask decoder: `MaskDecoderConfig.to_dict` as JSON."""
KINDS = ("guided",)
WIDEST, DEEPEST, LARGEST_GUIDE = 512, 16, 16.0
LEVELS = 4
"""Grids that the photo and the latent meet on: the guide's own, then a half, a quarter and an eighth of it."""
DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Shape of a mask decoder, in `digseg.config` as "mask_decoder".

    widths: channels at the guide's own size, at 1/2, 1/4 and 1/8 of it, each 4 to 512. blocks: residual blocks at 1/8, 0 to 16.
    guide: how many times the U-Net's resolution the photo was seen at in training, at most, 1 to 16.
    latent_channels: of a mask latent. CheckpointError for values outside of these.
    """

    kind: str = "guided"
    widths: tuple[int, ...] = (16, 24, 40, 64)
    blocks: int = 3
    guide: float = 4.0
    latent_channels: int = LATENT_CHANNELS

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        known = self.kind in KINDS
        widths = len(self.widths) == LEVELS and all(isinstance(w, int) and 4 <= w <= WIDEST for w in self.widths)
        blocks = isinstance(self.blocks, int) and 0 <= self.blocks <= DEEPEST
        guide = isinstance(self.guide, int | float) and 1 <= self.guide <= LARGEST_GUIDE
        channels = isinstance(self.latent_channels, int) and 1 <= self.latent_channels <= WIDEST
        if not (known and widths and blocks and guide and channels):
            raise CheckpointError(
                f"The checkpoint's mask decoder is {asdict(self)}; this version knows kind {' or '.join(KINDS)}, {LEVELS} widths "
                f"of 4 to {WIDEST}, 0 to {DEEPEST} blocks and a guide of 1 to {LARGEST_GUIDE:g}. Update the node pack."
            )

    def to_dict(self) -> dict:
        """JSON values."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: dict) -> MaskDecoderConfig:
        """Inverse of `to_dict`; unknown keys of newer files are ignored, missing ones get their defaults."""
        if not isinstance(values, dict):
            raise CheckpointError(f"The checkpoint's mask decoder is {values!r}; key and value pairs were expected.")
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise CheckpointError(f"The checkpoint's mask decoder cannot be read ({error}): {values}.") from error


class MaskDecoder(nn.Module):
    """Mask latents [M,4,h,w] and a photo [N,3,H,W] → logits [M,H,W]; a mask is where its logit is above 0.

    Photo and latent show the same piece of the world, whatever their sizes; the photo should be at least the latent's 8h x 8w
    and up to `config.guide` times that. Works in float16, bfloat16 and float32.
    """

    def __init__(self, config: MaskDecoderConfig = MaskDecoderConfig()):
        super().__init__()
        self.config = config
        full, half, quarter, eighth = config.widths
        self.photo = _Photo(config.widths)
        self.latent_in = nn.Sequential(_conv(config.latent_channels + 1, eighth), nn.SiLU(), _conv(eighth, eighth))
        self.merge = nn.Sequential(_Norm(eighth), nn.SiLU(), _conv(eighth, eighth))
        self.blocks = nn.Sequential(*(_Block(eighth, DILATIONS[i % len(DILATIONS)]) for i in range(config.blocks)))
        self.to_quarter, self.at_quarter = _Up(eighth, quarter), _Block(quarter)
        self.to_half, self.at_half = _Up(quarter, half), _Block(half)
        self.to_full = _Up(half, full)
        self.out = nn.Sequential(nn.SiLU(), _conv(full, full), nn.SiLU(), nn.Conv2d(full, 1, 1))

    def photo_features(self, photo: Tensor) -> list[Tensor]:
        """What all prompts of a photo share: [N,3,H,W] in [-1,1] → features at 1, 1/2, 1/4 and 1/8 of its size."""
        return self.photo(photo.contiguous(memory_format=torch.channels_last))

    def forward(self, latents: Tensor, features: Sequence[Tensor] | Tensor, photo_index: Tensor | None = None) -> Tensor:
        """Unscaled mask latents [M,4,h,w] (as the VAE takes them) → logits [M,H,W] at the photo's size.

        features: what `photo_features` gave, or the photos themselves. photo_index: int64 [M], the photo that each latent belongs
        to; None when there is one photo for all, or one each.
        """
        if isinstance(features, Tensor):
            features = self.photo_features(features)
        if photo_index is not None and len(features[0]) > 1:
            features = [feature[photo_index] for feature in features]
        full, half, quarter, eighth = features
        x = self.merge(self._on_grid(latents, eighth.shape[-2:], full.shape[-2:]) + eighth)
        x = self.blocks(x)
        x = self.at_quarter(self.to_quarter(x, quarter))
        x = self.at_half(self.to_half(x, half))
        return self.out(self.to_full(x, full)).squeeze(1)

    def bytes_per_mask(self, guide_size: tuple[int, int]) -> int:
        """Memory in bytes that decoding one mask takes beside the photo's features, float32, generously."""
        full, half, _, _ = self.config.widths
        return 4 * guide_size[0] * guide_size[1] * (5 * full + 2 * half)

    def _on_grid(self, latents: Tensor, grid: tuple[int, int], guide: tuple[int, int]) -> Tensor:
        """The latents' features [M,C,*grid], which know how much larger than the U-Net's the guide of `guide` pixels is."""
        ratio = (guide[0] * guide[1] / (latents.shape[-2] * latents.shape[-1])) ** 0.5 / PIXELS_PER_LATENT
        scale = torch.full_like(latents[:, :1], ratio).log2()
        x = self.latent_in(torch.cat([latents * SCALING_FACTOR, scale], 1).contiguous(memory_format=torch.channels_last))
        return _resize(x, grid)


def build_mask_decoder(config: dict, tensors: dict[str, Tensor], name: str) -> MaskDecoder:
    """A mask decoder in float32 from `MaskDecoderConfig.to_dict` and its tensors; `name` is the file's, for errors.

    CheckpointError for tensors that are lacking, left over, of another shape, or not finite.
    """
    with torch.device("meta"):
        decoder = MaskDecoder(MaskDecoderConfig.from_dict(config))
    expected = {key: tuple(tensor.shape) for key, tensor in decoder.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise CheckpointError(
            f"{name}: {len(wrong)} tensors of its mask decoder do not fit its configuration, for example {wrong[0]} "
            f"({found.get(wrong[0], 'not there')} instead of {expected.get(wrong[0], 'none')}). The file is damaged or was "
            "edited; export or download it again."
        )
    weights = {key: tensor.float() for key, tensor in tensors.items()}
    if bad := sorted(key for key, tensor in weights.items() if not torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name}: its mask decoder holds NaN or infinite values, for example in {bad[0]}. Export it again.")
    decoder.load_state_dict(weights, assign=True)
    return decoder.eval().requires_grad_(False)


def split_lora(tensors: dict[str, Tensor], metadata: dict[str, str], name: str) -> tuple[dict[str, Tensor], MaskDecoder | None]:
    """A LoRA file's tensors without those of the mask decoder it may carry, and that decoder.

    Its tensors are named `mask_decoder.*`, its configuration is JSON in the metadata's LORA_CONFIG.
    """
    own = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}
    if not own:
        return tensors, None
    try:
        config = parse_json(metadata[LORA_CONFIG])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{name} carries a mask decoder, but its {LORA_CONFIG} cannot be read ({error!r}). Export it again."
        ) from error
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}
    return rest, build_mask_decoder(config, own, name)


class _Photo(nn.Module):
    """A photo [N,3,H,W] → features at 1, 1/2, 1/4 and 1/8 of its size, ready to be added to the latent's branch."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        full, half, quarter, eighth = widths
        self.at_full = _conv(3, full)
        self.at_half = nn.Sequential(_Down(full, half), _Block(half))
        self.at_quarter = nn.Sequential(_Down(half, quarter), _Block(quarter))
        self.at_eighth = nn.Sequential(_Down(quarter, eighth), _Block(eighth))
        self.context = nn.Sequential(_Down(eighth, eighth), _Block(eighth), _Block(eighth, 2))
        self.heads = nn.ModuleList(nn.Sequential(nn.SiLU(), _conv(width, width)) for width in widths)

    def forward(self, photo: Tensor) -> list[Tensor]:
        full = self.at_full(photo)
        half = self.at_half(full)
        quarter = self.at_quarter(half)
        eighth = self.at_eighth(quarter)
        eighth = eighth + _resize(self.context(eighth), eighth.shape[-2:])
        return [head(x) for head, x in zip(self.heads, (full, half, quarter, eighth), strict=True)]


class _Down(nn.Module):
    """Half the size, rounded up."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm, self.conv = _Norm(channels), nn.Conv2d(channels, out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(x)))


class _Up(nn.Module):
    """Twice the size by sub-pixel convolution, cut to the photo's features there, which are added."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.norm, self.conv = _Norm(channels), _conv(channels, 4 * out)

    def forward(self, x: Tensor, photo: Tensor) -> Tensor:
        x = F.pixel_shuffle(self.conv(F.silu(self.norm(x))), 2)
        return x[..., : photo.shape[-2], : photo.shape[-1]] + photo


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.norm, self.first = _Norm(channels), _conv(channels, channels, dilation)
        self.second = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class _Norm(nn.LayerNorm):
    """Layer normalisation of every pixel's channels: [N,C,H,W] → [N,C,H,W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)  # a view both ways, the memory being channels_last


def _conv(channels: int, out: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
