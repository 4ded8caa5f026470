"""Training a mask decoder for a checkpoint that stays as it is."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from digseg_nodes.core.checkpoint import open_checkpoint
from digseg_nodes.core.mask_decoder import PREFIX
from train.data.build import open_split
from train.data.config import load_data
from train.learning.decoder_batches import BatchSettings, DecoderBatch, DecoderBatches
from train.learning.decoder_pairs import Basis, PairSettings, make_pairs
from train.learning.decoder_validation import DecoderValidator
from train.learning.divergence import DivergenceGuard, refuse_not_finite
from train.learning.learning_rate import learning_rate
from train.learning.mask_loss import mask_loss
from train.learning.optimizer import make_optimizer
from train.learning.pace import Pace
from train.learning.processes import StopSignals
from train.learning.resume import (
    check_same_run,
    fitting,
    latest_state,
    load_state,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from train.learning.run_log import RunLog
from train.learning.start import first_decoder
from train.networks.decoder_export import write_with_decoder
from train.networks.engine import DiffusersEngine, open_segmenter
from train.scoring.report import write_report
from train.settings.decoder_config import FREE_SETTINGS, PREDICTION_SETTINGS, DecoderSettings
from train.settings.train_config import Optimizer

WARMUP, FINAL_SHARE, KEPT_STATES = 50, 0.02, 2


class DecoderTrainer:
    """One run: predictions of the frozen model, then the decoder's steps, states, validations and the file with the decoder."""

    def __init__(self, settings: DecoderSettings):
        self.settings, self.folder = settings, settings.run_folder
        self.data = load_data(settings.data)
        self.source = open_checkpoint(settings.checkpoint)
        files = {name: getattr(settings, name) for name in ("checkpoint", "components", "lora")}
        device = "cpu" if settings.cpu else None
        self.engine: DiffusersEngine = open_segmenter(*files.values(), device, settings.batch_size).engine
        self.photos = open_split(self.data, "train")
        self.wanted = PairSettings(**{name: getattr(settings, name) for name in PREDICTION_SETTINGS})
        self.basis = Basis(self.folder, files, self.photos, self.wanted)
        self.device = self.engine.networks.unet.device
        self.decoder = first_decoder(self.engine.networks.mask_decoder, settings.guide, settings.seed).to(self.device)
        self.rates = Optimizer(lr=settings.lr, warmup_steps=WARMUP, decay="cosine", final_lr_share=FINAL_SHARE)
        self.optimizer = make_optimizer([{"params": list(self.decoder.parameters())}], self.rates)
        self.guard = DivergenceGuard(lambda: latest_state(self.states), settings.mixed_precision, False)
        self.log = RunLog(self.folder / "log.jsonl", True)
        self.validator = DecoderValidator(self.engine, self.decoder, self.data, settings.validate_images)
        self.pace = Pace(settings.masks, self.device)
        self.step_number, self.grad_norm = 0, 0.0

    @property
    def states(self) -> Path:
        """Folder of the states to resume from."""
        return self.folder / "checkpoints"

    def run(self) -> None:
        """Train from the last state in the run folder, or from the start, and write the file with the decoder."""
        self.basis.check()
        self.resume()
        self.basis.note()
        if self.step_number >= self.settings.steps or self._train():
            self.finish()

    def _train(self) -> bool:
        """Step by step to the end; False when a signal stopped it before."""
        settings = self.settings
        loader = DataLoader(self._batches(), batch_size=None, sampler=range(self.step_number, settings.steps))
        bar = tqdm(total=settings.steps, initial=self.step_number, desc="training", unit="step")
        with bar, StopSignals() as signals:
            for batch in self.pace.batches(loader):
                loss = self.step(batch.to(self.device))
                self.pace.stepped(len(batch.index))
                bar.update()
                self._after_step(float(loss), bar)
                if signals.stopping:
                    self.save()
                    print(f"stopped after step {self.step_number}; the same command goes on from here")
                    return False
        return True

    def _batches(self) -> DecoderBatches:
        """What the steps look at; makes the predictions that are missing."""
        settings = self.settings
        paths = make_pairs(self.engine, self.photos, self.wanted, self.folder / "pairs")
        names = ("photos", "masks", "crop", "noise", "exact", "colour", "seed")
        return DecoderBatches(paths, settings.steps, BatchSettings(**{name: getattr(settings, name) for name in names}))

    def step(self, batch: DecoderBatch) -> Tensor:
        """One optimizer step; returns the loss, detached."""
        step, weights = self.step_number + 1, list(self.decoder.parameters())
        rate = learning_rate(self.step_number, self.settings.steps, self.rates)
        self.optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.mixed_precision == "bf16"):
            logits = self.decoder(batch.latents, self.decoder.photo_features(batch.photo), batch.index)
        loss = mask_loss(logits, batch.truth, batch.known)
        loss.backward()
        self.grad_norm = float(torch.nn.utils.clip_grad_norm_(weights, self.rates.max_grad_norm))
        self.guard.check_step(step, float(loss.detach()), self.grad_norm, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.guard.check_weights(step, weights, rate)
        self.step_number = step
        return loss.detach()

    def _after_step(self, loss: float, bar: tqdm) -> None:
        """Log, validation and state, where they are due."""
        settings, step = self.settings, self.step_number
        if step % settings.log_every == 0:
            values = {"loss": loss, "lr": self.optimizer.param_groups[0]["lr"], "grad_norm": self.grad_norm}
            self.log.write(step, {**values, **self.pace.figures()})
            bar.set_postfix(loss=f"{loss:.4f}")
        if step % settings.validate_every == 0 and step < settings.steps:
            self.validate()
        if step % settings.save_every == 0 and step < settings.steps:
            self.save()

    def validate(self) -> None:
        """Score both decoders on held-back photos, where the data has some: a line each, the log and the report."""
        if not self.data.validation:
            return
        summary = self.validator.validate(self.folder / "pictures" / f"step-{self.step_number:08d}.png")
        self.log.write(self.step_number, summary)
        write_report(self.folder, f"Mask decoder: {self.folder.name}")

    def save(self) -> None:
        """Write a state to resume from."""
        tensors, values = optimizer_tensors(self.optimizer)
        tensors |= {PREFIX + name: weight for name, weight in self.decoder.state_dict().items()}
        values |= {"step": self.step_number, "settings": self._settings()}
        save_state(self.states, self.step_number, tensors, values, KEPT_STATES)

    @torch.no_grad()
    def resume(self) -> None:
        """Restore the newest state of the run folder; ResumeError where it is another run's or damaged."""
        path = latest_state(self.states)
        if path is not None:
            tensors, values = load_state(path)
            refuse_not_finite(tensors, str(path), "Delete it: the run goes on from the state before, or from the start.")
            with fitting(path):
                check_same_run(values["settings"], self._settings(), FREE_SETTINGS)
                for name, weight in self.decoder.named_parameters():
                    weight.copy_(tensors[PREFIX + name])
                restore_optimizer(self.optimizer, tensors, values)
                self.step_number = values["step"]
            print(f"continuing from {path} ({self.step_number} steps done)")
        self.log.open(self.step_number)

    def _settings(self) -> dict:
        return json.loads(self.settings.model_dump_json())

    def finish(self) -> None:
        """Last validation, last state, and the checkpoint (or LoRA) with the decoder."""
        self.validate()
        self.save()
        path = self.folder / "digseg.safetensors"
        write_with_decoder(path, self.decoder, self.source, self.settings.lora)
        folder = "loras" if self.settings.lora else "digseg"
        print(f"wrote {path}; put it into ComfyUI/models/{folder}/")
