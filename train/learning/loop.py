"""The training loop."""

import math

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from train.latents.batches import Batch, PixelBatch
from train.latents.encoder import Encoder
from train.latents.fresh import encoded
from train.learning.checkpointer import Checkpointer
from train.learning.divergence import DivergedError, DivergenceGuard
from train.learning.forecast import announce
from train.learning.loss import make_loss
from train.learning.optimizer import check_optimizer
from train.learning.pace import Pace
from train.learning.processes import StopSignals, any_process, make_accelerator
from train.learning.run_log import RunLog
from train.learning.run_progress import RunProgress
from train.learning.start import load_base
from train.learning.trained import Trained, check_compile, own_rates, trained_modules
from train.learning.training_set import open_training_set
from train.learning.validator import Validator
from train.scoring.report import write_report
from train.settings.train_config import TrainConfig

DECODER_STAYS = (
    "note: the base has a mask decoder, and it stays as it is while the U-Net learns other masks. `mask_decoder: {}` trains it "
    "along (objective end_to_end), train/finetune_decoder.py afterwards."
)


class Trainer:
    """One run in one process; several processes (accelerate launch) share the work of every step."""

    def __init__(self, config: TrainConfig):
        self.config, self.accelerator = config, make_accelerator(config)
        accelerator, device = self.accelerator, self.accelerator.device
        self.networks = networks = load_base(config)
        for frozen in (networks.vae, networks.text_encoder):
            frozen.to(device)
        self.encoder = Encoder(networks.vae, config.mixed_precision)
        check_optimizer(config.optimizer, device)
        check_compile(config, device)
        data = open_training_set(config, networks, accelerator)
        self.batches = data.batches
        self.trained = Trained(config, accelerator, trained_modules(networks, config, device), own_rates(config))
        self.loss = make_loss(config, networks.vae, networks.alpha_bar.to(device), networks.config.prediction_type)
        self.checkpointer = Checkpointer(config, accelerator, networks, self.trained, data)
        self.validator = Validator(config, accelerator, networks, self.trained, data.validation)
        self.guard = DivergenceGuard(self.checkpointer.latest, config.mixed_precision, accelerator.scaler is not None)
        self.log = RunLog(
            config.output / "log.jsonl", accelerator.is_main_process, accelerator.log if config.tensorboard else None
        )
        self.pace = Pace(self.batches.share.total, device)
        self.progress, self.grad_norm, self.padding = RunProgress(), 0.0, round(data.padding, 4)

    def run(self) -> None:
        """Train from the last state in the run folder, or from the start, to the configured number of steps."""
        self.resume()
        if self.progress.ended(self.config):
            text = f"nothing was left to do: the run ended at step {self.progress.step}. Raise `steps` to go on"
            self.accelerator.print(text)
            self.finish(saved=True)
            return
        if self.config.mask_decoder is None and self.networks.config.mask_decoder is not None:
            self.accelerator.print(DECODER_STAYS)
        announce(self.config, self.networks.config, self.accelerator, self._trial, self.config.steps - self.progress.step)
        if self._train():
            self.finish()

    def _train(self) -> bool:
        """Step by step to the end; False when a signal stopped it before."""
        start, steps = self.progress.step, self.config.steps
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(start, steps),
            num_workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        bar = tqdm(total=steps, initial=start, desc="training", unit="step", disable=not self.accelerator.is_main_process)
        with bar, StopSignals() as signals:
            for parts in self.pace.batches(loader):
                loss = self.step(parts)
                self.pace.stepped()
                bar.update()
                if self.progress.step % self.config.log_every == 0:
                    bar.set_postfix(loss=f"{self._record(loss):.4f}")
                if self.validator.due(self.progress.step):
                    self._validate()
                if self.checkpointer.due(self.progress.step):
                    self.save()
                if self.progress.ended(self.config):
                    break
                if any_process(self.accelerator, signals.stopping):  # they reach processes at different steps; all end at one
                    self.save()
                    self.accelerator.print(f"stopped after step {self.progress.step}; the same command goes on from here")
                    return False
        return True

    def step(self, parts: list[Batch] | list[PixelBatch]) -> Tensor:
        """One optimizer step on this process's micro-batches; returns their mean loss, detached."""
        trained, step = self.trained, self.progress.step
        trained.set_learning_rates(step)
        total = 0.0
        for part in parts:
            with self.accelerator.accumulate(*trained.called.values()):
                loss = self._forward(part)
                total = total + loss.detach() / self.config.gradient_accumulation
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.grad_norm = trained.clip_gradients()
                    self._check(total)
                trained.optimizer.step()
                trained.optimizer.zero_grad()
        self.guard.check_weights(step + 1, trained.parameters(), trained.learning_rate)
        trained.average()
        self.progress.step += 1
        return total

    def _forward(self, part: Batch | PixelBatch) -> Tensor:
        """The loss of a micro-batch; pixels are encoded first."""
        part = part.to(self.accelerator.device)
        if isinstance(part, PixelBatch):
            part = encoded(part, self.encoder, self.config.encoded_at_once)
        with self.accelerator.autocast():
            return self.loss(self.trained.called, part)

    def _check(self, loss: Tensor) -> None:
        """Stop before the optimizer takes in what is no number; gradients are shared by then, so that all processes stop."""
        if self.accelerator.num_processes > 1:
            loss = self.accelerator.reduce(loss, "mean")
        self.guard.check_step(self.progress.step + 1, float(loss), self.grad_norm, self.trained.learning_rate)

    def _trial(self) -> None:
        """The first micro-batch forwards and backwards, for the forecast; its gradients are thrown away."""
        self._forward(self.batches[self.progress.step][0]).backward()
        self.trained.zero_grad()

    def _record(self, loss: Tensor) -> float:
        """Write a line of the log; returns the loss over all processes."""
        value = self.accelerator.reduce(loss, "mean").item()
        norm = self.grad_norm if math.isfinite(self.grad_norm) else None  # a step that fp16 skipped
        values = {"loss": value, "lr": self.trained.learning_rate, "grad_norm": norm, "padding": self.padding}
        values |= self.pace.figures()
        self.log.write(self.progress.step, values)
        return value

    def _validate(self) -> None:
        """Score the averaged weights; the steps are not lost when that fails."""
        try:
            self.validator.validate(self.progress, self.log, self.checkpointer)
        except DivergedError:  # a state of such weights is worth nothing
            raise
        except Exception:  # out of memory, a broken photo
            self.save()
            raise

    def resume(self) -> None:
        """Restore the newest state of the run folder, if there is one."""
        self.progress = self.checkpointer.resume()
        self.log.open(self.progress.step)

    def save(self) -> None:
        """Write a state to resume from."""
        self.checkpointer.save(self.progress)

    def finish(self, saved: bool = False) -> None:
        """Last state, unless it is saved already, and the exported checkpoint."""
        if not saved:
            self.save()
        if self.accelerator.is_main_process:
            path = self.checkpointer.export_last(self.progress.step)
            write_report(self.config.output, f"{self.config.export.title}: {self.config.output.name}")
            folder = "loras" if self.config.lora else "digseg"
            self.accelerator.print(f"wrote {path}; put it into ComfyUI/models/{folder}/")
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
