"""The networks a run starts from: the base, checked against what the configuration asks of it."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.latent_space import segments
from digseg_nodes.core.mask_decoder import MaskDecoder, MaskDecoderConfig
from train.networks.bases import Networks, load_networks, open_base
from train.settings.train_config import TrainConfig
from train.settings.yaml_config import ConfigError


def load_base(config: TrainConfig) -> Networks:
    """The networks a configuration starts from, with the noise schedule it trains on."""
    if config.lora:
        check_lora_base(config)
    networks = load_networks(config.base, config.components, config.init, config.seed)
    if networks.config.mask_target != config.target:  # a decoder reads only what it has learnt to read
        networks.mask_decoder, networks.config = None, replace(networks.config, mask_decoder=None)
    networks.config = replace(
        networks.config,
        mask_target=config.target,
        scheduler=training_schedule(networks, config),
        photo_shape=networks.config.photo_shape if config.lora else config.photo_shape or "own",
    )
    if config.mask_decoder:
        networks.mask_decoder = first_decoder(
            networks.mask_decoder, config.mask_decoder.guide, config.seed, config.mask_decoder.shape
        )
        networks.config = replace(networks.config, mask_decoder=networks.mask_decoder.config.to_dict())
    return networks


def first_decoder(found: MaskDecoder | None, guide: float, seed: int, shape: Mapping | None = None) -> MaskDecoder:
    """The mask decoder a run starts from: the base's, now meant for guides up to `guide` at least, or a new one where there is
    none or `shape` (fields of MaskDecoderConfig) asks for another."""
    shape = shape or {}
    if found is not None and found.config == MaskDecoderConfig.from_dict(found.config.to_dict() | shape):
        if found.config.guide < guide:
            found.config = replace(found.config, guide=guide)
        return found.train().requires_grad_(True)  # opened for masks, it was frozen
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskDecoder(MaskDecoderConfig(guide=guide, **shape))


def check_lora_base(config: TrainConfig) -> None:
    """Raises CheckpointError for a base that a LoRA cannot adapt: the nodes sample a LoRA as its base says."""
    base = open_base(config.base).config
    if not segments(base.unet):
        raise CheckpointError(
            f"{config.base} is a text-to-image base; `lora:` adapts a DiGSeg checkpoint. Fine-tune the base without "
            "`lora:` first, or name a DiGSeg checkpoint as `base:`."
        )
    if base.mask_target != config.target:
        raise CheckpointError(
            f"{config.base} draws its masks as {base.mask_target} and the run asks for {config.target}; a LoRA cannot change "
            f"that. Set `target: {base.mask_target}`."
        )
    if config.prediction_type not in (None, base.prediction_type):
        raise CheckpointError(
            f"{config.base} predicts {base.prediction_type} and the run asks for {config.prediction_type}; a LoRA cannot change "
            "that. Leave `prediction_type` out."
        )
    if config.photo_shape not in (None, base.photo_shape):
        raise CheckpointError(
            f"{config.base} saw photos in the shape `{base.photo_shape}` and the run asks for `{config.photo_shape}`; a LoRA "
            "cannot change that. Leave `photo_shape` out."
        )
    wanted = {"initial_noise": config.initial_noise}
    found = {"initial_noise": base.initial_noise}
    if config.objective == "end_to_end":
        wanted |= {"default_steps": 1, "scheduler.timestep_spacing": "trailing"}
        found |= {"default_steps": base.default_steps, "scheduler.timestep_spacing": spacing(base.scheduler)}
    if found != wanted:
        edits = " ".join(f"{key}={value}" for key, value in wanted.items())
        raise CheckpointError(
            f"{config.base} is sampled with {found}, and a LoRA cannot change that; `objective: {config.objective}` needs "
            f"{wanted}. Train with the objective of the base, or make another base first: "
            f"python train/convert.py {config.base} OTHER.safetensors --set {edits}"
        )


def spacing(scheduler: dict) -> str:
    """How a scheduler config spaces its steps; trailing where it does not say."""
    return scheduler.get("timestep_spacing", "trailing")


def training_schedule(networks: Networks, config: TrainConfig) -> dict:
    """The base's scheduler config with what the configuration changes about it. Models are sampled with trailing steps
    (3.7); a LoRA is sampled as its base is."""
    scheduler = dict(networks.config.scheduler)
    if not config.lora:
        scheduler["timestep_spacing"] = "trailing"
    if config.prediction_type is not None:
        scheduler["prediction_type"] = config.prediction_type
    if config.zero_terminal_snr is not None:
        scheduler["rescale_betas_zero_snr"] = config.zero_terminal_snr
    if scheduler.get("rescale_betas_zero_snr") and scheduler.get("prediction_type", "epsilon") == "epsilon":
        raise ConfigError("zero_terminal_snr needs a base with v-prediction: at the last timestep there is only noise.")
    return scheduler
