"""Photo and text to masks: the paper's inference (3.7) over frames, tiles, views, prompts, wordings and noises.

The one loop of the nodes, the validation, evaluate.py, predict.py and Segmenter; `engine` runs the networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import ddim, decoding, geometry, masks, schedule, tiles
from .checkpoint import CheckpointConfig
from .encoded import EncodedImage, EncodedPrompts, MaskLatent, MaskSource
from .engine import Engine, Progress, halving
from .preview import MaskPreview
from .prompts import Prompt, excluded_names
from .wired import check_picture, check_sigmas

RESOLUTIONS = (32, 4096)
"""Longest sides in pixels, from and to, that a network is asked to look at."""
SMALLEST_TILE = 64


@dataclass(frozen=True)
class ImageSettings:
    """How a photo is looked at. resolution: longest side in pixels the network sees, 0 for the one it was trained at.

    tile: side of square tiles in photo pixels, 0 for the whole photo. mirror: also look at it with left and right swapped.
    """

    resolution: int = 0
    tile: int = 0
    mirror: bool = False

    @property
    def views(self) -> int:
        """Times every frame or tile is looked at."""
        return 2 if self.mirror else 1

    def plan(self, image: Tensor) -> tiles.TilePlan | None:
        """Where the tiles of an image [B,H,W,C] lie; None for the whole image."""
        return tiles.plan_tiles(image.shape[1], image.shape[2], self.tile) if self.tile else None


@dataclass(frozen=True)
class SamplerSettings:
    """seed: of the noise. steps: DDIM steps, 0 for the checkpoint's own. ensemble: noises averaged (3.7).

    sigmas: [n+1] replaces the trailing schedule. sampler: one of the engine's own that replaces DDIM.
    """

    seed: int = 0
    steps: int = 0
    ensemble: int = 1
    sigmas: Tensor | None = None
    sampler: Any = None

    def schedule(self, config: CheckpointConfig) -> schedule.DDIMSchedule:
        """The noise levels to visit on a checkpoint's scheduler."""
        if self.sigmas is None:
            return schedule.ddim_schedule(config.scheduler, self.steps or config.default_steps)
        check_sigmas(self.sigmas)
        sigmas = self.sigmas.double().cpu()
        return schedule.DDIMSchedule(list(range(len(sigmas) - 1)), sigmas[:-1], sigmas[1:])

    def members(self, config: CheckpointConfig) -> int:
        """Ensemble size; a checkpoint that starts from zero noise is deterministic, so one member says it all."""
        return 1 if config.initial_noise == "zero" else self.ensemble


@dataclass(frozen=True)
class Workload:
    """Calls of every network that some work takes, item by item; what each function below advances its progress by."""

    texts: int = 0
    encodes: int = 0
    samples: int = 0
    decodes: int = 0

    @property
    def total(self) -> int:
        """All calls."""
        return self.texts + self.encodes + self.samples + self.decodes

    @classmethod
    def of_texts(cls, prompts: Sequence[Prompt]) -> Workload:
        """What `encode_prompts` takes."""
        return cls(texts=sum(len(prompt.wordings) for prompt in prompts))

    @classmethod
    def of_image(cls, image: Tensor, settings: ImageSettings) -> Workload:
        """What `encode_image` takes."""
        plan = settings.plan(image)
        return cls(encodes=len(image) * (len(plan.corners) if plan else 1) * settings.views)

    @classmethod
    def of_sampling(cls, config: CheckpointConfig, wordings: int, latents: int, settings: SamplerSettings) -> Workload:
        """What `sample_masks` takes for `wordings` texts about `latents` image latents."""
        return cls(samples=latents * wordings * settings.members(config) * len(settings.schedule(config)))

    @classmethod
    def of_decoding(cls, count: int, members: int, uncertainty: bool) -> Workload:
        """What `decode_masks` takes for `count` mask latents that are the mean of `members`."""
        return cls(decodes=count * (1 + members if uncertainty and members > 1 else 1))

    def __add__(self, other: Workload) -> Workload:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("texts", "encodes", "samples", "decodes"))
        return Workload(*(mine + theirs for mine, theirs in pairs))


def segment_workload(
    config: CheckpointConfig,
    image: Tensor,
    prompts: Sequence[Prompt],
    settings: SamplerSettings,
    look: ImageSettings,
    uncertainty: bool = False,
) -> Workload:
    """What `segment` takes."""
    texts, encoding = Workload.of_texts(prompts), Workload.of_image(image, look)
    sampling = Workload.of_sampling(config, texts.texts, encoding.encodes, settings)
    return (
        texts + encoding + sampling + Workload.of_decoding(encoding.encodes * len(prompts), settings.members(config), uncertainty)
    )


