"""What a mask decoder learns from: the mask latents a model predicts for training photos, the photos and the true masks.

One file per photo in the run's folder, made once by the inference loop itself; a stopped run goes on with the next photo.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from digseg_nodes.core.encoded import EncodedImage, EncodedPrompts
from digseg_nodes.core.engine import Engine
from digseg_nodes.core.files import write_text, written_atomically
from digseg_nodes.core.geometry import Geometry, fit
from digseg_nodes.core.inference import ImageSettings, SamplerSettings, encode_image, encode_prompts, sample_masks
from digseg_nodes.core.latent_space import PIXELS_PER_LATENT
from digseg_nodes.core.mask_targets import drawn, shows_photo
from digseg_nodes.core.prompts import Prompt
from train.data.area import soft_mask
from train.data.base import DataError, Query, Sample, Source
from train.data.prepare import filled_up
from train.latents.guides import enlarged, fit_known, fit_mask
from train.learning.resume import ResumeError
from train.predicting.results import fingerprint
from train.scoring.predictions import as_float


@dataclass(frozen=True)
class PairSettings:
    """What is predicted. images: training photos, evenly from the data. prompts: asked of each photo, `absent` of them (a share)
    for things that are not there. variants: predictions per prompt, each with a noise of its own and, every other one, half the
    steps; one where the model starts from zero noise. guide: largest size of the stored photos, in times the U-Net's resolution.
    """

    images: int = 2000
    prompts: int = 8
    absent: float = 0.25
    variants: int = 2
    guide: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """One photo with its prompts: K prompts, V predictions each, on a latent grid of h x w cells of `cell` pixels of the guide.

    photo uint8 [3,h*cell,w*cell]; masks bool [K,h*cell,w*cell]; known bool [h*cell,w*cell]; latents [K,V,4,h,w] and exact
    [1,4,h,w], the latent of the true mask of prompt 0, float32 and unscaled.
    """

    photo: Tensor
    masks: Tensor
    known: Tensor
    latents: Tensor
    exact: Tensor

    @property
    def cell(self) -> int:
        """Pixels of the guide along one side of a latent pixel."""
        return self.photo.shape[-1] // self.latents.shape[-1]


def pair_path(folder: Path, number: int) -> Path:
    """File of photo number `number` of the run."""
    return folder / f"{number:08d}.safetensors"


class Basis:
    """What the predictions in a run folder rest on, noted in a file beside them: the model, the settings and the data."""

    def __init__(
        self, run: Path, files: Mapping[str, Path | None], sources: Sequence[tuple[Source, float]], settings: PairSettings
    ):
        self.run, self.file = run, run / "pairs.json"
        named = {name: path and f"{path.name} {fingerprint(path)}" for name, path in files.items()}
        self.now = {**named, **asdict(settings), "data": data_digest(sources, settings)}

    def check(self) -> None:
        """Raises ResumeError where the folder was begun with something else. One of an older version says nothing: it passes."""
        if not self.file.is_file():
            return
        old = self._noted()
        changed = [name for name, value in self.now.items() if old.get(name) != value]
        if {"images", "seed"} & set(changed):
            changed = [name for name in changed if name != "data"]  # other photos are chosen from it
        if changed:
            named = "; ".join(f"{name} was {old.get(name)}, now {self.now[name]}" for name in changed)
            raise ResumeError(
                f"{self.run} holds predictions of another model, of other data or with other settings: {named}. Choose another "
                "--output, or delete the folder to begin anew."
            )

    def note(self) -> None:
        """Write the file, where there is none."""
        if not self.file.exists():
            write_text(self.file, json.dumps(self.now, indent=1, ensure_ascii=False) + "\n", sync=True)

    def _noted(self) -> dict:
        try:
            old = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ResumeError(
                f"{self.file}, which says what the predictions in its folder rest on, cannot be read ({error}). Choose another "
                "--output, or delete the folder to begin anew."
            ) from error
        return old if isinstance(old, dict) else {}


def data_digest(sources: Sequence[tuple[Source, float]], settings: PairSettings) -> str:
    """A digest of the photos that are predicted for, of their labels and of their order."""
    identities = [source.identity(index) for source, index in chosen_places(sources, settings)]
    return hashlib.sha256(json.dumps(identities).encode()).hexdigest()[:16]


def make_pairs(engine: Engine, sources: Sequence[tuple[Source, float]], settings: PairSettings, folder: Path) -> list[Path]:
    """Predict for every photo that has no file yet; returns the files of the photos that can be asked about anything."""
    folder.mkdir(parents=True, exist_ok=True)
    places = chosen_places(sources, settings)
    texts: dict[str, Tensor] = {}
    for number, (source, index) in enumerate(tqdm(places, desc="predicting", unit="photo")):
        path = pair_path(folder, number)
        if not path.exists():
            pair = predicted_pair(engine, source.sample(index), settings, number, texts)
            _write(path, pair, source.identity(index))
    paths = [pair_path(folder, number) for number in range(len(places))]
    kept = [path for path in paths if path.stat().st_size > 0]
    if not kept:
        raise DataError("None of the training photos has a mask. Check the data YAML's paths and classes.")
    return kept


def chosen_places(sources: Sequence[tuple[Source, float]], settings: PairSettings) -> list[tuple[Source, int]]:
    """Which photos of which sources: by the sources' weights, evenly from first to last, in a seeded order."""
    places = []
    for source, weight in sources:
        count = min(len(source), max(1, round(settings.images * weight)))
        places += [(source, k * len(source) // count) for k in range(count)]
    order = np.random.default_rng(settings.seed).permutation(len(places))
    return [places[number] for number in order]


def chosen_queries(sample: Sample, settings: PairSettings, rng: np.random.Generator) -> list[Query]:
    """Up to `prompts` queries of a sample, a share of them absent, present ones first; none that are held out."""
    asked = [query for query in sample.queries if query.group != "held_out"]
    present = [query for query in asked if query.mask is not None]
    absent = [query for query in asked if query.mask is None]
    empty = min(len(absent), round(settings.prompts * settings.absent))
    full = min(len(present), settings.prompts - empty)
    return [present[i] for i in rng.permutation(len(present))[:full]] + [absent[i] for i in rng.permutation(len(absent))[:empty]]


def predicted_pair(
    engine: Engine, sample: Sample, settings: PairSettings, number: int, texts: dict[str, Tensor] | None = None
) -> Pair | None:
    """Everything of one photo; None for one that nothing can be asked about. texts: prompts encoded before."""
    rng = np.random.default_rng([settings.seed, number])
    queries = chosen_queries(sample, settings, rng)
    if not queries:
        return None
    image = encode_image(engine, as_float(sample.image), ImageSettings())
    names = [query.prompts[rng.integers(len(query.prompts))] for query in queries]
    prompts = _encoded(engine, names, {} if texts is None else texts)
    seeds = rng.integers(2**31, size=settings.variants)
    plans = sampler_plans(engine, settings.variants, seeds)
    latents = torch.stack([sample_masks(engine, prompts, image, plan)["samples"] for plan in plans], 1)
    guide = stored_geometry(image.geometry, settings.guide)
    photo = fit(image.image, guide)[0]  # [3,H,W] in [0,1]
    masks = torch.stack([fit_mask(_mask_of(query, sample), guide) for query in queries])
    known = np.ones(sample.image.shape[:2], bool) if sample.ignore is None else ~sample.ignore
    exact = encode_mask(engine, image, queries[0], sample)
    return Pair((photo * 255).round().to(torch.uint8), masks, fit_known(known, guide), latents, exact)


def sampler_plans(engine: Engine, variants: int, seeds: Sequence[int]) -> list[SamplerSettings]:
    """How each of a prompt's predictions is sampled: as the checkpoint says first, then every other one with half the steps."""
    if engine.config.initial_noise == "zero":
        return [SamplerSettings()]
    steps = engine.config.default_steps
    return [SamplerSettings(int(seed), max(1, steps // (1 + k % 2))) for k, seed in zip(range(variants), seeds, strict=True)]


def stored_geometry(seen: Geometry, largest: float) -> Geometry:
    """How the guide is fitted where the U-Net's photo was fitted as `seen`: the same piece of the world, padding included, at a
    whole number of pixels per latent pixel, as large as the photo is but at most `largest` times."""
    scale = min(largest, max(seen.original) / max(seen.resized))
    cell = max(PIXELS_PER_LATENT, int(PIXELS_PER_LATENT * scale + 1e-6))
    return enlarged(seen, cell)


def encode_mask(engine: Engine, image: EncodedImage, query: Query, sample: Sample) -> Tensor:
    """The latent of a query's true mask as the model was taught to draw it: [1,4,h,w], unscaled."""
    fitted = image.geometry
    taught = filled_up(torch.from_numpy(soft_mask(_mask_of(query, sample), fitted.resized))[None], fitted)  # [1,*padded]
    target = engine.config.mask_target
    photo = fit(image.image, fitted) * 2 - 1 if shows_photo(target) else taught
    pixels = drawn(taught, photo, target)  # [1,3,*padded] in [-1,1]
    return engine.encode_pixels(pixels * 0.5 + 0.5)


def read_pair(path: Path) -> Pair:
    """The content of a pair's file."""
    with safe_open(str(path), framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    size = stored["photo"].shape[-2:]
    masks, known = (_unpacked(stored[name], size) for name in ("masks", "known"))
    return Pair(stored["photo"], masks, known[0], stored["latents"].float(), stored["exact"].float())


def cell_of(path: Path) -> int:
    """`Pair.cell` of a file, by its header alone."""
    with safe_open(str(path), framework="pt") as file:
        return file.get_slice("photo").get_shape()[-1] // file.get_slice("latents").get_shape()[-1]


def _encoded(engine: Engine, names: Sequence[str], texts: dict[str, Tensor]) -> EncodedPrompts:
    fresh = [name for name in dict.fromkeys(names) if name not in texts]
    if fresh:
        rows = encode_prompts(engine, [Prompt(name, (name,)) for name in fresh]).embeddings
        texts.update(zip(fresh, rows, strict=True))
    return EncodedPrompts(tuple(names), tuple(texts[name] for name in names))


def _mask_of(query: Query, sample: Sample) -> np.ndarray:
    return np.zeros(sample.image.shape[:2], bool) if query.mask is None else query.mask


def _write(path: Path, pair: Pair | None, identity: str) -> None:
    """A pair's file, empty for a photo without queries."""
    if pair is None:
        with written_atomically(path) as temporary:
            Path(temporary).touch()
        return
    tensors = {
        "photo": pair.photo.contiguous(),
        "masks": _packed(pair.masks),
        "known": _packed(pair.known[None]),
        "latents": pair.latents.half().contiguous(),
        "exact": pair.exact.half().contiguous(),
    }
    with written_atomically(path) as temporary:
        save_file(tensors, temporary, metadata={"identity": identity})


def _packed(flags: Tensor) -> Tensor:
    """bool [K,H,W] -> uint8 [K,ceil(H*W/8)]."""
    return torch.from_numpy(np.packbits(flags.flatten(1).numpy(), axis=1))


def _unpacked(packed: Tensor, size: Sequence[int]) -> Tensor:
    """Inverse of `_packed`."""
    flat = np.unpackbits(packed.numpy(), axis=1, count=size[0] * size[1])
    return torch.from_numpy(flat).view(-1, *size).bool()
