"""The training loop: steps, averaged weights, states for resuming, validation, export."""

import json
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from digseg_nodes.core.checkpoint import CheckpointError
from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT, segments
from train.data.augment import AugmentedSource
from train.data.base import Source
from train.data.build import open_split
from train.latents.batches import Batch, Batches, CachedBatches, WorkShare
from train.latents.fresh import FreshBatches, FreshSamples, encoded
from train.latents.latent_cache import LatentCache, build_table
from train.latents.sampler import Sampler
from train.learning.averages import Averaged
from train.learning.divergence import DivergedError, DivergenceGuard, refuse_not_finite
from train.learning.learning_rate import learning_rate
from train.learning.loss import make_loss
from train.learning.optimizer import check_optimizer, make_optimizer
from train.learning.resume import check_same_run, latest_state, load_state, optimizer_tensors, restore_optimizer, save_state
from train.learning.run_log import RunLog, describe, scalars
from train.memory import SAVING, device_memory, estimate, synchronize
from train.networks.bases import Networks, load_networks, open_base
from train.networks.engine import DiffusersEngine
from train.networks.export import export, export_lora
from train.networks.lora import add_lora
from train.networks.text_encoding import TextCache
from train.scoring.grids import save_grid
from train.scoring.predictions import EncodedSample, Result, encoded_samples, predict, score_sample
from train.scoring.report import write_report
from train.scoring.scores import Record, summarise
from train.settings.train_config import Strict, TrainConfig
from train.settings.yaml_config import ConfigError

ENCODING_TIME = timedelta(days=1)
"""How long other processes wait for the first one to fill the cache."""
WORTH_REPEATING = 5.0
"""Seconds up to which a trial pass on a CPU is made twice."""

FREE_SETTINGS = {
    "steps",
    "output",
    "cache",
    "validation",
    "checkpoints",
    "export",
    "workers",
    "encode_batch",
    "log_every",
    "tensorboard",
}
"""Settings that may change when a run is continued."""


@dataclass
class Progress:
    """What a run carries besides weights: steps done, the best validation score and how many validations ago it was."""

    step: int = 0
    best: float = -1.0
    since_best: int = 0


