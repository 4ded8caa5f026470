"""The four steps against the all-in-one node, what ComfyUI's cache keeps, chunks, batches, tiles and stock samplers.

On a small random model: what is compared are two ways to the same mask.
"""

from __future__ import annotations

import io

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.parity.builders import SCHEDULERS, TEXTS, make_text, make_unet, make_vae, write_checkpoint
from tools.api import Client, Run, RunError

from .conftest import node

LOADER, PHOTO, SEGMENT, PICK, PROMPTS, ENCODE, SAMPLE, DECODE, PICK_STEPS, MAP = map(str, range(1, 11))
TEXT = "red circle\n(blue) star:1.3: azure star"


@pytest.fixture(scope="module")
def checkpoint(host) -> str:
    name = "random-steps.safetensors"
    write_checkpoint(
        host.base / "models" / "digseg" / name,
        make_unet("one_head_count"),
        make_vae(),
        make_text(),
        SCHEDULERS["v_zero_snr"],
        resolution=64,
        default_steps=2,
    )
    return name


class Steps:
    """DiGSeg Segment and, beside it, Prompts -> Encode Image -> Sampler -> Decode Masks, each with a Pick Mask."""

    def __init__(self, checkpoint: str, image: str, text: str = TEXT, **settings):
        values = {
            "seed": 3,
            "steps": 2,
            "ensemble": 1,
            "uncertainty": False,
            "resolution": 0,
            "tile": 0,
            "threshold": 0.0,
            "mirror": False,
            **settings,
        }
        model, clip, vae = ([LOADER, i] for i in range(3))
        pick = {"names": "", "mode": "soft", "threshold": 0.0, "invert": False}
        only = lambda *names: {name: values[name] for name in names}  # noqa: E731
        self.prompt = {
            LOADER: node("DiGSegCheckpointLoader", checkpoint=checkpoint),
            PHOTO: node("LoadImage", image=image),
            SEGMENT: node("DiGSegSegment", model=model, clip=clip, vae=vae, image=[PHOTO, 0], text=text, **values),
            PICK: node("DiGSegPickMask", masks=[SEGMENT, 0], **pick),
            PROMPTS: node("DiGSegPrompts", clip=clip, text=text, preset="none"),
            ENCODE: node("DiGSegEncodeImage", vae=vae, image=[PHOTO, 0], model=model, **only("resolution", "tile", "mirror")),
            SAMPLE: node(
                "DiGSegSampler",
                model=model,
                prompts=[PROMPTS, 0],
                image=[ENCODE, 0],
                **only("seed", "steps", "ensemble"),
            ),
            DECODE: node("DiGSegDecodeMasks", vae=vae, masks=[SAMPLE, 0], **only("uncertainty")),
            PICK_STEPS: node("DiGSegPickMask", masks=[DECODE, 0], **pick),
            MAP: node(
                "DiGSegSemanticMap",
                masks=[DECODE, 0],
                threshold=0.0,
                class_thresholds="",
                opacity=0.6,
                legend=True,
                save_prefix="",
            ),
        }

    def set(self, which: str, **values) -> Steps:
        self.prompt[which]["inputs"].update(values)
        return self

    def without(self, *nodes: str) -> dict:
        return {key: value for key, value in self.prompt.items() if key not in nodes}

    @property
    def steps_only(self) -> dict:
        return self.without(SEGMENT, PICK)

    @property
    def one_only(self) -> dict:
        return self.without(PROMPTS, ENCODE, SAMPLE, DECODE, PICK_STEPS, MAP)


def shown(client: Client, run: Run, which: str) -> np.ndarray:
    """The pictures of a node, [B, H, W], of their first channel."""
    pictures = [Image.open(io.BytesIO(client.picture(entry))) for entry in run.outputs[which]["images"]]
    return np.stack([np.asarray(picture.convert("RGB"))[..., 0] for picture in pictures])


def memory_of(host) -> int:
    """Resident bytes of the ComfyUI process."""
    return max(p.memory_info().rss for p in psutil.process_iter(["cmdline"]) if str(host.base) in (p.info["cmdline"] or []))


@pytest.fixture
def photo(client, tmp_path) -> str:
    return upload(client, tmp_path / "split.png", 96, 128)


