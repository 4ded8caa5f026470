"""Validation during training: held-back images scored with the averaged weights, and what is written about it."""

from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from digseg_nodes.core.inference import ImageSettings, SamplerSettings, decode_masks, sample_masks
from train.data.base import Source
from train.learning.checkpointer import Checkpointer
from train.learning.processes import fail_together
from train.learning.run_log import RunLog, describe
from train.learning.run_progress import RunProgress
from train.learning.trained import Trained
from train.networks.bases import Networks
from train.networks.engine import DiffusersEngine
from train.scoring.grids import save_grid
from train.scoring.predictions import EncodedSample, Result, encoded_samples, score_sample
from train.scoring.report import write_report
from train.scoring.scores import Record, summarise
from train.settings.train_config import TrainConfig

DECODER, VAE = "auto", "vae"
"""The nodes' choice, which decides what is best, and the other one."""


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
            by_decoder, failure = self._try()
        fail_together(self.accelerator, failure, "The validation")
        results, summaries = by_decoder[DECODER], {name: summarise(self._gathered(found)) for name, found in by_decoder.items()}
        summary = summaries.pop(DECODER)
        better = progress.note(summary["miou"] or 0.0)
        if self.accelerator.is_main_process:
            log.write(progress.step, {"validation": summary} | {f"validation_{name}": other for name, other in summaries.items()})
            tqdm.write(describe(progress.step, summary))
            self._show(progress.step, results)
            if better:
                checkpointer.export_best(progress.step)
            if progress.ended(self.config) and progress.step < self.config.steps:
                tqdm.write(f"no better validation for {self.config.validation.patience} of them: stopped before the end")
        return summary

    def _try(self) -> tuple[dict[str, list[Result]], Exception | None]:
        """This process's results by decoder, or why there are none."""
        try:
            return self._predictions(), None
        except Exception as error:
            return {}, error

    def _predictions(self) -> dict[str, list[Result]]:
        """This process's share of the validation prompts, predicted and scored: as the nodes decode them, and by the VAE too
        where a mask decoder is trained along."""
        config = self.config
        settings = SamplerSettings(steps=config.validation.steps or config.sampling_steps, ensemble=config.validation.ensemble)
        found = {name: [] for name in (DECODER, VAE) if name == DECODER or config.mask_decoder}
        for one in self._encoded():
            latent = sample_masks(self.engine, one.prompts, one.image, settings)
            for name, results in found.items():
                soft = decode_masks(self.engine, latent, decoder=name).soft[0]
                results += score_sample(one.number, one.sample, soft, config.export.threshold)
        return found

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