def check_image(image: Tensor, settings: ImageSettings) -> None:
    """Raises ValueError for an image, tile or resolution that cannot be encoded; before any work begins."""
    check_picture(image)
    if settings.tile < 0 or 0 < settings.tile < SMALLEST_TILE:
        raise ValueError(
            f"Tiles of {settings.tile} pixels are too small to show anything; use {SMALLEST_TILE} or more, or 0 for none."
        )
    low, high = RESOLUTIONS
    if settings.resolution and not low <= settings.resolution <= high:
        raise ValueError(
            f"The resolution is {settings.resolution} pixels; use {low} to {high}, or 0 for the one the model was trained at."
        )


def encode_image(engine: Engine, image: Tensor, settings: ImageSettings, progress: Progress | None = None) -> EncodedImage:
    """Encode a batch of frames once, to be asked about many times. image [B,H,W,C] in [0,1]; alpha is dropped."""
    check_image(image, settings)
    engine.check_vae()
    plan = settings.plan(image)
    frames = tiles.cut_tiles(image, plan) if plan else image
    frames = torch.stack([frames, frames.flip(2)], 1).flatten(0, 1) if settings.mirror else frames  # [F*2,H,W,C]
    resolution = settings.resolution or engine.resolution
    fitted = geometry.plan_geometry(frames.shape[1], frames.shape[2], resolution, engine.photo_shape)
    progress = progress or engine.progress(Workload.of_image(image, settings).total)
    latents = []
    for frame in frames.split(1):
        latents.append(engine.encode_pixels(geometry.fit(frame, fitted)).cpu())
        progress.advance()
    photo = image[..., :3].float().cpu()
    photo = photo.expand(-1, -1, -1, 3) if photo.shape[-1] == 1 else photo
    probe = engine.preview_probe() if progress.previews else None
    return EncodedImage(torch.cat(latents), photo, fitted, plan, probe, settings.mirror)


def encode_prompts(engine: Engine, prompts: Sequence[Prompt], progress: Progress | None = None) -> EncodedPrompts:
    """c for every wording of every prompt."""
    progress = progress or engine.progress(Workload.of_texts(prompts).total)
    rows = []
    for prompt in prompts:
        rows.append(engine.encode_texts(prompt.wordings).cpu())  # [S,77,D]
        progress.advance(len(prompt.wordings))
    return EncodedPrompts(tuple(prompt.name for prompt in prompts), tuple(rows), excluded_names(prompts))


def sample_masks(
    engine: Engine,
    prompts: EncodedPrompts,
    image: EncodedImage,
    settings: SamplerSettings,
    progress: Progress | None = None,
) -> MaskLatent:
    """Mask latents for every frame and prompt, in chunks that fit the free memory.

    The latents of a prompt's wordings and of the ensemble's noises are averaged (3.7). Noise depends on seed and member alone,
    so a mask never depends on what else was asked for, but for rounding in calls of another size (1e-5).
    """
    config = engine.config
    _check_width(prompts, config)
    count, members = len(prompts.names), settings.members(config)
    wordings = sum(map(len, prompts.embeddings))
    progress = progress or engine.progress(Workload.of_sampling(config, wordings, len(image.latents), settings).total)
    shape = image.latents.shape[1:]
    noises = torch.cat([ddim.initial_noise(settings.seed, e, (1, *shape), config.initial_noise) for e in range(members)])
    out = torch.zeros(members, len(image.latents) * count, *shape)
    preview = MaskPreview(image, config.mask_target) if progress.previews and image.probe is not None else None
    run = _Run(engine, prompts, image, noises, settings.schedule(config), settings.sampler, progress, preview)
    for chunk in _chunks(_jobs(prompts, len(image.latents), members), engine.sample_chunk(tuple(shape[1:]))):
        latents = halving(engine, partial(_sample_chunk, run), chunk)
        for job, latent in zip(chunk, latents, strict=True):
            out[job.member, job.frame * count + job.prompt] += latent / len(prompts.embeddings[job.prompt])
    kept = out if members > 1 else None
    drawn = (config.threshold, config.mask_target, kept, prompts.excluded, engine.mask_decoder)
    source = MaskSource(image, prompts.names, *drawn)
    return {"samples": out.mean(0), "digseg": source}


@dataclass(frozen=True)
class _Job:
    """One mask to sample: the number of the image latent, of the prompt, of its wording and of the ensemble member."""

    frame: int
    prompt: int
    wording: int
    member: int


def _jobs(prompts: EncodedPrompts, frames: int, members: int) -> list[_Job]:
    return [
        _Job(frame, prompt, wording, member)
        for frame in range(frames)
        for prompt, rows in enumerate(prompts.embeddings)
        for wording in range(len(rows))
        for member in range(members)
    ]


