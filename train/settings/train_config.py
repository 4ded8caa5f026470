"""The settings of `train/finetune.py`: every key of a configuration file, its default and its range."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from digseg_nodes.core.checkpoint import PREDICTION_TYPES
from digseg_nodes.core.geometry import PHOTO_SHAPES
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.mask_decoder import DEEPEST, LEVELS, WIDEST
from digseg_nodes.core.mask_targets import MASK_TARGETS, shows_photo
from train.data.augment import Augmentation
from train.data.config import DataConfig, load_data
from train.settings.bounds import Batch, Calls, Count, Interval, Seed, Share, Side, Steps, Workers, whole
from train.settings.yaml_config import ConfigError, UserPath, apply_overrides, expand, load_yaml, validate

PIXELS_AT_ONCE = 2**32
"""Pixels of a step over all its micro-batches: more is a mistake rather than a machine."""


class Strict(BaseModel):
    """A section of the file; unknown keys are errors, and so are infinite numbers and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Strict):
    """AdamW with linear warm-up, then decay to `final_lr_share` of the rate at the last step.

    kind: "adamw", or "adamw_8bit" with moments of eight bits (package bitsandbytes). fused: AdamW's step in one kernel.
    """

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    fused: bool = True
    lr: Annotated[float, Field(gt=0)] = 3e-5
    warmup_steps: whole(0, 99_999_999, "a number of steps") = 100
    decay: Literal["constant", "cosine", "exponential"] = "exponential"
    final_lr_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0


class Noise(Strict):
    """Training noise and timesteps of `objective: diffusion` (paper section 3.6).

    annealed: the share of low frequencies falls with the timestep, as in the paper; false keeps it at `strength`.
    """

    strength: Share = 0.9
    annealed: bool = True
    high_share: Share = 0.0
    high_from: Annotated[int, Field(ge=0, lt=1000)] = 900
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None


class EndToEnd(Strict):
    """Loss of `objective: end_to_end`: on the mask latent, on the mask the VAE decodes, on both weighted, or on the mask of the
    guided decoder (`mask_decoder`), with `anchor` times the latent's error beside it."""

    loss: Literal["latent", "pixel", "both", "mask"] = "latent"
    pixel_weight: Annotated[float, Field(gt=0)] = 1.0
    anchor: Annotated[float, Field(ge=0)] = 1.0


class MaskDecoding(Strict):
    """A guided mask decoder trained along with the U-Net, on its predictions (`objective: end_to_end`).

    lr: its own learning rate. guide: the photo is shown at up to so many times the resolution. noise: standard deviation of
    what is added to the latents. colour: how far the photo's colours are moved. widths, blocks: its shape, as in
    core/mask_decoder.MaskDecoderConfig; left out, the base's decoder is trained further, or one of the default shape made.
    focal: exponent by which pixels that are right already count less in its cross-entropy; 0: all alike.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    guide: whole(1, 4, "the decoder is shown as many pixels at every size, so few latent pixels are left of larger ones") = 1
    noise: Annotated[float, Field(ge=0)] = 0.1
    colour: Share = 0.2
    focal: Annotated[float, Field(ge=0, le=5)] = 0.0
    widths: Annotated[list[Annotated[int, Field(ge=4, le=WIDEST)]], Field(min_length=LEVELS, max_length=LEVELS)] | None = None
    blocks: whole(0, DEEPEST, "more see no further than the picture") | None = None

    @property
    def shape(self) -> dict:
        """What is set of the decoder's shape, by the names of MaskDecoderConfig."""
        return {name: value for name in ("widths", "blocks") if (value := getattr(self, name)) is not None}


class Sampling(Strict):
    """How training samples are drawn."""

    absent: Share = 0.2
    hard_absent: Share = 0.7
    balance: Share = 0.5


class Lora(Strict):
    """Low-rank adapters instead of all weights; the base must be a DiGSeg checkpoint. targets: ends of layer names."""

    rank: whole(1, 1024, "the layers have few hundred channels, and a rank near that is a full fine-tune") = 16
    alpha: Annotated[float, Field(gt=0)] = 16.0
    targets: list[str] = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


class Validation(Strict):
    """Scores on held-back images with the averaged weights, and the pictures that go with them."""

    every: Interval = 500
    images: Count = 32
    steps: Calls | None = None
    ensemble: whole(1, 100, "masks averaged, each with its own U-Net calls") = 1
    batch_size: Batch = 32
    pictures: whole(0, 1000, "rows of one picture") = 8
    patience: Interval | None = None


class Checkpoints(Strict):
    """States for resuming: written every `every` steps, the last `keep` stay."""

    every: Interval = 500
    keep: whole(1, 100_000, "states that stay on the disk") = 2


