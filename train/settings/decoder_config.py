"""The settings of `train/finetune_decoder.py`: every option of the command line, its default, its range and what it means."""

import argparse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from train.settings.bounds import Batch, Count, Interval, Share, Steps, whole
from train.settings.yaml_config import ConfigError, UserPath


class DecoderSettings(BaseModel):
    """One training of a mask decoder."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    checkpoint: UserPath = Field(description="DiGSeg checkpoint, file or diffusers folder, that gets the decoder")
    data: UserPath = Field(description="data YAML, see train/configs/data/")
    output: UserPath | None = Field(None, description="run folder, default output/runs/<checkpoint>-decoder")
    components: UserPath | None = Field(None, description="checkpoint with VAE and text encoder, for a U-Net-only file")
    lora: UserPath | None = Field(None, description="LoRA on top of the checkpoint; the decoder is written into a copy of it")
    steps: Steps = Field(2000, description="optimizer steps")
    images: Count = Field(2000, description="training photos to predict masks for, evenly from the data")
    prompts: whole(1, 1000, "prompts of one photo") = Field(8, description="prompts per photo")
    absent: Share = Field(0.25, description="share of them that name what is not there")
    variants: whole(1, 100, "predictions of one prompt") = Field(
        2, description="predictions per prompt, where the model starts from random noise"
    )
    guide: Annotated[float, Field(ge=1, le=16)] = Field(
        4.0, description="largest size of the photo, in times the resolution of the U-Net"
    )
    photos: Batch = Field(4, description="photos a step")
    masks: Batch = Field(24, description="masks a step, of 128 x 128 pixels; fewer where they are larger")
    crop: whole(32, 4096, "pixels of the guide") = Field(
        192, description="longest side of what is cut out of a photo, pixels of the guide"
    )
    noise: Annotated[float, Field(ge=0)] = Field(0.15, description="largest noise added to the predicted latents, scaled")
    exact: Share = Field(0.05, description="share of the latents mixed with that of the true mask")
    colour: Share = Field(0.3, description="how far the colours of the photos are moved")
    lr: Annotated[float, Field(gt=0)] = Field(2e-3, description="AdamW's learning rate after 50 steps of warm-up; cosine to 2 %%")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="bf16: faster where the machine has it; no: float32")
    seed: whole(0, 2**64 - 1, "a seed has 64 bits") = Field(0, description="of everything random")
    batch_size: Batch = Field(32, description="masks per U-Net call while predicting")
    validate_every: Interval = Field(500, description="steps between validations with both decoders")
    validate_images: Count = Field(24, description="photos of a validation")
    save_every: Interval = Field(100, description="steps between states to resume from")
    log_every: Interval = Field(10, description="steps between lines of log.jsonl")
    cpu: bool = Field(False, description="stay on the CPU")

    @property
    def run_folder(self) -> Path:
        """Where everything is written."""
        return self.output or Path("output/runs") / f"{(self.lora or self.checkpoint).stem}-decoder"


FREE_SETTINGS = {"output", "steps", "batch_size", "validate_every", "validate_images", "save_every", "log_every", "cpu"}
"""Settings that may change when a run is continued."""
PREDICTION_SETTINGS = ("images", "prompts", "absent", "variants", "guide", "seed")
"""Those that decide what is predicted."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option of the command line for every setting."""
    for name, field in DecoderSettings.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(option, action="store_true", help=field.description)
            continue
        default = "" if field.is_required() or field.default is None else f", default {field.default}"
        parser.add_argument(option, required=field.is_required(), help=field.description + default, default=argparse.SUPPRESS)


def settings_from(values: dict) -> DecoderSettings:
    """Parsed options as settings; ConfigError for values out of range."""
    try:
        return DecoderSettings.model_validate(values)
    except ValidationError as error:
        said = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        problems = [f"--{name.replace('_', '-')}: {words}" for name, words in said]
        raise ConfigError("; ".join(problems)) from error
