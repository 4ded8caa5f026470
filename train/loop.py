"""The training loop: steps, averaged weights, states for resuming, validation, export."""

import json
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from train.batch import Batch, Batches
from train.config import TrainConfig
from train.data.build import open_split
from train.export import export
from train.loss import make_loss
from train.model import load_networks
from train.pictures import save_grid
from train.resume import check_same_run, latest_state, load_state, optimizer_tensors, restore_optimizer, save_state
from train.sampling import Sampler
from train.schedule import learning_rate
from train.scores import Record, summarise
from train.table import LatentCache, build_table
from train.text import TextCache
from train.validate import Question, Result, Sampling, answer, questions, score_question

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
            gradient_accumulation_steps=config.gradient_accumulation, mixed_precision=config.mixed_precision
        )
        self.networks = load_networks(config.base, config.components, config.init, config.seed)
        self._place()
        self.batches = self._prepare_data()
        self.unet, self.optimizer = self._prepare_unet()
        self.ema = EMAModel(self._parameters(), decay=config.ema, foreach=True) if config.ema else None
        bars = self.networks.alpha_bar.to(self.accelerator.device)
        self.loss = make_loss(config, self.networks.vae, bars, self.networks.config.prediction_type)
        self.progress = Progress()
        self.log = RunLog(config.output / "log.jsonl", self.accelerator.is_main_process)
        self.questions: list[Question] | None = None
        self.stopping = False

    def _place(self) -> None:
        for module in (self.networks.vae, self.networks.text_encoder):
            module.to(self.accelerator.device)

    def _prepare_data(self) -> Batches:
        config, networks = self.config, self.networks
        with self.accelerator.main_process_first():
            latents = LatentCache(config.cache, networks.vae, config.resolution, config.encode_batch, config.workers)
            texts = TextCache(config.cache, networks.text_encoder)
            sources = open_split(config.data, "train")
            table = build_table(sources, latents, texts)
        self.class_names = list(dict.fromkeys(name for source, _ in sources for name in source.class_names))
        settings = config.sampling
        sampler = Sampler(table, config.seed, settings.absent, settings.hard_absent, settings.balance)
        self.accelerator.print(
            f"{len(table)} prompts over {len(set(table.image.tolist()))} images, {len(table.class_names)} classes"
        )
        total = config.batch_size * config.gradient_accumulation * self.accelerator.num_processes
        return Batches(config, sampler, latents, texts, total, len(networks.alpha_bar))

    def _prepare_unet(self):
        config, unet = self.config, self.networks.unet
        unet.train()
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if config.channels_last:
            unet.to(memory_format=torch.channels_last)
        settings = config.optimizer
        unet.to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        return self.accelerator.prepare(unet, optimizer)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.networks.unet.parameters())

    def run(self) -> None:
        """Train from the last state in the run folder, or from the start, to the configured number of steps."""
        self.resume()
        start, steps = self.progress.step, self.config.steps
        loader = DataLoader(self.batches, batch_size=None, sampler=range(start, steps), num_workers=self.config.workers)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        bar = tqdm(total=steps, initial=start, desc="training", unit="step", disable=not self.accelerator.is_main_process)
        with bar:
            for batch in loader:
                loss = self.step(batch)
                bar.update()
                if self.progress.step % self.config.log_every == 0:
                    value = self.accelerator.reduce(loss, "mean").item()
                    self.log.write({"step": self.progress.step, "loss": value, "lr": self.optimizer.param_groups[0]["lr"]})
                    bar.set_postfix(loss=f"{value:.4f}")
                if self._after_step():
                    break
                if self.stopping:
                    self.save()
                    self.accelerator.print(f"stopped after step {self.progress.step}; the same command goes on from here")
                    return
        self.finish()

    def _stop(self, *_) -> None:
        """Ctrl-C and SIGTERM: finish the step, save, leave. A second one ends at once."""
        self.stopping = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def step(self, batch: Batch) -> torch.Tensor:
        """One optimizer step on this process's part of a batch; returns its mean loss, detached."""
        config, step = self.config, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        total = torch.zeros((), device=self.accelerator.device)
        for part in self._parts(batch):
            with self.accelerator.accumulate(self.unet):
                with self.accelerator.autocast():
                    loss = self.loss(self.unet, part)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and config.optimizer.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.unet.parameters(), config.optimizer.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / config.gradient_accumulation
        if self.ema is not None:
            self.ema.step(self._parameters())
        self.progress.step += 1
        return total

    def _parts(self, batch: Batch):
        """This process's micro-batches: sample k of a step is the same whatever the number of processes."""
        size, processes = self.config.batch_size, self.accelerator.num_processes
        for micro in range(self.config.gradient_accumulation):
            start = (micro * processes + self.accelerator.process_index) * size
            yield batch.slice(start, start + size).to(self.accelerator.device)

    def _after_step(self) -> bool:
        """Validation and states where they are due; True when there was no improvement for `patience` validations."""
        config, step = self.config, self.progress.step
        stop = False
        if config.data.validation and step % config.validation.every == 0:
            self.validate()
            stop = config.validation.patience is not None and self.progress.since_best >= config.validation.patience
        if step % config.checkpoints.every == 0 and step < config.steps:
            self.save()
        return stop

    def validate(self) -> dict:
        """Score the averaged weights; writes the log, the pictures and, when better than before, best.safetensors."""
        config = self.config
        sampling = Sampling(
            config.validation.steps or config.sampling_steps,
            config.validation.ensemble,
            config.initial_noise,
            batch_size=config.validation.batch_size,
        )
        with self.averaged_weights():
            records, pictures = self._score(sampling)
        summary = summarise(records)
        score = summary["miou"] or 0.0
        better = score > self.progress.best
        self.progress = replace(
            self.progress, best=max(score, self.progress.best), since_best=0 if better else self.progress.since_best + 1
        )
        if self.accelerator.is_main_process:
            self.log.write({"step": self.progress.step, "validation": summary})
            tqdm.write(describe(self.progress.step, summary))
            save_grid(config.output / "pictures" / f"step-{self.progress.step:08d}.png", pictures, config.export.threshold)
            if better:
                self.export(config.output / "best.safetensors")
        return summary

    def _score(self, sampling: Sampling) -> tuple[list[Record], list[Result]]:
        """Records of all processes, and this process's first results as pictures."""
        networks, config, accelerator = self.networks, self.config, self.accelerator
        if self.questions is None:
            sources = [source for source, _ in open_split(config.data, "validation")]
            shard = (accelerator.process_index, accelerator.num_processes)
            self.questions = list(questions(sources, networks, config.resolution, config.validation.images, shard))
        networks.unet.eval()
        results = []
        for question in self.questions:
            soft = answer(networks, question.latent, question.texts, question.geometry, sampling)
            results += score_question(question, soft, config.export.threshold)
        networks.unet.train()
        records = sorted(gather_object([result.record for result in results]), key=lambda record: record.image)
        return records, results[: config.validation.pictures]

    def averaged_weights(self):
        """Context in which the U-Net holds the averaged weights."""
        return _Averaged(self.ema, self._parameters())

    def save(self) -> None:
        """Write a state to resume from."""
        if not self.accelerator.is_main_process:
            return
        tensors, values = optimizer_tensors(self.optimizer)
        tensors |= {f"unet.{name}": tensor for name, tensor in self.networks.unet.state_dict().items()}
        values |= {"progress": self.progress.__dict__, "config": self._settings()}
        if self.ema is not None:
            tensors |= {f"ema.{number}": tensor for number, tensor in enumerate(self.ema.shadow_params)}
            values["ema_step"] = self.ema.optimization_step
        if self.accelerator.scaler is not None:
            values["scaler"] = self.accelerator.scaler.state_dict()
        save_state(self.config.output / "checkpoints", self.progress.step, tensors, values, self.config.checkpoints.keep)

    def resume(self) -> None:
        """Restore the newest state of the run folder, if there is one."""
        path = latest_state(self.config.output / "checkpoints")
        self.log.open(0 if path is None else int(path.stem.split("-")[1]))
        if path is None:
            return
        tensors, values = load_state(path)
        check_same_run(values["config"], self._settings(), FREE_SETTINGS)
        prefix = "unet."
        self.networks.unet.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        restore_optimizer(self.optimizer, tensors, values)
        if self.ema is not None:
            for number, shadow in enumerate(self.ema.shadow_params):
                shadow.copy_(tensors[f"ema.{number}"])
            self.ema.optimization_step = values["ema_step"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.progress = Progress(**values["progress"])
        self.accelerator.print(f"continuing from {path} ({self.progress.step} steps done)")

    def _settings(self) -> dict:
        """The configuration as JSON values, with what else decides the course of a run."""
        return {**json.loads(self.config.model_dump_json()), "processes": self.accelerator.num_processes}

    def export(self, path: Path) -> None:
        """Write the node checkpoint of the averaged weights."""
        with self.averaged_weights():
            weights = {name: tensor.detach().clone() for name, tensor in self.networks.unet.state_dict().items()}
        export(path, weights, self.networks, self.config, self.class_names)

    def finish(self) -> None:
        """Last state and the exported checkpoint."""
        self.save()
        if self.accelerator.is_main_process:
            path = self.config.output / "digseg.safetensors"
            self.export(path)
            self.accelerator.print(f"wrote {path}; put it into ComfyUI/models/digseg/")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


class _Averaged:
    """Swaps the averaged weights in and the trained ones back."""

    def __init__(self, ema: EMAModel | None, parameters: list[torch.nn.Parameter]):
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        if self.ema is not None:
            self.saved = [parameter.detach().clone() for parameter in self.parameters]
            self.ema.copy_to(self.parameters)

    def __exit__(self, *_) -> None:
        if self.ema is not None:
            with torch.no_grad():
                for parameter, saved in zip(self.parameters, self.saved, strict=True):
                    parameter.copy_(saved)


class RunLog:
    """log.jsonl of a run: one JSON object a line. Lines beyond the state a run continues from are dropped."""

    def __init__(self, path: Path, active: bool):
        self.path, self.active = path, active

    def open(self, step: int) -> None:
        """Keep the lines up to `step`."""
        if not self.active:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)

    def write(self, values: dict) -> None:
        """Append one line."""
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def describe(step: int, summary: dict) -> str:
    """A validation in one line."""
    parts = [f"step {step}"]
    for group, scores in summary["groups"].items():
        parts.append(f"{group} " + (f"fired {scores['fired']:.3f}" if "fired" in scores else f"mIoU {scores['miou']:.3f}"))
    return ", ".join(parts)
