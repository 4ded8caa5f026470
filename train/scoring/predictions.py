"""Masks predicted for labelled samples, by the inference loop the nodes run, and their scores: for validation and evaluate.py."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from digseg_nodes.core.encoded import EncodedImage, EncodedPrompts
from digseg_nodes.core.engine import Engine
from digseg_nodes.core.inference import (
    ImageSettings,
    SamplerSettings,
    decode_masks,
    encode_image,
    encode_prompts,
    sample_masks,
)
from digseg_nodes.core.pixels import from_bytes
from digseg_nodes.core.prompts import Prompt
from train.data.base import Sample, Source
from train.scoring.scores import Record, score


@dataclass(frozen=True)
class EncodedSample:
    """Image number `number` of an evaluation with its queries' plainest prompts, encoded."""

    number: int
    sample: Sample
    image: EncodedImage
    prompts: EncodedPrompts


@dataclass(frozen=True)
class Result:
    """One scored prompt with what a picture of it needs: image uint8 [H,W,3], truth bool [H,W], soft float [H,W]."""

    record: Record
    image: np.ndarray
    truth: np.ndarray
    soft: np.ndarray


def encoded_samples(
    sources: Iterable[Source],
    engine: Engine,
    look: ImageSettings,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    spread: bool = False,
) -> Iterator[EncodedSample]:
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
            yield encode_sample(engine, sample, look, number)


def encode_sample(engine: Engine, sample: Sample, look: ImageSettings, number: int = 0) -> EncodedSample:
    """Encode an image and the plainest prompt of each of its queries."""
    prompts = [Prompt(query.name, (query.prompts[0],)) for query in sample.queries]
    return EncodedSample(number, sample, encode_image(engine, as_float(sample.image), look), encode_prompts(engine, prompts))


def as_float(image: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> [1,H,W,3] in [0,1]."""
    return from_bytes(image)[None]


def predict(
    engine: Engine, image: EncodedImage, prompts: EncodedPrompts, settings: SamplerSettings, decoder: str = "auto"
) -> Tensor:
    """Soft masks [K,H,W] in [0,1] at the image's own size, for the K prompts of one image. decoder: auto, vae or guided.

    A call holds prompts of one image only, so the result does not depend on how images are shared among processes.
    """
    return decode_masks(engine, sample_masks(engine, prompts, image, settings), decoder=decoder).soft[0]


def score_sample(number: int, sample: Sample, soft: Tensor, threshold: float) -> list[Result]:
    """Compare soft masks [K,H,W] with the K queries of image `number`."""
    results = []
    size = sample.image.shape[:2]
    known = ~sample.ignore if sample.ignore is not None else np.ones(size, bool)
    for query, mask in zip(sample.queries, soft, strict=True):
        truth = query.mask if query.mask is not None else np.zeros(size, bool)
        record = score(number, query, mask, torch.from_numpy(truth), torch.from_numpy(known), threshold)
        results.append(Result(record, sample.image, truth, mask.numpy()))
    return results
