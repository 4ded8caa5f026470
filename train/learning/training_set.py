"""What a run trains and validates on: batches by step number, and the sources of the validation."""

from collections import Counter
from dataclasses import dataclass

from accelerate import Accelerator

from train.data.account import ContentStore, data_digest, take_account
from train.data.augment import AugmentedSource
from train.data.base import Source
from train.data.build import open_split
from train.latents.batches import Batches, CachedBatches, WorkShare
from train.latents.fresh import FreshBatches, FreshSamples
from train.latents.guides import Guides
from train.latents.latent_cache import LatentCache
from train.latents.sampler import Sampler
from train.latents.table import SampleTable, build_table
from train.networks.bases import Networks
from train.networks.text_encoding import TextCache
from train.settings.train_config import TrainConfig


@dataclass(frozen=True)
class TrainingSet:
    """This process's batches, the names of all classes, the sources held back for validation, the digests of the prompts and
    masks of both (data_digest by split), and the share in [0,1] of the encoded pixels that is padding."""

    batches: Batches
    class_names: list[str]
    validation: list[Source]
    digests: dict[str, dict]
    padding: float = 0.0


def open_training_set(config: TrainConfig, networks: Networks, accelerator: Accelerator) -> TrainingSet:
    """Open the data, list or encode all of it, and say how much there is; VAE and text encoder are on their device by now."""
    with accelerator.main_process_first():
        sources = open_split(config.data, "train")
        validation = open_split(config.data, "validation") if config.data.validation else []  # wrong paths show now
        opened = {"train": [source for source, _ in sources], "validation": [source for source, _ in validation]}
        account = take_account(config.data, opened, ContentStore(config.cache / "labels.jsonl"))
        accelerator.print("\n".join(account.lines("data")))
    sources = [(_augmented(config, source), share) for source, share in sources]
    samples = _samples(config, networks)
    for source, _ in sources:  # every process encodes its share
        samples.fill(source, accelerator.is_main_process)
    with accelerator.main_process_first():
        texts = TextCache(config.cache, networks.text_encoder)
        table = build_table(sources, samples, texts)
    digests = {split: data_digest(parts) for split, parts in opened.items()}
    class_names = list(dict.fromkeys(name for source, _ in sources for name in source.class_names))
    settings = config.sampling
    sampler = Sampler(table, config.seed, settings.absent, settings.hard_absent, settings.balance)
    accelerator.print(describe(table))
    share = WorkShare(config.batch_size, config.gradient_accumulation, accelerator.num_processes, accelerator.process_index)
    parts = (config, sampler, samples, texts, share, len(networks.alpha_bar))
    guides = _guides(config, networks, [source for source, _ in sources])
    batches = _batches(config, networks, parts, guides)
    return TrainingSet(batches, class_names, opened["validation"], digests, table.padding)


def describe(table: SampleTable) -> str:
    """How much there is, and in which shapes."""
    images = Counter(shape for shape, _ in {*zip(table.rows["shape"].tolist(), table.rows["place"].tolist(), strict=True)})
    text = f"{len(table)} prompts over {images.total()} images, {len(table.class_names)} classes"
    shapes = ", ".join(f"{width} x {height} ({images[n]})" for n, (height, width) in enumerate(table.shapes) if images[n])
    return f"{text}, encoded as {shapes}; {table.padding:.1%} of it is padding"


def _samples(config: TrainConfig, networks: Networks) -> LatentCache | FreshSamples:
    """Where images and masks come from: encoded once, or read anew at every step."""
    if not config.cache_latents:
        return FreshSamples(config.cache, config.resolution, config.workers, networks.config.photo_shape)
    return LatentCache(
        config.cache,
        networks.vae,
        config.resolution,
        config.encode_batch if networks.vae.device.type == "cuda" else config.encoded_at_once,
        config.workers,
        config.target,
        networks.config.photo_shape,
        config.mixed_precision,
    )


def _augmented(config: TrainConfig, source: Source) -> Source:
    """With cached latents the versions of an image are images of their own; without, they are drawn step by step."""
    settings = config.augment
    return AugmentedSource(source, settings, config.seed) if settings.variants and config.cache_latents else source


def _guides(config: TrainConfig, networks: Networks, sources: list[Source]) -> Guides | None:
    """Photos and masks for the mask decoder, where one is trained."""
    settings = config.mask_decoder
    if settings is None:
        return None
    return Guides(sources, config.resolution, networks.config.photo_shape, settings.guide, settings.colour, config.seed)


def _batches(config: TrainConfig, networks: Networks, parts: tuple, guides: Guides | None) -> Batches:
    if config.cache_latents:
        return CachedBatches(*parts, guides)
    return FreshBatches(*parts, networks.vae.config.latent_channels, guides)