def upload(client: Client, path, height: int, width: int, seed: int = 0) -> str:
    """A smooth random picture among ComfyUI's inputs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return client.upload(path)


SETTINGS = [
    {},
    {"ensemble": 2, "uncertainty": True},
    {"tile": 64},
    {"resolution": 96},
    {"mirror": True, "uncertainty": True},
    {"mirror": True, "tile": 64, "ensemble": 2, "uncertainty": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_steps_and_all_in_one_are_bit_identical(client, checkpoint, photo, settings):
    graph = Steps(checkpoint, photo, **settings)
    graph.prompt["20"] = node("DiGSegCompareMasks", prediction=[PICK, 0], truth=[PICK_STEPS, 0], threshold=0.5, tolerance=1)
    graph.prompt["21"] = node("DiGSegUncertainty", masks=[SEGMENT, 0], name="", opacity=1.0)
    graph.prompt["22"] = node("DiGSegUncertainty", masks=[DECODE, 0], name="", opacity=1.0)
    run = client.run(graph.prompt)
    one, steps = shown(client, run, PICK), shown(client, run, PICK_STEPS)
    assert one.std() > 0 and np.array_equal(one, steps)
    assert np.array_equal(shown(client, run, "21"), shown(client, run, "22"))


def test_another_prompt_does_not_encode_the_photo_again(client, checkpoint, photo):
    graph = Steps(checkpoint, photo)
    client.run(graph.steps_only)
    again = client.run(graph.set(PROMPTS, text="yellow ring").steps_only)
    assert set(again.executed) == {PROMPTS, SAMPLE, DECODE, PICK_STEPS, MAP}


def test_another_threshold_does_not_sample_again(client, checkpoint, photo):
    graph = Steps(checkpoint, photo)
    client.run(graph.steps_only)
    assert client.run(graph.set(MAP, threshold=0.3).steps_only).executed == [MAP]
    assert client.run(graph.set(PICK_STEPS, mode="hard", threshold=0.6).steps_only).executed == [PICK_STEPS]


def test_another_seed_does_not_encode_text_or_photo_again(client, checkpoint, photo):
    graph = Steps(checkpoint, photo)
    client.run(graph.steps_only)
    assert set(client.run(graph.set(SAMPLE, seed=4).steps_only).executed) == {SAMPLE, DECODE, PICK_STEPS, MAP}


def test_synonyms_are_the_mean_of_their_latents_and_brackets_are_literal(client, checkpoint, photo):
    """One wording twice is that wording; a weight in brackets is text and changes the mask like any other text."""
    alone = client.run(Steps(checkpoint, photo, "red circle").one_only)
    doubled = client.run(Steps(checkpoint, photo, "red circle: red circle").one_only)
    weighted = client.run(Steps(checkpoint, photo, "(red circle:1.0)").one_only)
    assert np.array_equal(shown(client, alone, PICK), shown(client, doubled, PICK))
    assert not np.array_equal(shown(client, alone, PICK), shown(client, weighted, PICK))


@pytest.mark.parametrize("preset", ["ade20k-150"])
def test_a_hundred_and_fifty_prompts_run_in_bounded_memory(client, host, checkpoint, tmp_path, preset):
    photo = upload(client, tmp_path / "tiny.png", 64, 64)
    graph = Steps(checkpoint, photo, resolution=64, steps=1).set(PROMPTS, text="", preset=preset)
    client.run(Steps(checkpoint, photo, "wall", resolution=64, steps=1).steps_only)
    before = memory_of(host)
    run = client.run(graph.steps_only)
    assert memory_of(host) - before < 300 * 2**20, "150 masks of 64 x 64 px are 2.5 MB"
    assert len(shown(client, run, PICK_STEPS)) == 1
    steps = run.of("progress")
    assert steps[-1]["value"] == steps[-1]["max"]


@pytest.mark.parametrize(("height", "width"), [(1, 90), (90, 1), (37, 203), (200, 131)])
def test_odd_sizes_come_back_at_their_own_size(client, checkpoint, tmp_path, height, width):
    photo = upload(client, tmp_path / "odd.png", height, width)
    assert shown(client, client.run(Steps(checkpoint, photo, "a").one_only), PICK).shape == (1, height, width)


def test_alpha_does_not_change_the_mask(client, checkpoint, tmp_path):
    """RGBA through a core node that really makes four channels."""
    photo = upload(client, tmp_path / "rgb.png", 40, 56)
    graph = Steps(checkpoint, photo, "a")
    plain = shown(client, client.run(graph.one_only), PICK)
    graph.prompt["30"] = node("JoinImageWithAlpha", image=[PHOTO, 0], alpha=[PHOTO, 1])
    assert np.array_equal(plain, shown(client, client.run(graph.set(SEGMENT, image=["30", 0]).one_only), PICK))


def test_frames_of_a_batch_equal_frames_one_by_one(client, checkpoint, tmp_path):
    names = [upload(client, tmp_path / f"frame{seed}.png", 40, 56, seed) for seed in range(4)]
    graph = Steps(checkpoint, names[0], "a\nb")
    for number, name in enumerate(names[1:]):
        graph.prompt[f"{40 + number}"] = node("LoadImage", image=name)
        graph.prompt[f"{50 + number}"] = node(
            "ImageBatch", image1=[f"{49 + number}" if number else PHOTO, 0], image2=[f"{40 + number}", 0]
        )
    together = client.run(graph.set(SEGMENT, image=["52", 0]).one_only)
    alone = [shown(client, client.run(Steps(checkpoint, name, "a\nb").one_only), PICK) for name in names]
    assert np.array_equal(shown(client, together, PICK), np.concatenate(alone))
    values = [data["value"] for data in together.of("progress") if data["node"] == SEGMENT]
    assert values == sorted(values), "more than one progress bar"


def test_one_tile_is_the_whole_image(client, checkpoint, tmp_path):
    photo = upload(client, tmp_path / "large.png", 96, 128)
    whole = shown(client, client.run(Steps(checkpoint, photo, "a", resolution=128).one_only), PICK)
    single = shown(client, client.run(Steps(checkpoint, photo, "a", resolution=128, tile=128).one_only), PICK)
    assert whole.std() > 0 and np.abs(whole.astype(int) - single).max() <= 1


@pytest.mark.parametrize("tile", [0, 64])
def test_mirror_averages_the_photo_and_its_mirror_image(client, checkpoint, tmp_path, tile):
    photo = upload(client, tmp_path / "ways.png", 96, 128)
    Image.open(tmp_path / "ways.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other way.png")
    turned = client.upload(tmp_path / "other way.png")

    def mask(name: str, mirror: bool) -> np.ndarray:
        return shown(client, client.run(Steps(checkpoint, name, "a", tile=tile, mirror=mirror).one_only), PICK).astype(int)

    plain, other, both = mask(photo, False), mask(turned, False)[..., ::-1], mask(photo, True)
    assert np.abs(plain - other).max() > 2, "the two views agree: nothing is tested"
    assert np.abs(both - (plain + other) / 2).max() <= 1
    assert np.abs(mask(turned, True)[..., ::-1] - both).max() <= 1


STOCK = {"model": [LOADER, 0], "cfg": 1.0, "positive": ["61", 0], "negative": ["61", 0], "latent_image": ["61", 1]}


def with_stock_nodes(steps: int, add_noise: bool = True) -> dict:
    """Nodes that sample "red circle" with ComfyUI's Euler beside those of `Steps`; "66" picks the mask."""
    return {
        "60": node("CLIPTextEncode", clip=[LOADER, 1], text="red circle"),
        "61": node("DiGSegConditioning", conditioning=["60", 0], image=[ENCODE, 0], name="red circle"),
        "62": node("DiGSegSigmas", model=[LOADER, 0], steps=steps),
        "63": node("KSamplerSelect", sampler_name="euler"),
        "64": node("SamplerCustom", add_noise=add_noise, noise_seed=0, sampler=["63", 0], sigmas=["62", 0], **STOCK),
        "65": node("DiGSegDecodeMasks", vae=[LOADER, 2], masks=["64", 0], uncertainty=False),
        "66": node("DiGSegPickMask", masks=["65", 0], names="", mode="soft", threshold=0.0, invert=False),
    }


