"""The native model in ComfyUI's classes against diffusers on the same random weights. Bound: 1e-4 (`deviation`)."""

import pytest
import torch

from digseg_nodes.core.ddim import initial_noise
from digseg_nodes.core.schedule import ddim_schedule
from tests.parity.builders import (
    SCHEDULERS,
    UNETS,
    deviation,
    make_text,
    make_unet,
    make_vae,
    reference_ddim,
    write_checkpoint,
)
from train.networks.text_encoding import prompt_tokens

BOUND = 1e-4
SCALE = 0.18215
LAYOUTS = [name for name in UNETS if not name.startswith("sd")]
SHAPE = (2, 4, 8, 12)
BUNDLED = {
    "block_out_channels": (64, 96, 96),
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
"""The three levels of the bundled model; 96 is no whole multiple of 64."""


def load(host, tmp_path, unet, **fields):
    return host.load_model(write_checkpoint(tmp_path / "unet.safetensors", unet, **fields))


@pytest.fixture(scope="module")
def words():
    return torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def image_latents():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(6)) / SCALE


@pytest.fixture(scope="module", params=[*LAYOUTS, "bundled"])
def unet(request):
    return make_unet("one_head_count", **BUNDLED) if request.param == "bundled" else make_unet(request.param)


def test_unet_forward(host, tmp_path, unet, words, image_latents):
    model = load(host, tmp_path, unet)
    noisy, image = torch.randn(SHAPE), image_latents * SCALE
    for t in (0, 500, 999):
        times = torch.full((2,), float(t))
        ours = model.model.diffusion_model(torch.cat([noisy, image], 1), times, context=words)
        reference = unet(torch.cat([image, noisy], 1), times, encoder_hidden_states=words).sample
        assert deviation(ours, reference) <= BOUND


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_sampling(host, tmp_path, unet, words, image_latents, kind, steps):
    scheduler = SCHEDULERS[kind]
    model = load(host, tmp_path, unet, scheduler=scheduler)
    noise = initial_noise(7, 0, SHAPE)
    ours = host.sample(model, words, image_latents, noise, ddim_schedule(scheduler, steps)) * SCALE
    reference = reference_ddim(unet, words, image_latents * SCALE, noise, scheduler, steps)
    assert deviation(ours, reference) <= BOUND


def test_one_step_from_zero_noise(host, tmp_path, unet, words, image_latents):
    scheduler = SCHEDULERS["v_zero_snr"]
    model = load(host, tmp_path, unet, scheduler=scheduler)
    noise = initial_noise(0, 0, SHAPE, "zero")
    ours = host.sample(model, words, image_latents, noise, ddim_schedule(scheduler, 1)) * SCALE
    assert deviation(ours, reference_ddim(unet, words, image_latents * SCALE, noise, scheduler, 1)) <= BOUND


@pytest.mark.parametrize("steps", [7, 50])
def test_other_step_counts(host, tmp_path, words, image_latents, steps):
    """7 does not divide 1000."""
    scheduler, unet = SCHEDULERS["v_zero_snr"], make_unet("one_head_count")
    model = load(host, tmp_path, unet, scheduler=scheduler)
    noise = initial_noise(7, 0, SHAPE)
    ours = host.sample(model, words, image_latents, noise, ddim_schedule(scheduler, steps)) * SCALE
    assert deviation(ours, reference_ddim(unet, words, image_latents * SCALE, noise, scheduler, steps)) <= BOUND


def test_stock_sampler_agrees(host, tmp_path, words, image_latents):
    """The conditioning for ComfyUI's own samplers leads to the same mask latents as our sampler."""
    import comfy.sample
    import comfy.samplers

    scheduler = SCHEDULERS["v"]
    model = load(host, tmp_path, make_unet("one_head_count"), scheduler=scheduler)
    noise, schedule = initial_noise(7, 0, SHAPE), ddim_schedule(scheduler, 4)
    sigmas = torch.cat([schedule.sigmas, schedule.prev_sigmas[-1:]]).float()
    positive = host.conditioning(words, image_latents)
    stock = comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        positive,
        torch.zeros(SHAPE),
        disable_pbar=True,
        seed=0,
    )
    stock = stock / (1.0 + float(sigmas[-1]) ** 2) ** 0.5
    assert deviation(host.sample(model, words, image_latents, noise, schedule), stock) <= BOUND


