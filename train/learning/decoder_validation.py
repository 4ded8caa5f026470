"""Both decoders on the same predicted latents of held-back photos, side by side."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from digseg_nodes.core.inference import ImageSettings, SamplerSettings, decode_masks, sample_masks
from digseg_nodes.core.mask_decoder import MaskDecoder
from train.data.build import open_split
from train.data.config import DataConfig
from train.networks.engine import DiffusersEngine
from train.scoring.grids import save_grid
from train.scoring.predictions import EncodedSample, Result, encoded_samples, score_sample
from train.scoring.scores import summarise

DECODERS = ("vae", "guided")
PICTURES = 8


class DecoderValidator:
    """Scores a decoder in training and the VAE on the first `images` photos, spread over the validation data."""

    def __init__(self, engine: DiffusersEngine, decoder: MaskDecoder, data: DataConfig, images: int):
        self.decoder, self.images = decoder, images
        self.engine = replace(engine, networks=replace(engine.networks, mask_decoder=decoder))
        self.sources = [source for source, _ in open_split(data, "validation")] if data.validation else []
        self.drawn: list[tuple[EncodedSample, dict]] | None = None
        self.vae: dict | None = None

    def validate(self, picture: Path) -> dict:
        """Summaries of both decoders, as `validation` (guided) and `validation_vae`; writes the first masks to `picture`."""
        self.decoder.eval()
        results = self._results("guided")
        self.decoder.train()
        self.vae = self.vae or summarise([result.record for result in self._results("vae")])
        guided = summarise([result.record for result in results])
        save_grid(picture, results[:PICTURES], self.engine.config.threshold)
        tqdm.write(compared(self.vae, guided))
        return {"validation": guided, "validation_vae": self.vae}

    def _results(self, decoder: str) -> list[Result]:
        threshold, results = self.engine.config.threshold, []
        for one, latent in self._drawn():
            soft = decode_masks(self.engine, latent, decoder=decoder).soft[0]
            results += score_sample(one.number, one.sample, soft, threshold)
        return results

    def _drawn(self) -> list[tuple[EncodedSample, dict]]:
        """The photos with the latents of their masks, which stay the same however the decoder learns."""
        if self.drawn is None:
            samples = encoded_samples(self.sources, self.engine, ImageSettings(), self.images, spread=True)
            self.drawn = [(one, sample_masks(self.engine, one.prompts, one.image, SamplerSettings())) for one in samples]
        return self.drawn


def compared(vae: dict, guided: dict) -> str:
    """Both summaries as two lines."""
    return "\n".join(_line(name, summary) for name, summary in (("vae", vae), ("guided", guided)))


def _line(name: str, summary: dict) -> str:
    fired = [f"{group} {scores['fired']:.3f}" for group, scores in summary["groups"].items() if "fired" in scores]
    scores = [f"{key} {summary[key]:.4f}" for key in ("miou", "mean_iou", "boundary_iou") if summary[key] is not None]
    return f"{name:7}" + ", ".join([*scores, *fired])
