"""Validation during training: held-back images scored with the averaged weights, and what is written about it."""

from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from digseg_nodes.core.inference import ImageSettings, SamplerSettings
from train.data.base import Source
from train.learning.checkpointer import Checkpointer
from train.learning.processes import fail_together
from train.learning.run_log import RunLog, describe
from train.learning.run_progress import RunProgress
from train.learning.trained import Trained
from train.networks.bases import Networks
from train.networks.engine import DiffusersEngine
from train.scoring.grids import save_grid
from train.scoring.predictions import EncodedSample, Result, encoded_samples, predict, score_sample
from train.scoring.report import write_report
from train.scoring.scores import Record, summarise
from train.settings.train_config import TrainConfig


class Validator:
    """Scores one run's averaged weights on held-back images; every process takes its share of them."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, networks: Networks, trained: Trained, sources: list[Source]
    ):
        self.config, self.accelerator, self.trained, self.sources = config, accelerator, trained, sources
        drawn = replace(networks.config, initial_noise=config.initial_noise)
        self.engine = DiffusersEngine(replace(networks, config=drawn), config.validation.batch_size)
        self.samples: list[EncodedSample] | None = None

    def due(self, step: int) -> bool:
        """Whether a validation is due after `step` steps."""
        return bool(self.config.data.validation) and step % self.config.validation.every == 0

    def validate(self, progress: RunProgress, log: RunLog, checkpointer: Checkpointer) -> dict:
        """Score and take note in `progress`; writes the log, the pictures and, when better than before, best.safetensors."""
        with self.trained.evaluating():
            results, failure = self._try()
        fail_together(self.accelerator, failure, "The validation")
        summary = summarise(self._gathered(results))
        better = progress.note(summary["miou"] or 0.0)
        if self.accelerator.is_main_process:
            log.write(progress.step, {"validation": summary})
            tqdm.write(describe(progress.step, summary))
            self._show(progress.step, results)
            if better:
                checkpointer.export_best(progress.step)
            if progress.ended(self.config) and progress.step < self.config.steps:
                tqdm.write(f"no better validation for {self.config.validation.patience} of them: stopped before the end")
        return summary

    def _try(self) -> tuple[list[Result], Exception | None]:
        """This process's results, or why there are none."""
        try:
            return self._predictions(), None
        except Exception as error:
            return [], error

    def _predictions(self) -> list[Result]:
        """This process's share of the validation prompts, predicted and scored."""
        config, threshold = self.config, self.config.export.threshold
        settings = SamplerSettings(steps=config.validation.steps or config.sampling_steps, ensemble=config.validation.ensemble)
        masks = ((one, predict(self.engine, one.image, one.prompts, settings)) for one in self._encoded())
        return [result for one, soft in masks for result in score_sample(one.number, one.sample, soft, threshold)]

    def _encoded(self) -> list[EncodedSample]:
        """This process's images, encoded at the first validation and kept."""
        if self.samples is None:
            shard = (self.accelerator.process_index, self.accelerator.num_processes)
            look, limit = ImageSettings(self.config.resolution), self.config.validation.images
            self.samples = list(encoded_samples(self.sources, self.engine, look, limit, shard, spread=True))
        return self.samples

    def _gathered(self, results: list[Result]) -> list[Record]:
        """Records of all processes, image by image."""
        return sorted(gather_object([result.record for result in results]), key=lambda record: record.image)

    def _show(self, step: int, results: list[Result]) -> None:
        """The first results as a picture, and the report with it."""
        config = self.config
        pictures = results[: config.validation.pictures]
        save_grid(config.output / "pictures" / f"step-{step:08d}.png", pictures, config.export.threshold)
        write_report(config.output, f"{config.export.title}: {config.output.name}")