@pytest.mark.parametrize("name", ["  red   circle ", " \n "])
def test_names_of_masks_for_stock_samplers_are_those_of_text_prompts(client, checkpoint, photo, name):
    graph = Steps(checkpoint, photo).without(SEGMENT, PICK, PROMPTS, SAMPLE, DECODE, PICK_STEPS, MAP)
    graph |= with_stock_nodes(steps=2, add_noise=False)
    graph["61"]["inputs"]["name"] = name
    if name.strip():
        graph["66"]["inputs"]["names"] = "red circle"
        assert shown(client, client.run(graph), "66").shape[1:] == (96, 128)
    else:
        with pytest.raises(RunError, match="The mask has no name; write what it is called"):
            client.run(graph)


@pytest.mark.parametrize("scheduler", [None, "simple"])
def test_stock_samplers_agree_with_ours(client, host, tmp_path, scheduler):
    """Without zero-terminal-SNR and at 10 steps (they divide 1000) Euler is DDIM, but for the last step to sigma 0."""
    name = "random-v.safetensors"
    write_checkpoint(
        host.base / "models" / "digseg" / name,
        make_unet("one_head_count"),
        make_vae(),
        make_text(),
        SCHEDULERS["v"],
        resolution=64,
        default_steps=10,
    )
    photo = upload(client, tmp_path / "stock.png", 64, 64)
    graph = Steps(name, photo, "red circle", steps=10, seed=0)
    tied = with_stock_nodes(steps=10)
    if scheduler:
        tied["64"] = node("KSampler", seed=0, steps=10, sampler_name="euler", scheduler=scheduler, denoise=1.0, **STOCK)
    run = client.run(graph.steps_only | tied)
    ours, stock = shown(client, run, PICK_STEPS).astype(int), shown(client, run, "66").astype(int)
    assert ours.std() > 0
    assert np.abs(ours - stock).mean() < 4  # their last step ends at sigma 0, ours at the schedule's smallest sigma


