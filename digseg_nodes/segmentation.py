"""Photo and text to masks: the paper's inference (3.7) over any number of frames, prompts, wordings and noises.

Nodes call this; this calls host.py for what runs on the device and core/ for the mathematics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from . import host
from .core import ddim, geometry, masks, schedule, tiles
from .core.draw import to_picture
from .core.encoded import EncodedImage, EncodedPrompts, MaskSource
from .core.overlay_target import masks_from_pixels
from .core.palettes import palette
from .core.prompts import Prompt
from .preview import SIZE as PREVIEW_SIZE
from .preview import MaskPreview

DEFAULT_RESOLUTION = 512
SMALLEST_TILE = 64


@dataclass
class Progress:
    """One progress bar for a whole node, in U-Net and VAE calls; the picture is the latest preview."""

    total: int
    done: int = 0
    preview: tuple | None = None
    bar: object = field(init=False)

    def __post_init__(self):
        self.bar = host.progress_bar(self.total)

    def advance(self, count: int = 1, preview: Image.Image | None = None) -> None:
        """Move on by `count` calls, show `preview` if there is one, and stop here when the user cancelled."""
        host.check_interrupted()
        self.done = min(self.total, self.done + count)
        if preview is not None:
            self.preview = ("JPEG", preview, PREVIEW_SIZE)
        self.bar.update_absolute(self.done, self.total, self.preview)


def encode_image(
    vae, image: Tensor, resolution: int, tile: int = 0, mirror: bool = False, progress: Progress | None = None
) -> EncodedImage:
    """Encode a batch of frames once, to be asked about many times.

    image [B,H,W,C] in [0,1] (alpha is dropped); resolution: longest side in pixels the network sees; tile: side of square
    tiles in image pixels, 0 for the whole image. mirror: also encode every frame (or tile) with left and right swapped.
    """
    _check_image(image)
    if 0 < tile < SMALLEST_TILE:
        raise ValueError(f"Tiles of {tile} pixels are too small to show anything; use {SMALLEST_TILE} or more, or 0 for none.")
    host.check_vae(vae)
    plan = tiles.plan_tiles(image.shape[1], image.shape[2], tile) if tile else None
    frames = tiles.cut_tiles(image, plan) if plan else image
    frames = torch.stack([frames, frames.flip(2)], 1).flatten(0, 1) if mirror else frames  # [F*2,H,W,C]
    fitted = geometry.plan_geometry(frames.shape[1], frames.shape[2], resolution)
    progress = progress or Progress(len(frames))
    latents = []
    for frame in frames.split(1):
        latents.append(host.encode_image(vae, geometry.fit(frame, fitted)).cpu())
        progress.advance()
    photo = image[..., :3].float().cpu()
    photo = photo.expand(-1, -1, -1, 3) if photo.shape[-1] == 1 else photo
    return EncodedImage(torch.cat(latents), photo, fitted, plan, _probe(vae), mirror)


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"The image has the shape {tuple(image.shape)}; frames x height x width x 1, 3 or 4 channels "
            "is expected, none of them empty. Connect the IMAGE of a node like Load Image."
        )


def _probe(vae) -> Tensor:
    """Mean latents of a black and of a white 64-pixel picture: [2,4]."""
    pair = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    return host.encode_image(vae, pair).cpu().mean((2, 3))


def encode_prompts(clip, prompts: list[Prompt]) -> EncodedPrompts:
    """c for every wording of every prompt."""
    rows = tuple(torch.cat([host.encode_text(clip, w).cpu() for w in p.wordings]) for p in prompts)
    return EncodedPrompts(tuple(p.name for p in prompts), rows)


def default_resolution(model=None, vae=None) -> int:
    """The training resolution of the MODEL, else of the VAE's checkpoint, else 512."""
    config = getattr(getattr(model, "model", None), "digseg_config", None) or getattr(vae, "digseg_config", None)
    return config.resolution if config else DEFAULT_RESOLUTION


@dataclass(frozen=True)
class SamplerSettings:
    """seed: of the noise. steps: DDIM steps, 0 for the checkpoint's own. ensemble: noises averaged (3.7).

    sigmas: [n+1] replaces the trailing schedule. sampler: a host SAMPLER that replaces DDIM.
    """

    seed: int = 0
    steps: int = 0
    ensemble: int = 1
    sigmas: Tensor | None = None
    sampler: object = None

    def schedule(self, config) -> schedule.DDIMSchedule:
        """The noise levels to visit on a checkpoint's scheduler."""
        if self.sigmas is None:
            return schedule.ddim_schedule(config.scheduler, self.steps or config.default_steps)
        if len(self.sigmas) < 2:
            raise ValueError("The SIGMAS are empty; at least one step is needed. Use DiGSeg Scheduler.")
        sigmas = self.sigmas.double().cpu()
        return schedule.DDIMSchedule(list(range(len(sigmas) - 1)), sigmas[:-1], sigmas[1:])

    def members(self, config) -> int:
        """Ensemble size; a checkpoint that starts from zero noise is deterministic, so one member says it all."""
        return 1 if config.initial_noise == "zero" else self.ensemble