class Export(Strict):
    """The node checkpoint written at the end: `full` carries VAE and text encoder, `unet` the U-Net alone."""

    content: Literal["full", "unet"] = "full"
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    title: str = "DiGSeg"
    license: str = ""
    steps: Calls | None = None
    threshold: Share = 0.5


def _precision(value):
    """Other ways of writing a precision: in capitals, and `no` as off, false, none or fp32."""
    words = str(value).strip().lower()
    return "no" if words in ("off", "false", "none", "fp32", "float32") and value is not None else words


Precision = Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_precision)]
ENCODED_PIXELS = 2**20


class TrainConfig(Strict):
    """One training run."""

    base: UserPath
    components: UserPath | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    data: DataConfig
    output: UserPath
    cache: UserPath = Path("output/cache")
    cache_latents: bool = True
    seed: Seed = 0
    resolution: Annotated[Side, Field(multiple_of=PIXELS_PER_LATENT)] = 512
    photo_shape: Literal[PHOTO_SHAPES] | None = None
    steps: Steps = 20000
    batch_size: Batch = 8
    gradient_accumulation: whole(1, 4096, "micro-batches of one step") = 1
    gradient_checkpointing: bool = False
    mixed_precision: Precision = "no"
    channels_last: bool = False
    compile: bool = False
    tf32: bool | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    workers: Workers = 0
    encode_batch: Batch | None = None
    log_every: Interval = 10
    tensorboard: bool = False
    objective: Literal["diffusion", "end_to_end"] = "diffusion"
    target: Literal[MASK_TARGETS] = "binary"
    prediction_type: Literal[PREDICTION_TYPES] | None = None
    zero_terminal_snr: bool | None = None
    noise: Noise = Noise()
    end_to_end: EndToEnd = EndToEnd()
    mask_decoder: MaskDecoding | None = None
    optimizer: Optimizer = Optimizer()
    sampling: Sampling = Sampling()
    augment: Augmentation = Augmentation()
    lora: Lora | None = None
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    export: Export = Export()

    @model_validator(mode="after")
    def _combinations(self):
        """Settings that exclude each other."""
        if shows_photo(self.target) and self.objective == "end_to_end" and self.end_to_end.loss in ("pixel", "both"):
            raise ValueError(f"target: {self.target} has no pixel loss; use end_to_end.loss: latent or target: binary")
        if self.batch_size * self.gradient_accumulation * self.resolution**2 > PIXELS_AT_ONCE:
            raise ValueError("batch_size x gradient_accumulation x resolution² must be 2^32 at most: pixels of one step")
        if self.mask_decoder and self.objective != "end_to_end":
            raise ValueError(
                "mask_decoder needs objective: end_to_end; a finished diffusion model gets its own by train/finetune_decoder.py"
            )
        if self.end_to_end.loss == "mask" and self.objective == "end_to_end" and not self.mask_decoder:
            raise ValueError("end_to_end.loss: mask needs a mask decoder; add `mask_decoder: {}`")
        if self.lora and self.init == "random":
            raise ValueError("lora trains little on top of a trained model; init: random leaves nothing to build on")
        return self

    @property
    def sampling_steps(self) -> int:
        """U-Net calls per mask the checkpoint is meant for: export.steps, or 1 for end_to_end, 10 for diffusion."""
        return self.export.steps or (1 if self.objective == "end_to_end" else 10)

    @property
    def allows_tf32(self) -> bool:
        """Whether CUDA may round the factors of float32 products to TF32: tf32, or where mixed_precision is not "no"."""
        return self.mixed_precision != "no" if self.tf32 is None else self.tf32

    @property
    def encoded_at_once(self) -> int:
        """Images or masks the VAE encodes at a time: encode_batch, or as many as make 1024 x 1024 pixels, 16 at most."""
        return self.encode_batch or max(1, min(16, ENCODED_PIXELS // self.resolution**2))

    @property
    def initial_noise(self) -> str:
        """What sampling starts from: "zero" for end_to_end, else "gaussian"."""
        return "zero" if self.objective == "end_to_end" else "gaussian"


def load_config(path: Path, overrides: list[str] = ()) -> TrainConfig:
    """Read a configuration file and `key=value` overrides; raises ConfigError naming file, line and key."""
    values, lines = load_yaml(path)
    overridden = apply_overrides(values, list(overrides))
    if "data" not in values:
        raise ConfigError(f"{path}: data: missing; give a data YAML file (train/configs/data/) or its content")
    if isinstance(values["data"], str):
        try:
            values["data"] = load_data(expand(Path(values["data"])))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{path}: data: {error}") from error
    return validate(TrainConfig, values, path, lines, overridden)