def test_chunked_equals_single(host, tmp_path, words, image_latents):
    scheduler = SCHEDULERS["v_zero_snr"]
    model = load(host, tmp_path, make_unet("one_head_count"), scheduler=scheduler)
    noise, schedule = initial_noise(7, 0, SHAPE), ddim_schedule(scheduler, 4)
    together = host.sample(model, words, image_latents, noise, schedule)
    single = torch.cat(
        [host.sample(model, words[i : i + 1], image_latents[i : i + 1], noise[i : i + 1], schedule) for i in range(2)]
    )
    assert deviation(together, single) <= BOUND


@pytest.mark.parametrize("layout", ["small", "sd"])
def test_vae(host, tmp_path, layout):
    vae = make_vae(layout)
    ours = host.load_vae(write_checkpoint(tmp_path / "v.safetensors", make_unet("one_head_count"), vae))
    pixels = torch.rand(2, 3, 32, 48)
    latents = host.encode_image(ours, pixels)
    reference = vae.encode(pixels * 2 - 1).latent_dist.mean
    assert deviation(latents, reference) <= BOUND
    wide = reference * 4  # decodes to pixels outside [-1, 1]: nothing may be clamped before the channels are averaged
    decoded = vae.decode(wide).sample
    assert decoded.abs().max() > 1.0
    assert deviation(host.decode(ours, wide), decoded) <= BOUND


@pytest.mark.parametrize(("layout", "pad"), [("small1", 49407), ("small2", 0)])
def test_text_encoder(host, tmp_path, layout, pad):
    text = make_text(layout)
    clip = host.load_clip(write_checkpoint(tmp_path / "t.safetensors", make_unet("one_head_count"), None, text))
    for phrase in ("a red circle", ""):
        ids = [token for token, _ in next(iter(clip.tokenize(phrase, disable_weights=True).values()))[0]]
        assert (ids[0], len(ids), ids[-1]) == (49406, 77, pad)
        assert ids.index(49407) == len(phrase.split()) + 1
        assert deviation(host.encode_text(clip, phrase), text(torch.tensor([ids]))[0]) <= BOUND
        assert prompt_tokens(text, [phrase]).tolist() == [ids]  # the trainer's


def test_long_text_is_cut(host, tmp_path):
    clip = host.load_clip(write_checkpoint(tmp_path / "t.safetensors", make_unet("one_head_count"), None, make_text()))
    assert host.encode_text(clip, "red " * 200).shape == (1, 77, 64)


PHRASES = ["the one (left)", "at (10:30) today", "a (big:nan) dog", "((very)) red", r"\(left\)", r"a \\(b"]


@pytest.mark.parametrize("phrase", PHRASES)
def test_brackets_are_literal(host, tmp_path, phrase):
    """Tokens are those of the tokenizer itself on the plain text, and no token has a weight."""
    from transformers import CLIPTokenizer

    text = make_text()
    clip = host.load_clip(write_checkpoint(tmp_path / "t.safetensors", make_unet("one_head_count"), None, text))
    folder = clip.tokenizer.clip_l.tokenizer.name_or_path
    expected = CLIPTokenizer.from_pretrained(folder)(phrase, padding="max_length", max_length=77, truncation=True)
    reference = text(torch.tensor([expected.input_ids]))[0]
    assert deviation(host.encode_text(clip, phrase), reference) <= BOUND


def test_model_that_paints_is_refused(host, tmp_path):
    model = load(host, tmp_path, make_unet("one_head_count", in_channels=4))
    with pytest.raises(ValueError, match="cannot segment"):
        host.config_of(model)


def test_missing_image_raises(host, tmp_path, words):
    import comfy.sample
    import comfy.samplers

    model = load(host, tmp_path, make_unet("one_head_count"))
    euler, sigmas, empty = comfy.samplers.sampler_object("euler"), torch.tensor([10.0, 1.0]), torch.zeros(SHAPE)
    wrong_size = {"concat_latent_image": torch.zeros(2, 4, 4, 4)}
    for extra, message in (({}, "without an image"), (wrong_size, "image latent is")):
        positive = [[words, extra]]
        with pytest.raises(ValueError, match=message):
            comfy.sample.sample_custom(model, empty, 1.0, euler, sigmas, positive, positive, empty, disable_pbar=True)


def test_nan_is_an_error(host, tmp_path, words, image_latents):
    unet = make_unet("one_head_count")
    model = load(host, tmp_path, unet, scheduler=SCHEDULERS["v"])
    with pytest.raises(RuntimeError, match="NaN"):
        host.sample(model, words * float("nan"), image_latents, torch.zeros(SHAPE), ddim_schedule(SCHEDULERS["v"], 1))