def call_count(model, prompts: EncodedPrompts, image: EncodedImage, settings: SamplerSettings) -> int:
    """U-Net items that `sample_masks` will run, the unit of its progress bar."""
    config = host.config_of(model)
    wordings = sum(len(e) for e in prompts.embeddings)
    return len(image.latents) * wordings * settings.members(config) * len(settings.schedule(config))


def sample_masks(
    model, prompts: EncodedPrompts, image: EncodedImage, settings: SamplerSettings, progress: Progress | None = None
) -> dict:
    """Mask latents for every frame and prompt, in chunks that fit the free memory: a LATENT dict.

    `samples` [F*K,4,h,w] unscaled, frame by frame, within a frame prompt by prompt. The latents of a prompt's wordings and
    of the ensemble's noises are averaged (3.7). Noise depends on seed and member alone, so a mask never depends on what
    else was asked for.
    """
    config = host.config_of(model)
    _check_width(prompts, config)
    count, members = len(prompts.names), settings.members(config)
    plan = settings.schedule(config)
    progress = progress or Progress(call_count(model, prompts, image, settings))
    size = image.latents.shape[-2:]
    noises = torch.cat([ddim.initial_noise(settings.seed, e, (1, 4, *size), config.initial_noise) for e in range(members)])
    jobs = [
        (f, k, s, e)
        for f in range(len(image.latents))
        for k in range(count)
        for s in range(len(prompts.embeddings[k]))
        for e in range(members)
    ]
    out = torch.zeros(members, len(image.latents) * count, 4, *size)
    run = _Run(model, prompts, image, noises, plan, settings.sampler, progress, MaskPreview(image, config.mask_target))
    for chunk in _chunks(jobs, host.chunk_size(model, tuple(size))):
        latents = _sample_chunk(run, chunk)
        for (f, k, _s, e), latent in zip(chunk, latents, strict=True):
            out[e, f * count + k] += latent / len(prompts.embeddings[k])
    source = MaskSource(image, prompts.names, config.threshold, config.mask_target, out if members > 1 else None)
    return {"samples": out.mean(0), "digseg": source}


def empty_mask(image: EncodedImage, name: str, model=None) -> dict:
    """A LATENT for a stock sampler to fill with one mask a frame: zeros [F,4,h,w]. model: read for how it draws masks.

    White space in the name counts as in DiGSeg Text Prompts: ValueError for nothing but that.
    """
    name = " ".join(name.split())
    if not name:
        raise ValueError("The mask has no name; write what it is called in `name`, so that it can be picked later.")
    config = host.config_of(model) if model is not None else None
    drawn = (config.threshold, config.mask_target) if config else ()
    return {"samples": torch.zeros_like(image.latents), "digseg": MaskSource(image, (name,), *drawn)}


def _check_width(prompts: EncodedPrompts, config) -> None:
    wanted, found = config.unet["cross_attention_dim"], prompts.embeddings[0].shape[-1]
    if wanted != found:
        raise ValueError(
            f"The text is {found} numbers wide, this DiGSeg model reads {wanted} (768: SD 1.x, 1024: SD 2.x). "
            "Use the CLIP of the Stable Diffusion the model was trained from."
        )


def _chunks(items: list, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))


@dataclass(frozen=True)
class _Run:
    """What every chunk of one sampling run shares; noises [E,4,h,w]."""

    model: object
    prompts: EncodedPrompts
    image: EncodedImage
    noises: Tensor
    plan: schedule.DDIMSchedule
    sampler: object
    progress: Progress
    preview: MaskPreview


def _sample_chunk(run: _Run, chunk: list[tuple[int, int, int, int]]) -> Tensor:
    """One batch of (frame, prompt, wording, member) → [N,4,h,w]; halved and tried again when memory runs out."""
    try:
        text = torch.stack([run.prompts.embeddings[k][s] for _f, k, s, _e in chunk])  # [N,77,D]
        photo = torch.stack([run.image.latents[f] for f, *_ in chunk])  # [N,4,h,w]
        noise = torch.stack([run.noises[e] for *_, e in chunk])  # [N,4,h,w]
        frame, prompt = chunk[0][:2]

        def on_step(_i: int, x0: Tensor) -> None:
            run.progress.advance(len(chunk), run.preview.draw(frame, prompt, x0[0]))

        return host.sample(run.model, text, photo, noise, run.plan, on_step, run.sampler).cpu()
    except Exception as error:
        if len(chunk) == 1 or not host.is_out_of_memory(error):
            raise
    host.release_memory()
    half = len(chunk) // 2
    return torch.cat([_sample_chunk(run, part) for part in (chunk[:half], chunk[half:])])