class Trainer:
    """One run in one process; several processes (accelerate launch) share the work of every step."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.accelerator = Accelerator(
            gradient_accumulation_steps=config.gradient_accumulation,
            mixed_precision=config.mixed_precision,
            log_with="tensorboard" if config.tensorboard else None,
            project_dir=config.output,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=ENCODING_TIME)],
        )
        if config.tensorboard:
            self.accelerator.init_trackers("tensorboard")
        self.networks = load_base(config)
        self._place()
        check_optimizer(config.optimizer, self.accelerator.device)
        self.batches = self._prepare_data()
        self.unet, self.optimizer = self._prepare_unet()
        self.ema = EMAModel(self._parameters(), decay=config.ema, foreach=True) if config.ema else None
        bars = self.networks.alpha_bar.to(self.accelerator.device)
        self.loss = make_loss(config, self.networks.vae, bars, self.networks.config.prediction_type)
        self.progress, self.grad_norm = Progress(), 0.0
        scaled = self.accelerator.scaler is not None
        self.guard = DivergenceGuard(partial(latest_state, config.output / "checkpoints"), config.mixed_precision, scaled)
        self.log = RunLog(config.output / "log.jsonl", self.accelerator.is_main_process)
        self.validation: list[EncodedSample] | None = None
        self.stopping = False

    def _place(self) -> None:
        for module in (self.networks.vae, self.networks.text_encoder):
            module.to(self.accelerator.device)

    def _prepare_data(self) -> Batches:
        config, networks, processes = self.config, self.networks, self.accelerator
        with processes.main_process_first():
            sources = open_split(config.data, "train")
            validation = open_split(config.data, "validation") if config.data.validation else []  # wrong paths show now
            texts = TextCache(config.cache, networks.text_encoder)
            samples = self._samples()
            table = build_table([(self._augmented(source), share) for source, share in sources], samples, texts)
        self.class_names = list(dict.fromkeys(name for source, _ in sources for name in source.class_names))
        self.validation_sources = [source for source, _ in validation]
        settings = config.sampling
        sampler = Sampler(table, config.seed, settings.absent, settings.hard_absent, settings.balance)
        processes.print(f"{len(table)} prompts over {len(set(table.image.tolist()))} images, {len(table.class_names)} classes")
        share = WorkShare(config.batch_size, config.gradient_accumulation, processes.num_processes, processes.process_index)
        parts = (config, sampler, samples, texts, share, len(networks.alpha_bar))
        if config.cache_latents:
            return CachedBatches(*parts)
        side = config.resolution // PIXELS_PER_LATENT
        return FreshBatches(*parts, (networks.vae.config.latent_channels, side, side))

    def _samples(self) -> LatentCache | FreshSamples:
        """Where images and masks come from: encoded once, or read anew at every step."""
        config = self.config
        if not config.cache_latents:
            return FreshSamples(config.cache, config.workers)
        return LatentCache(
            config.cache, self.networks.vae, config.resolution, config.encoded_at_once, config.workers, config.target
        )

    def _augmented(self, source: Source) -> Source:
        """With cached latents the versions of an image are images of their own; without, they are drawn step by step."""
        settings, cached = self.config.augment, self.config.cache_latents
        return AugmentedSource(source, settings, self.config.seed) if settings.variants and cached else source

    def _prepare_unet(self):
        config, unet = self.config, self.networks.unet
        unet.train()
        if config.lora:
            add_lora(unet, config.lora.rank, config.lora.alpha, config.lora.targets, config.seed)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if config.channels_last:
            unet.to(memory_format=torch.channels_last)
        unet.to(self.accelerator.device)
        return self.accelerator.prepare(unet, make_optimizer(self._parameters(), config.optimizer))

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """The trained weights by name: all of the U-Net, or its adapters."""
        return {name: weight for name, weight in self.networks.unet.named_parameters() if weight.requires_grad}

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self._trained().values())

    def run(self) -> None:
        """Train from the last state in the run folder, or from the start, to the configured number of steps."""
        self.resume()
        if self._ended():
            self.finish()
            return
        self._announce()
        start, steps = self.progress.step, self.config.steps
        loader = DataLoader(self.batches, batch_size=None, sampler=range(start, steps), num_workers=self.config.workers)
        bar = tqdm(total=steps, initial=start, desc="training", unit="step", disable=not self.accelerator.is_main_process)
        with bar, self._finishing_steps():
            for parts in loader:
                loss = self.step(parts)
                bar.update()
                if self.progress.step % self.config.log_every == 0:
                    value = self.accelerator.reduce(loss, "mean").item()
                    self._record({"loss": value, "lr": self.learning_rate, "grad_norm": self.grad_norm})
                    bar.set_postfix(loss=f"{value:.4f}")
                if self._after_step():
                    break
                if self._any_process(self.stopping):  # signals reach them at different steps; they end at the same one
                    self.save()
                    self.accelerator.print(f"stopped after step {self.progress.step}; the same command goes on from here")
                    return
        self.finish()

    def _record(self, values: dict) -> None:
        """One line of log.jsonl, and its scalars for TensorBoard where it is asked for."""
        self.log.write({"step": self.progress.step, **values})
        if self.config.tensorboard:
            self.accelerator.log(scalars(values), step=self.progress.step)

    @contextmanager
    def _finishing_steps(self):
        """Ctrl-C and SIGTERM end the loop after the step in work; the handlers of before come back at the end."""
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, *_) -> None:
        """Ctrl-C and SIGTERM: finish the step, save, leave. A second one ends at once."""
        self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all have to ask at the same place."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum") > 0)

    def step(self, parts: list[Batch]) -> torch.Tensor:
        """One optimizer step on this process's micro-batches; returns their mean loss, detached."""
        config, step = self.config, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        total, norm = torch.zeros((), device=self.accelerator.device), None
        for part in map(self._ready, parts):
            with self.accelerator.accumulate(self.unet):
                with self.accelerator.autocast():
                    loss = self.loss(self.unet, part)
                total += loss.detach() / config.gradient_accumulation
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    limit = config.optimizer.max_grad_norm or float("inf")
                    norm = self.accelerator.clip_grad_norm_(self.unet.parameters(), limit)
                    self._check_step(total, norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.guard.check_weights(step + 1, self._parameters(), self.learning_rate)
        self.grad_norm = float(norm)
        if self.ema is not None:
            self.ema.step(self._parameters())
        self.progress.step += 1
        return total

    @property
    def learning_rate(self) -> float:
        """Of the step in work."""
        return self.optimizer.param_groups[0]["lr"]

    def _check_step(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Stop before the optimizer takes in what is no number; gradients are shared by then, so that all processes stop."""
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(loss, "mean")
        self.guard.check_step(self.progress.step + 1, float(loss), float(norm), self.learning_rate)

    def _ready(self, part: Batch) -> Batch:
        """A micro-batch of latents on the training device."""
        part = part.to(self.accelerator.device)
        return part if part.pixels is None else encoded(part, self.networks.vae, self.config.encoded_at_once)

    def _after_step(self) -> bool:
        """Validation and states where they are due; True when there was no improvement for `patience` validations."""
        config, step = self.config, self.progress.step
        if config.data.validation and step % config.validation.every == 0:
            try:
                self.validate()
            except DivergedError:  # a state of such weights is worth nothing
                raise
            except Exception:  # out of memory, a broken photo: the steps are not lost with it
                self.save()
                raise
        if step % config.checkpoints.every == 0 and step < config.steps:
            self.save()
        return self._ended()

    def _ended(self) -> bool:
        """All steps done, or no better validation for `patience` of them."""
        patience = self.config.validation.patience
        return self.progress.step >= self.config.steps or (patience is not None and self.progress.since_best >= patience)

    def _announce(self) -> None:
        """Say before the first step what is going to be needed: memory, and time by a trial pass."""
        accelerator = self.accelerator
        if accelerator.is_main_process:
            self._announce_memory()
        seconds = self._trial() * self.config.gradient_accumulation
        left = timedelta(seconds=round(seconds * (self.config.steps - self.progress.step)))
        accelerator.print(f"about {seconds:.2f} s a step, {left} for what is left, without validation")

    def _announce_memory(self) -> None:
        device = self.accelerator.device
        try:
            need = estimate(self.config, self.networks.config, self.accelerator.num_processes)
        except Exception as error:  # it counts by means that PyTorch changes; training goes on without
            tqdm.write(f"no memory estimate with PyTorch {torch.__version__}: {type(error).__name__}: {error}")
            return
        tqdm.write(need.describe())
        if (there := device_memory(device)) and there < need.peak:
            tqdm.write(f"WARNING: {device} has {there / 2**30:.2f} GiB. {SAVING}")

    def _trial(self) -> float:
        """Seconds of one micro-batch: encoding without the cache, forward and backward pass; the gradients are thrown away.

        The first pass is slow, so a second one counts; one that takes long on a CPU is not worth it. Several processes have
        to make as many passes as each other, whatever their clocks say.
        """
        part, alone = self.batches[self.progress.step][0], self.accelerator.num_processes == 1
        for _ in range(2):
            synchronize(self.accelerator.device)
            started = time.perf_counter()
            ready = self._ready(part)
            with self.accelerator.autocast():
                loss = self.loss(self.unet, ready)
            loss.backward()
            synchronize(self.accelerator.device)
            seconds = time.perf_counter() - started
            self.unet.zero_grad(set_to_none=True)
            if alone and self.accelerator.device.type == "cpu" and seconds > WORTH_REPEATING:
                break
        return seconds

    def validate(self) -> dict:
        """Score the averaged weights; writes the log, the pictures and, when better than before, best.safetensors."""
        config = self.config
        settings = SamplerSettings(steps=config.validation.steps or config.sampling_steps, ensemble=config.validation.ensemble)
        with self.averaged_weights():
            records, pictures = self._score(settings)
        summary = summarise(records)
        score = summary["miou"] or 0.0
        better = score > self.progress.best
        self.progress = replace(
            self.progress, best=max(score, self.progress.best), since_best=0 if better else self.progress.since_best + 1
        )
        if self.accelerator.is_main_process:
            self._record({"validation": summary})
            tqdm.write(describe(self.progress.step, summary))
            save_grid(config.output / "pictures" / f"step-{self.progress.step:08d}.png", pictures, config.export.threshold)
            write_report(config.output, f"{config.export.title}: {config.output.name}")
            if better:
                self.export(config.output / "best")
            if self._ended() and self.progress.step < config.steps:
                tqdm.write(f"no better validation for {config.validation.patience} of them: stopped before the end")
        return summary

    def _score(self, settings: SamplerSettings) -> tuple[list[Record], list[Result]]:
        """Records of all processes, and this process's first results as pictures."""
        results, failure = [], None
        self.networks.unet.eval()
        try:
            results = self._predictions(settings)
        except Exception as error:
            failure = error
        self.networks.unet.train()
        self._fail_together(failure)
        records = sorted(gather_object([result.record for result in results]), key=lambda record: record.image)
        return records, results[: self.config.validation.pictures]

    def _predictions(self, settings: SamplerSettings) -> list[Result]:
        """This process's share of the validation prompts, predicted and scored."""
        config, processes = self.config, self.accelerator
        drawn = replace(self.networks.config, initial_noise=config.initial_noise)
        engine = DiffusersEngine(replace(self.networks, config=drawn), config.validation.batch_size)
        if self.validation is None:
            shard, limit = (processes.process_index, processes.num_processes), config.validation.images
            look = ImageSettings(config.resolution)
            self.validation = list(encoded_samples(self.validation_sources, engine, look, limit, shard, spread=True))
        masks = ((one, predict(engine, one.image, one.prompts, settings)) for one in self.validation)
        threshold = config.export.threshold
        return [result for one, soft in masks for result in score_sample(one.number, one.sample, soft, threshold)]

    def _fail_together(self, failure: Exception | None) -> None:
        """Raise this process's failure, or say that another one failed: nobody waits for one that is gone."""
        if not self._any_process(failure is not None):
            return
        raise failure or RuntimeError("The validation failed in another process; its message says why.")

    def averaged_weights(self):
        """Context in which the U-Net holds the averaged weights."""
        return Averaged(self.ema, self._parameters())

    def save(self) -> None:
        """Write a state to resume from."""
        if not self.accelerator.is_main_process:
            return
        tensors, values = optimizer_tensors(self.optimizer)
        tensors |= {f"unet.{name}": weight for name, weight in self._trained().items()}
        values |= {"progress": self.progress.__dict__, "config": self._settings()}
        if self.ema is not None:
            tensors |= {f"ema.{number}": tensor for number, tensor in enumerate(self.ema.shadow_params)}
            values["ema_step"] = self.ema.optimization_step
        if self.accelerator.scaler is not None:
            values["scaler"] = self.accelerator.scaler.state_dict()
        refuse_not_finite(_weights(tensors), f"State {self.progress.step} was not written", "The training has diverged.")
        save_state(self.config.output / "checkpoints", self.progress.step, tensors, values, self.config.checkpoints.keep)

    def resume(self) -> None:
        """Restore the newest state of the run folder, if there is one."""
        path = latest_state(self.config.output / "checkpoints")
        self.log.open(0 if path is None else int(path.stem.split("-")[1]))
        if path is None:
            return
        tensors, values = load_state(path)
        refuse_not_finite(_weights(tensors), str(path), "Delete it: the run goes on from the state before, or from the start.")
        check_same_run(self._with_defaults(values["config"]), self._settings(), FREE_SETTINGS)
        with torch.no_grad():
            for name, weight in self._trained().items():
                weight.copy_(tensors[f"unet.{name}"])
        restore_optimizer(self.optimizer, tensors, values)
        if self.ema is not None:
            for number, shadow in enumerate(self.ema.shadow_params):
                shadow.copy_(tensors[f"ema.{number}"])
            self.ema.optimization_step = values["ema_step"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.progress = Progress(**values["progress"])
        self.accelerator.print(f"continuing from {path} ({self.progress.step} steps done)")

    def _with_defaults(self, saved: dict) -> dict:
        """Settings of a saved state, with the defaults of keys that came after it."""
        sections = {name: type(part)().model_dump(mode="json") for name, part in self.config if isinstance(part, Strict)}
        return saved | {name: values | saved[name] for name, values in sections.items() if isinstance(saved.get(name), dict)}

    def _settings(self) -> dict:
        """The configuration as JSON values, with what else decides the course of a run."""
        return {**json.loads(self.config.model_dump_json()), "processes": self.accelerator.num_processes}

    def export(self, stem: Path) -> Path:
        """Write the averaged weights for the nodes: a checkpoint, or the LoRA to add to the base; returns the file."""
        config, unet = self.config, self.networks.unet
        with self.averaged_weights():
            if config.lora is None:
                path = stem.with_suffix(".safetensors")
                export(path, unet.state_dict(), self.networks, config, self.class_names, self.progress.step)
            else:
                path = stem.with_name(f"{stem.name}-lora.safetensors")
                export_lora(path, unet, config, self.progress.step)
        return path

    def finish(self) -> None:
        """Last state and the exported checkpoint."""
        self.save()
        if self.accelerator.is_main_process:
            path = self.export(self.config.output / "digseg")
            write_report(self.config.output, f"{self.config.export.title}: {self.config.output.name}")
            folder = "loras" if self.config.lora else "digseg"
            self.accelerator.print(f"wrote {path}; put it into ComfyUI/models/{folder}/")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def load_base(config: TrainConfig) -> Networks:
    """The networks a configuration starts from, with the noise schedule it trains on."""
    if config.lora:
        check_lora_base(config)
    networks = load_networks(config.base, config.components, config.init, config.seed)
    networks.config = replace(networks.config, mask_target=config.target, scheduler=training_schedule(networks, config))
    return networks


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


def _weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights and averages of a state's tensors, without the optimizer's."""
    return {name: tensor for name, tensor in state.items() if name.startswith(("unet.", "ema."))}