def empty_mask(image: EncodedImage, name: str, engine: Engine | None = None) -> MaskLatent:
    """A LATENT for a stock sampler to fill with one mask a frame: zeros [F,4,h,w]. engine: read for how it draws masks.

    White space in the name counts as in DiGSeg Text Prompts: ValueError for nothing but that.
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("The mask has no name; write what it is called in `name`, so that it can be picked later.")
    drawn = (engine.config.threshold, engine.config.mask_target, None, (), engine.mask_decoder) if engine else ()
    return {"samples": torch.zeros_like(image.latents), "digseg": MaskSource(image, (name,), *drawn)}


def _check_width(prompts: EncodedPrompts, config: CheckpointConfig) -> None:
    wanted, found = config.unet["cross_attention_dim"], prompts.embeddings[0].shape[-1]
    if wanted != found:
        raise ValueError(
            f"The text is {found} numbers wide, this DiGSeg model reads {wanted} (768: SD 1.x, 1024: SD 2.x). "
            "Use the CLIP of the Stable Diffusion the model was trained from."
        )


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))


@dataclass(frozen=True)
class _Run:
    """What every chunk of one sampling run shares; noises [E,4,h,w]."""

    engine: Engine
    prompts: EncodedPrompts
    image: EncodedImage
    noises: Tensor
    plan: schedule.DDIMSchedule
    sampler: Any
    progress: Progress
    preview: MaskPreview | None


def _sample_chunk(run: _Run, chunk: list[_Job]) -> Tensor:
    """One batch of jobs → [N,4,h,w]."""
    before = run.progress.done
    text = torch.stack([run.prompts.embeddings[job.prompt][job.wording] for job in chunk])  # [N,77,D]
    photo = torch.stack([run.image.latents[job.frame] for job in chunk])  # [N,4,h,w]
    noise = torch.stack([run.noises[job.member] for job in chunk])  # [N,4,h,w]

    def on_step(_i: int, x0: Tensor) -> None:
        due = run.preview is not None and run.preview.due()
        picture = run.preview.draw(chunk[0].frame, chunk[0].prompt, x0[0]) if due else None
        run.progress.advance(len(chunk), picture)

    try:
        return run.engine.sample(text, photo, noise, run.plan, on_step, run.sampler).cpu()
    except Exception:
        run.progress.done = before  # where memory ran out, the steps of this call are made again
        raise


def decode_masks(
    engine: Engine, latent: MaskLatent, uncertainty: bool = False, progress: Progress | None = None, decoder: str = "auto"
) -> masks.Masks:
    """A LATENT of masks to soft masks on the photo's own pixels (3.7), one decode per mask and view; views are averaged.

    uncertainty: decode every ensemble member too, and keep the per-pixel standard deviation of the masks of all members
    and views. decoder: one of decoding.DECODERS.
    """
    source = _source_of(latent)
    if decoding.chosen_decoder(decoder, source.mask_decoder) == "vae":
        engine.check_vae()
    members = 1 if source.members is None else len(source.members)
    progress = progress or engine.progress(Workload.of_decoding(len(latent["samples"]), members, uncertainty).total)
    drawn = [latent["samples"], *(source.members if uncertainty and members > 1 else ())]
    soft, kind = decoding.read_masks(engine, drawn, source, uncertainty, decoder, progress)  # [R,B,K,H,W]
    views = len(soft) // len(drawn)
    mean = soft[:views].mean(0) if views > 1 else soft[0]
    every = soft[views:] if len(drawn) > 1 else soft
    spread = every.std(0, correction=0) if uncertainty and len(every) > 1 else None
    return masks.Masks(mean, source.names, source.image.image, source.threshold, spread, source.excluded, kind)


def _source_of(latent: MaskLatent) -> MaskSource:
    """Whose masks a LATENT holds; ValueError when it does not say so, or was changed on the way."""
    source = latent.get("digseg") if isinstance(latent, dict) else None
    if not isinstance(source, MaskSource):
        raise ValueError(
            "This LATENT does not come from DiGSeg Sampler (or DiGSeg Conditioning), so it is not known which "
            "photo and prompts its masks belong to."
        )
    frames, count = len(source.image.latents), len(source.names)
    if len(latent["samples"]) != frames * count:
        raise ValueError(f"The LATENT holds {len(latent['samples'])} masks; {frames} frames x {count} prompts were expected.")
    made, given = tuple(source.image.latents.shape[-2:]), tuple(latent["samples"].shape[-2:])
    if made != given:
        raise ValueError(
            f"The LATENT is {given} (height, width) and the photo was encoded as {made}: it was resized or cropped on the way. "
            "Decode it as it left the sampler, and resize the masks."
        )
    return source


def segment(
    engine: Engine,
    image: Tensor,
    prompts: Sequence[Prompt],
    settings: SamplerSettings,
    look: ImageSettings,
    uncertainty: bool = False,
    progress: Progress | None = None,
    decoder: str = "auto",
) -> masks.Masks:
    """All of it in one, with one progress bar: the same masks, bit for bit, as the four steps one by one."""
    check_image(image, look)
    engine.check_vae()
    decoding.chosen_decoder(decoder, engine.mask_decoder)
    progress = progress or engine.progress(segment_workload(engine.config, image, prompts, settings, look, uncertainty).total)
    asked = encode_prompts(engine, prompts, progress)
    _check_width(asked, engine.config)
    encoded = encode_image(engine, image, look, progress)
    return decode_masks(engine, sample_masks(engine, asked, encoded, settings, progress), uncertainty, progress, decoder)
