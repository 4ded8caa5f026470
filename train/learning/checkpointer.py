"""What a run leaves behind: states to resume from, and the best and the last checkpoint for the nodes."""

import json
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator

from train.data.account import describe_change
from train.data.config import DataConfig
from train.learning.divergence import refuse_not_finite
from train.learning.resume import check_same_run, fitting, latest_state, load_state, save_state
from train.learning.run_progress import RunProgress
from train.learning.trained import Trained, weights_of_state
from train.learning.training_set import TrainingSet
from train.networks.bases import Networks
from train.networks.export import export, export_lora
from train.settings.train_config import Strict, TrainConfig

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


class Checkpointer:
    """Saves and restores one run, and exports its averaged weights. Only the main process writes."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, networks: Networks, trained: Trained, data: TrainingSet):
        self.config, self.accelerator, self.networks = config, accelerator, networks
        self.trained, self.class_names, self.digests = trained, data.class_names, data.digests
        self.folder = config.output / "checkpoints"

    def latest(self) -> Path | None:
        """The newest state of the run folder."""
        return latest_state(self.folder)

    def due(self, step: int) -> bool:
        """Whether a state is due after `step` steps; the last one is written at the end anyway."""
        return step % self.config.checkpoints.every == 0 and step < self.config.steps

    def save(self, progress: RunProgress) -> None:
        """Write a state to resume from. Raises DivergedError rather than keep what is no number."""
        if not self.accelerator.is_main_process:
            return
        tensors, values = self.trained.state()
        values |= {"progress": progress.__dict__, "config": self._settings(), "data": self.digests}
        what = f"State {progress.step} was not written"
        refuse_not_finite(weights_of_state(tensors), what, "The training has diverged.")
        save_state(self.folder, progress.step, tensors, values, self.config.checkpoints.keep)

    def resume(self) -> RunProgress:
        """Restore the newest state of the run folder and return its progress; a run without one is at its start.

        Raises ResumeError when the folder holds a run with other settings or a damaged state, DivergedError for a state with
        NaN weights.
        """
        path = self.latest()
        if path is None:
            return RunProgress()
        tensors, values = load_state(path)
        advice = "Delete it: the run goes on from the state before, or from the start."
        refuse_not_finite(weights_of_state(tensors), str(path), advice)
        with fitting(path):
            check_same_run(self._with_defaults(values["config"]), self._settings(), FREE_SETTINGS)
            self.trained.restore(tensors, values)
            progress = RunProgress(**values["progress"])
        self.accelerator.print(f"continuing from {path} ({progress.step} steps done)")
        self._compare(values.get("data", self.digests), progress)
        return progress

    def _compare(self, saved: dict[str, dict], progress: RunProgress) -> None:
        """Say what of the data is other than when the state was written. The best score counts anew for another validation."""
        if text := describe_change(saved, self.digests, "train"):
            advice = (
                "Nothing was trained on it as it is now: raise `steps`, or choose another `output:`."
                if progress.ended(self.config)
                else "The run goes on with it as it is now; choose another `output:` for a run on this data alone."
            )
            self.accelerator.print(f"WARNING the training data have changed since step {progress.step}: {text}. {advice}")
        if text := describe_change(saved, self.digests, "validation"):
            self.accelerator.print(f"WARNING the validation data have changed: {text}. The best score counts anew.")
            progress.best, progress.since_best = -1.0, 0

    def _with_defaults(self, saved: dict) -> dict:
        """Settings of a saved state, with the defaults of keys that came after it."""
        sections = {name: type(part)().model_dump(mode="json") for name, part in self.config if isinstance(part, Strict)}
        with suppress(ValueError):  # settings of a source that there is no more: another run
            saved = saved | {"data": DataConfig.model_validate(saved["data"]).model_dump(mode="json")}
        return saved | {name: values | saved[name] for name, values in sections.items() if isinstance(saved.get(name), dict)}

    def _settings(self) -> dict:
        """The configuration as JSON values, with what else decides the course of a run."""
        values = {"tf32": self.config.allows_tf32, "processes": self.accelerator.num_processes}
        return {**json.loads(self.config.model_dump_json()), **values}

    def export_best(self, step: int) -> Path:
        """Write best.safetensors (or best-lora.safetensors)."""
        return self.export(self.config.output / "best", step)

    def export_last(self, step: int) -> Path:
        """Write digseg.safetensors (or digseg-lora.safetensors)."""
        return self.export(self.config.output / "digseg", step)

    def export(self, stem: Path, step: int) -> Path:
        """Write the averaged weights for the nodes: a checkpoint, or the LoRA to add to the base; returns the file."""
        config = self.config
        with self.trained.averaged():
            if config.lora is None:
                path = stem.with_suffix(".safetensors")
                trained = {name: module.state_dict() for name, module in self.trained.modules.items()}
                export(path, trained, self.networks, config, self.class_names, step)
            else:
                path = stem.with_name(f"{stem.name}-lora.safetensors")
                export_lora(path, self.trained.modules["unet"], config, step, self.trained.modules.get("mask_decoder"))
        return path