def test_stock_sampler_draws_both_views(client, checkpoint, tmp_path):
    """From no noise, the mask of a mirrored photo is the mirrored mask; of one view alone it would not be."""
    photo = upload(client, tmp_path / "stock ways.png", 48, 64)
    Image.open(tmp_path / "stock ways.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "stock other.png")
    turned = client.upload(tmp_path / "stock other.png")

    def mask(name: str, mirror: bool) -> np.ndarray:
        graph = Steps(checkpoint, name, mirror=mirror).without(SEGMENT, PICK, PROMPTS, SAMPLE, DECODE, PICK_STEPS, MAP)
        return shown(client, client.run(graph | with_stock_nodes(steps=2, add_noise=False)), "66").astype(int)

    assert np.abs(mask(photo, False) - mask(turned, False)[..., ::-1]).max() > 2, "the two views agree: nothing is tested"
    both = mask(photo, True)
    assert both.shape == (1, 48, 64) and np.abs(mask(turned, True)[..., ::-1] - both).max() <= 1


def test_our_sampler_with_stock_sampler_and_sigmas(client, checkpoint, photo):
    """Same noise, so the stock Euler must land on our DDIM's mask."""
    graph = Steps(checkpoint, photo, "red circle", steps=4)
    ours = shown(client, client.run(graph.steps_only), PICK_STEPS).astype(int)
    graph.prompt |= {
        "62": node("DiGSegSigmas", model=[LOADER, 0], steps=4),
        "63": node("KSamplerSelect", sampler_name="euler"),
    }
    stock = shown(client, client.run(graph.set(SAMPLE, sigmas=["62", 0], sampler=["63", 0]).steps_only), PICK_STEPS).astype(int)
    assert ours.std() > 0 and np.abs(ours - stock).mean() < 4


def test_text_of_another_width_is_refused(client, checkpoint, host, photo, monkeypatch):
    monkeypatch.setitem(TEXTS, "wide", {**TEXTS["small1"], "hidden_size": 96})
    name = "other-width.safetensors"
    write_checkpoint(
        host.base / "models" / "digseg" / name,
        make_unet("one_head_count"),
        make_vae(),
        make_text("wide"),
        SCHEDULERS["v"],
    )
    graph = Steps(checkpoint, photo)
    graph.prompt["70"] = node("DiGSegCheckpointLoader", checkpoint=name)
    with pytest.raises(RunError, match=r"96 numbers wide, this DiGSeg model reads 64"):
        client.run(graph.set(SEGMENT, clip=["70", 1]).one_only)


def test_a_mask_is_the_same_however_many_prompts_share_its_call(client, checkpoint, photo):
    """Up to a grey level of 255: matrix products of another size round differently (docs/reliability.md)."""
    names = ["red circle", *(f"thing {number}" for number in range(9))]  # on a CPU more than one U-Net call
    alone, among = (
        client.run(Steps(checkpoint, photo, "\n".join(asked)).set(PICK, names="red circle").one_only)
        for asked in (names[:1], names)
    )
    one, other = (shown(client, run, PICK).astype(int) for run in (alone, among))
    assert one.shape == other.shape
    assert one.max() > one.min()
    assert np.abs(one - other).max() <= 1
