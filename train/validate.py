"""Predicting masks with the training networks and scoring them: for validation during training and for evaluate.py."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.ddim import ddim_sample, initial_noise, predict_x0
from digseg_nodes.core.geometry import Geometry, fit, plan_geometry, unfit
from digseg_nodes.core.masks import soft_mask
from digseg_nodes.core.schedule import DDIMSchedule, ddim_schedule
from train.data.base import Query, Sample, Source
from train.loss import call_unet
from train.model import Networks, decode_latents, encode_pixels
from train.scores import Record, score
from train.text import encode_texts


@dataclass(frozen=True)
class Ask:
    """One prompt to one image: latent [4,h,w], text [77,D] and how the image was fitted."""

    image: int
    sample: Sample
    query: Query
    prompt: str
    latent: Tensor
    text: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Sampling:
    """How masks are sampled: DDIM steps, ensemble members, "gaussian" or "zero" initial noise, seed, masks per call."""

    steps: int
    ensemble: int = 1
    initial: str = "gaussian"
    seed: int = 0
    batch_size: int = 32


def asks(sources: Iterable[Source], networks: Networks, resolution: int, limit: int | None = None) -> Iterator[Ask]:
    """Every query of every image, under its plainest prompt; `limit` images in all."""
    samples = chain.from_iterable((source.sample(index) for index in range(len(source))) for source in sources)
    for number, sample in enumerate(islice(samples, limit)):
        geometry = plan_geometry(*sample.image.shape[:2], resolution)
        latent = encode_image(networks, sample.image, geometry)
        prompts = [query.prompts[0] for query in sample.queries]
        if prompts:
            texts = encode_texts(networks.text_encoder, prompts).cpu()
            for query, prompt, text in zip(sample.queries, prompts, texts, strict=True):
                yield Ask(number, sample, query, prompt, latent, text, geometry)


@torch.no_grad()
def encode_image(networks: Networks, image: np.ndarray, geometry: Geometry) -> Tensor:
    """uint8 [H,W,3] -> latent [4,h,w] on the CPU, float32."""
    pixels = fit(torch.from_numpy(image.copy())[None].float() / 255, geometry) * 2 - 1
    return encode_pixels(networks.vae, pixels.to(networks.vae.device))[0].float().cpu()


def answer(stream: Iterable[Ask], networks: Networks, sampling: Sampling) -> Iterator[tuple[Ask, Tensor]]:
    """The soft mask [H,W] in [0,1], at the image's own size, of every ask in order."""
    schedule = ddim_schedule(networks.config.scheduler, sampling.steps)
    for _, group in groupby(stream, key=lambda ask: tuple(ask.latent.shape)):
        while chunk := list(islice(group, sampling.batch_size)):
            latents = torch.stack([ask.latent for ask in chunk])
            texts = torch.stack([ask.text for ask in chunk])
            soft = predict(networks, latents, texts, schedule, sampling)
            for ask, mask in zip(chunk, soft, strict=True):
                yield ask, unfit(mask[None], ask.geometry)[0]


@torch.no_grad()
def predict(networks: Networks, images: Tensor, texts: Tensor, schedule: DDIMSchedule, sampling: Sampling) -> Tensor:
    """Soft masks [N,8h,8w] on the CPU of image latents [N,4,h,w] and texts [N,77,D].

    Ensembling averages the final latents, then decodes once (paper section 3.7). Every mask starts from the same noise
    per member, so it does not depend on what else is in the batch.
    """
    device = networks.unet.device
    images, texts = images.to(device), texts.to(device)
    total = torch.zeros_like(images)
    for member in range(sampling.ensemble):
        noise = initial_noise(sampling.seed, member, tuple(images.shape[1:]), sampling.initial).to(device)
        denoise = _denoiser(networks, images, texts, schedule)
        total += ddim_sample(denoise, noise.expand_as(images), schedule)
    return soft_mask(decode_latents(networks.vae, total / sampling.ensemble)).cpu()


def _denoiser(networks: Networks, images: Tensor, texts: Tensor, schedule: DDIMSchedule):
    timesteps = iter(schedule.timesteps)

    def denoise(x_ve: Tensor, sigma: float) -> Tensor:
        alpha_bar = 1 / (1 + sigma**2)
        x = x_ve * alpha_bar**0.5
        timestep = torch.full((len(images),), next(timesteps), device=images.device)
        output = call_unet(networks.unet, images, x, timestep, texts)
        return predict_x0(output.float(), x, alpha_bar, networks.config.prediction_type)

    return denoise


def score_all(answers: Iterable[tuple[Ask, Tensor]], threshold: float) -> Iterator[tuple[Ask, Tensor, Record]]:
    """Adds the record of every answer."""
    for ask, soft in answers:
        size = ask.sample.image.shape[:2]
        mask = ask.query.mask if ask.query.mask is not None else np.zeros(size, bool)
        known = ~ask.sample.ignore if ask.sample.ignore is not None else np.ones(size, bool)
        record = score(ask.image, ask.query, ask.prompt, soft, torch.from_numpy(mask), torch.from_numpy(known), threshold)
        yield ask, soft, record