def decode_count(latent: dict, uncertainty: bool = False) -> int:
    """VAE calls that `decode_masks` will make, the unit of its progress bar."""
    members = latent["digseg"].members if uncertainty else None
    return len(latent["samples"]) * (1 + (0 if members is None else len(members)))


def decode_masks(vae, latent: dict, uncertainty: bool = False, progress: Progress | None = None) -> masks.Masks:
    """A LATENT of masks to soft masks on the photo's own pixels (3.7), one VAE decode per mask and view; views are averaged.

    uncertainty: decode every ensemble member too, and keep the per-pixel standard deviation of the masks of all members
    and views.
    """
    host.check_vae(vae)
    source = latent.get("digseg")
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
    progress = progress or Progress(decode_count(latent, uncertainty))
    soft = _decode(vae, latent["samples"], source, progress)  # [V,B,K,H,W]
    spread = _spread(vae, soft, source, progress) if uncertainty else None
    mean = soft.mean(0) if len(soft) > 1 else soft[0]
    return masks.Masks(mean, source.names, source.image.image, source.threshold, spread)


def _spread(vae, soft: Tensor, source: MaskSource, progress: Progress) -> Tensor | None:
    """Standard deviation [B,K,H,W] over the masks of all members and views, or None of one. soft: the mean's [V,B,K,H,W]."""
    every = soft if source.members is None else torch.cat([_decode(vae, m, source, progress) for m in source.members])
    return every.std(0, correction=0) if len(every) > 1 else None


def _decode(vae, latents: Tensor, source: MaskSource, progress: Progress) -> Tensor:
    """[F*K,4,h,w] → soft masks of every view [V,B,K,H,W] float32 in [0,1]."""
    image, count = source.image, len(source.names)
    soft = torch.empty(len(latents), *image.geometry.original)
    for rows in torch.arange(len(latents)).split(host.decode_chunk_size(vae, tuple(latents.shape[-2:]))):
        pixels = host.decode(vae, latents[rows])
        photos = _fitted_photos(image, rows // count) if source.mask_target == "overlay" else pixels
        soft[rows] = geometry.unfit(masks_from_pixels(pixels, photos, source.mask_target), image.geometry)
        progress.advance(len(rows))
    soft = image.turn_back(soft.unflatten(0, (-1, count)))  # [F*K,H,W], F = B*T*V → [V,B*T,K,H,W]
    if image.tile_plan is None:
        return soft
    soft = soft.unflatten(1, (len(image.image), len(image.tile_plan.corners)))  # [V,B,T,K,h,w]
    return torch.stack([tiles.join_tiles(view, image.tile_plan) for view in soft])


def _fitted_photos(image: EncodedImage, frames: Tensor) -> Tensor:
    """The photos (or tiles) behind these frame numbers as the network saw them: [N,3,8h,8w] in [0,1]."""
    numbers = frames.tolist()
    photos = [image.frame(n).flip(1) if image.is_mirrored(n) else image.frame(n) for n in numbers]
    return torch.cat([geometry.fit(photo[None], image.geometry) for photo in photos])


def segment(
    model,
    clip,
    vae,
    image: Tensor,
    prompts: list[Prompt],
    settings: SamplerSettings,
    resolution: int = 0,
    tile: int = 0,
    uncertainty: bool = False,
    threshold: float = 0.0,
    mirror: bool = False,
) -> tuple[masks.Masks, Tensor]:
    """All of it in one, with one progress bar: the same masks, bit for bit, as the four steps one by one.

    Also returns `draw_overlay` of them, which becomes the last preview: a node keeps showing its last preview.
    """
    _check_image(image)
    config = host.config_of(model)
    resolution = resolution or default_resolution(model, vae)
    frames = len(image) * (len(tiles.plan_tiles(image.shape[1], image.shape[2], tile).corners) if tile else 1)
    frames *= 2 if mirror else 1
    members = settings.members(config)
    calls = sum(len(p.wordings) for p in prompts) * members * len(settings.schedule(config))
    decodes = len(prompts) * (1 + (members if uncertainty and members > 1 else 0))
    progress = Progress(frames * (1 + calls + decodes))
    encoded_prompts = encode_prompts(clip, prompts)
    encoded = encode_image(vae, image, resolution, tile, mirror, progress)
    latent = sample_masks(model, encoded_prompts, encoded, settings, progress)
    found = decode_masks(vae, latent, uncertainty, progress)
    overlay = draw_overlay(found, threshold)
    progress.advance(0, to_picture(overlay[0]))
    return found, overlay


def draw_overlay(found: masks.Masks, threshold: float = 0.0) -> Tensor:
    """The photo with every hard mask in its own colour: IMAGE [B,H,W,3] in [0,1]. threshold 0: the checkpoint's."""
    hard = (masks.harden(soft, threshold or found.threshold) for soft in found.soft.unbind(1))
    return masks.overlay(found.image, hard, palette(len(found.names)).float() / 255)
