"""Predicting masks with the training networks and scoring them: for validation during training and for evaluate.py."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.ddim import ddim_sample, initial_noise, predict_x0
from digseg_nodes.core.geometry import Geometry, fit, plan_geometry, unfit
from digseg_nodes.core.overlay_target import masks_from_pixels
from digseg_nodes.core.schedule import DDIMSchedule, ddim_schedule
from train.data.base import Sample, Source
from train.learning.loss import call_unet
from train.networks.bases import Networks, decode_latents, encode_pixels
from train.networks.text_encoding import encode_texts
from train.scoring.scores import Record, score

DECODED_PIXELS = 2**18


@dataclass(frozen=True)
class Question:
    """One image and its prompts: sample, latent [4,h,w], texts [K,77,D] of the queries and how the image was fitted."""

    number: int
    sample: Sample
    latent: Tensor
    texts: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Sampling:
    """How masks are sampled: DDIM steps, ensemble members, "gaussian" or "zero" initial noise, seed, masks per call.

    mirror: average with the masks of the mirrored image.
    """

    steps: int
    ensemble: int = 1
    initial: str = "gaussian"
    seed: int = 0
    batch_size: int = 32
    mirror: bool = False


@dataclass(frozen=True)
class Result:
    """One answered prompt with what a picture of it needs: image uint8 [H,W,3], truth bool [H,W], soft float [H,W]."""

    record: Record
    image: np.ndarray
    truth: np.ndarray
    soft: np.ndarray


def questions(
    sources: Iterable[Source],
    networks: Networks,
    resolution: int,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    spread: bool = False,
) -> Iterator[Question]:
    """Every image with all its queries under their plainest prompts: at most `limit` images, of which process `rank`
    of `shard` = (rank, processes) takes every processes-th. spread: not the first `limit`, but evenly from first to last."""
    places = [(source, index) for source in sources for index in range(len(source))]
    if limit is not None and limit < len(places):
        places = [places[k * len(places) // limit] for k in range(limit)] if spread else places[:limit]
    rank, processes = shard
    for number in range(rank, len(places), processes):
        source, index = places[number]
        sample = source.sample(index)
        if sample.queries:
            yield ask(networks, sample, resolution, number)


def ask(networks: Networks, sample: Sample, resolution: int, number: int = 0) -> Question:
    """Encode an image, its longest side scaled to `resolution` pixels, and the plainest prompts of its queries."""
    geometry = plan_geometry(*sample.image.shape[:2], resolution)
    texts = encode_texts(networks.text_encoder, [query.prompts[0] for query in sample.queries]).cpu()
    return Question(number, sample, encode_image(networks, sample.image, geometry), texts, geometry)


def as_float(image: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> [1,H,W,3] in [0,1]."""
    return torch.from_numpy(image.copy())[None].float() / 255


def mirrored(networks: Networks, question: Question) -> Question:
    """The same prompts about the image with left and right swapped."""
    image = np.ascontiguousarray(question.sample.image[:, ::-1])
    sample = replace(question.sample, image=image)
    return replace(question, sample=sample, latent=encode_image(networks, image, question.geometry))


@torch.no_grad()
def encode_image(networks: Networks, image: np.ndarray, geometry: Geometry) -> Tensor:
    """uint8 [H,W,3] -> latent [4,h,w] on the CPU, float32."""
    pixels = fit(as_float(image), geometry) * 2 - 1
    return encode_pixels(networks.vae, pixels.to(networks.vae.device))[0].float().cpu()


def answer(networks: Networks, question: Question, sampling: Sampling, wordings: Sequence[int] | None = None) -> Tensor:
    """Soft masks [K,H,W] in [0,1] at the image's own size, for the prompts of one image.

    wordings: how many texts one after the other ask for the same mask; their latents are averaged, as in the nodes.
    Batches hold prompts of one image only, so the result does not depend on how images are shared among processes.
    """
    if sampling.mirror:
        single = replace(sampling, mirror=False)
        other = answer(networks, mirrored(networks, question), single, wordings)
        return (answer(networks, question, single, wordings) + other.flip(-1)) / 2
    schedule = ddim_schedule(networks.config.scheduler, sampling.steps)
    latents = torch.cat(
        [
            predict(networks, question.latent.expand(len(chunk), -1, -1, -1), chunk, schedule, sampling)
            for chunk in question.texts.split(sampling.batch_size)
        ]
    )
    if wordings is not None:
        latents = torch.stack([group.mean(0) for group in latents.split(list(wordings))])
    photo = fit(as_float(question.sample.image), question.geometry)
    soft = masks_from_pixels(decode(networks, latents), photo, networks.config.mask_target)
    return unfit(soft, question.geometry)


@torch.no_grad()
def predict(networks: Networks, images: Tensor, texts: Tensor, schedule: DDIMSchedule, sampling: Sampling) -> Tensor:
    """Mask latents [N,4,h,w] on the U-Net's device, of image latents [N,4,h,w] and texts [N,77,D].

    Ensembling averages the final latents (paper section 3.7). Every mask starts from the same noise per member, so it does
    not depend on what else is in the batch.
    """
    device = networks.unet.device
    images, texts = images.to(device), texts.to(device)
    total = torch.zeros_like(images)
    for member in range(sampling.ensemble):
        noise = initial_noise(sampling.seed, member, tuple(images.shape[1:]), sampling.initial).to(device)
        total += ddim_sample(denoiser(networks, images, texts, schedule), noise.expand_as(images), schedule)
    return total / sampling.ensemble


@torch.no_grad()
def decode(networks: Networks, latents: Tensor) -> Tensor:
    """Masks [N,3,8h,8w], nominally in [-1,1], on the CPU, of mask latents [N,4,h,w]."""
    parts = latents.split(decode_batch(latents))
    return torch.cat([decode_latents(networks.vae, part).float().cpu() for part in parts])


def decode_batch(latents: Tensor) -> int:
    """How many of the latents [N,4,h,w] the VAE decodes at a time: as many as make 512 x 512 pixels, or one."""
    return max(1, DECODED_PIXELS // (64 * latents.shape[-2] * latents.shape[-1]))


def denoiser(networks: Networks, images: Tensor, texts: Tensor, schedule: DDIMSchedule):
    """The function of `ddim_sample` for image latents [N,4,h,w] and texts [N,77,D]; good for one pass over the schedule."""
    timesteps = iter(schedule.timesteps)

    def denoise(x_ve: Tensor, sigma: float) -> Tensor:
        alpha_bar = 1 / (1 + sigma**2)
        x = x_ve * alpha_bar**0.5
        timestep = torch.full((len(images),), next(timesteps), device=images.device)
        output = call_unet(networks.unet, images, x, timestep, texts)
        return predict_x0(output.float(), x, alpha_bar, networks.config.prediction_type)

    return denoise


def score_question(question: Question, soft: Tensor, threshold: float) -> list[Result]:
    """Compare soft masks [K,H,W] with the queries of a question."""
    sample, results = question.sample, []
    size = sample.image.shape[:2]
    known = ~sample.ignore if sample.ignore is not None else np.ones(size, bool)
    for query, mask in zip(sample.queries, soft, strict=True):
        truth = query.mask if query.mask is not None else np.zeros(size, bool)
        record = score(question.number, query, mask, torch.from_numpy(truth), torch.from_numpy(known), threshold)
        results.append(Result(record, sample.image, truth, mask.numpy()))
    return results
