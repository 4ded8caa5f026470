"""Every layout in the wild opens and computes what diffusers computes: folders, variants, shards, LDM names, dtypes."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldDepthPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import pil_to_tensor
from transformers import CLIPTokenizer

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from digseg_nodes.core.ddim import initial_noise
from digseg_nodes.core.ldm_names import translate, unet_modules, vae_modules
from digseg_nodes.core.mask_targets import unblend
from digseg_nodes.core.prompts import parse_prompts
from digseg_nodes.core.schedule import ddim_schedule
from tests.parity.builders import (
    SCHEDULERS,
    UNETS,
    config_for,
    deviation,
    make_text,
    make_unet,
    make_vae,
    reference_ddim,
    write_checkpoint,
)
from train.networks.layouts import write_ldm

BOUND = 1e-4
SCALE = 0.18215


@pytest.fixture(scope="module")
def networks():
    return make_unet("one_head_width"), make_vae(), make_text("small2")


def save_marigold(folder, networks, scheduler=SCHEDULERS["v_zero_snr"], **options):
    """A folder written by diffusers' own MarigoldDepthPipeline. Returns the pipeline."""
    unet, vae, text = networks
    tokenizer = CLIPTokenizer.from_pretrained(_clip_vocabulary())
    pipe = MarigoldDepthPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_config(scheduler),
        default_denoising_steps=4,
        default_processing_resolution=64,
    )
    pipe.save_pretrained(folder, **options)
    return pipe


def _clip_vocabulary() -> str:
    """CLIP's tokenizer files, as ComfyUI carries them."""
    import comfy.sd1_clip

    return comfy.sd1_clip.SDTokenizer().tokenizer.name_or_path


@pytest.mark.parametrize(
    "options", [{}, {"variant": "fp16"}, {"max_shard_size": "2MB"}, {"variant": "fp16", "max_shard_size": "2MB"}]
)
def test_folder_of_marigold_pipeline(host, tmp_path, networks, options):
    pipe = save_marigold(tmp_path / "model", networks, **options)
    opened = open_checkpoint(tmp_path / "model")
    assert opened.components == ("unet", "vae", "text_encoder")
    assert (opened.config.default_steps, opened.config.resolution) == (4, 64)
    assert len(opened.parts["unet"].files) > 1 or "max_shard_size" not in options
    model, clip, vae = host.load_model(opened), host.load_clip(opened), host.load_vae(opened)

    picture = Image.effect_noise((48, 64), 80).convert("RGB")
    noise = initial_noise(3, 0, (1, 4, 8, 6))
    depth = pipe(picture, latents=noise, output_type="pt", processing_resolution=64, ensemble_size=1).prediction
    pixels = pil_to_tensor(picture)[None] / 255
    empty = host.encode_text(clip, "")[:, :2]  # the pipeline's empty text is not padded
    schedule = ddim_schedule(opened.config.scheduler, 4)
    latents = host.sample(model, empty, host.encode_image(vae, pixels), noise, schedule)
    ours = (host.decode(vae, latents).mean(1, keepdim=True) * 0.5 + 0.5).clamp(0, 1)
    assert deviation(ours, depth) <= BOUND


def test_marigold_v1_names_and_spacing(host, tmp_path, networks):
    """Marigold v1.0: old names in the VAE's attention, leading spacing with an offset, no task in model_index.json."""
    scheduler = {**SCHEDULERS["v"], "timestep_spacing": "leading", "steps_offset": 1}
    save_marigold(tmp_path / "model", networks, scheduler)
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {k.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for k, v in tensors.items()}
    assert any("proj_attn" in k for k in tensors)
    save_file(tensors, file)
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"_class_name": "MarigoldPipeline"}), "utf-8")

    opened = open_checkpoint(tmp_path / "model")
    unet, vae, _ = networks
    AutoencoderKL.from_config(opened.config.vae).load_state_dict(opened.state_dict("vae"))
    latents, words = torch.randn(1, 4, 8, 8) / SCALE, torch.randn(1, 77, 64)
    assert deviation(host.decode(host.load_vae(opened), latents * SCALE), vae.decode(latents * SCALE).sample) <= BOUND
    noise, schedule = initial_noise(1, 0, (1, 4, 8, 8)), ddim_schedule(opened.config.scheduler, 5)
    assert schedule.timesteps == [801, 601, 401, 201, 1]
    ours = host.sample(host.load_model(opened), words, latents, noise, schedule) * SCALE
    assert deviation(ours, reference_ddim(unet, words, latents * SCALE, noise, scheduler, 5)) <= BOUND


def test_cocogold_folder(host, tmp_path, networks):
    """The whole path of a model that paints masks white onto the photo: image and text to un-blended mask."""
    from digseg_nodes.core import inference

    save_marigold(tmp_path / "model", networks, SCHEDULERS["v"])
    opened = open_checkpoint(tmp_path / "model", mask_target="overlay")
    model, clip, vae = host.load_model(opened), host.load_clip(opened), host.load_vae(opened)
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts, settings = parse_prompts("a red circle"), inference.SamplerSettings(steps=4)
    engine, look = host.HostEngine(model, clip, vae), inference.ImageSettings()
    found = inference.segment(engine, photo.movedim(1, -1), prompts, settings, look)

    unet, plain_vae, text = networks
    tokenizer = CLIPTokenizer.from_pretrained(_clip_vocabulary(), pad_token="!")  # noqa: S106
    tokens = tokenizer("a red circle", padding="max_length", max_length=77)
    image = plain_vae.encode(photo * 2 - 1).latent_dist.mean * SCALE
    noise = initial_noise(0, 0, tuple(image.shape))
    latents = reference_ddim(unet, text(torch.tensor([tokens.input_ids]))[0], image, noise, SCHEDULERS["v"], 4)
    reference = unblend(plain_vae.decode(latents / SCALE).sample, photo)
    assert deviation(found.soft[0], reference) <= 10 * BOUND  # divided by the photo's distance to white, 0.05 and more


def test_folder_errors_say_what_to_do(host, tmp_path, networks):
    folder = tmp_path / "model"
    save_marigold(folder, networks, max_shard_size="2MB")
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps({**index, "prediction_type": "depth"}), "utf-8")
    with pytest.raises(CheckpointError, match="Marigold model for depth: it was trained without text"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, mask_target="overlay").config.mask_target == "overlay"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionInstructPix2PixPipeline"}), "utf-8")
    with pytest.raises(CheckpointError, match="InstructPix2Pix model: it paints"):
        open_checkpoint(folder)
    plain = (folder / "unet" / "config.json").read_text("utf-8")
    for change, said in (
        ({"addition_embed_type": "text_time"}, "SDXL"),
        ({"in_channels": 4}, "plain text-to-image model"),
        ({"in_channels": 9}, "inpainting model"),
    ):
        (folder / "unet" / "config.json").write_text(json.dumps({**json.loads(plain), **change}), "utf-8")
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(folder, mask_target="binary")
    (folder / "unet" / "config.json").write_text(plain, "utf-8")
    next((folder / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of its"):
        open_checkpoint(folder, mask_target="binary")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match="noise schedule is unknown"):
        open_checkpoint(folder, mask_target="binary")
    (folder / "unet" / "config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(folder, mask_target="binary")
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"without unet/config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("layout", [name for name in UNETS if not name.startswith("sd")])
def test_ldm_names_are_the_hosts(host, layout):
    """Our table of the original names agrees with the host's own for every tensor."""
    import comfy.utils

    unet = make_unet(layout)
    native, _ = host.host_layout(dict(unet.config))
    theirs, modules = comfy.utils.unet_to_diffusers(native), unet_modules(dict(unet.config))
    assert {k: translate(k, modules) for k in unet.state_dict()} == {k: theirs[k] for k in unet.state_dict()}


def test_vae_in_ldm_names_is_the_same_vae(host, networks):
    """ComfyUI reads the renamed tensors as an ordinary VAE, every one of them."""
    import comfy.sd

    _, vae, _ = networks
    modules = vae_modules(dict(vae.config))
    layout = host.vae_layout(dict(vae.config), "x")
    tensors = {
        translate(k, modules): v.reshape(*v.shape, 1, 1) if ".attn" in translate(k, modules) and v.ndim == 2 else v
        for k, v in vae.state_dict().items()
    }
    ours = comfy.sd.VAE(sd=dict(tensors), config=layout, dtype=torch.float32)
    assert set(ours.first_stage_model.state_dict()) == set(tensors)
    latents = torch.randn(1, 4, 8, 8)
    assert deviation(host.decode(ours, latents), vae.decode(latents).sample) <= BOUND


def test_original_names(host, tmp_path, networks):
    """A file in the original Stable Diffusion names loads as MODEL, CLIP and VAE and computes the very same."""
    unet, vae, text = networks
    opened = write_checkpoint(tmp_path / "a.safetensors", unet, vae, text, SCHEDULERS["v"])
    write_ldm(tmp_path / "ldm.safetensors", {c: opened.state_dict(c) for c in opened.components}, opened.config, {})
    ldm = open_checkpoint(tmp_path / "ldm.safetensors")
    schedule, noise, latents = ddim_schedule(SCHEDULERS["v"], 2), initial_noise(0, 0, (1, 4, 8, 8)), torch.randn(1, 4, 8, 8)
    masks = []
    for checkpoint in (opened, ldm):
        words = host.encode_text(host.load_clip(checkpoint), "a red circle")
        found = host.sample(host.load_model(checkpoint), words, latents, noise, schedule)
        masks.append(host.decode(host.load_vae(checkpoint), found))
    assert torch.equal(*masks)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        ("default", 1e-4),
        ("fp32", 1e-4),
        ("fp16", 5e-3),
        ("bf16", 4e-2),
        ("fp8_e4m3fn", 0.3),
        ("fp8_e4m3fn_fast", 0.3),
        ("fp8_e5m2", 0.6),
    ],
)
def test_weight_dtypes(host, tmp_path, networks, dtype, bound):
    unet, scheduler = networks[0], SCHEDULERS["v"]
    model = host.load_model(write_checkpoint(tmp_path / "u.safetensors", unet, scheduler=scheduler), dtype)
    stored = {p.dtype for p in model.model.diffusion_model.parameters()}
    assert stored == {host.WEIGHT_DTYPES[dtype] or torch.float32}
    noise, words, latents = initial_noise(1, 0, (1, 4, 8, 8)), torch.randn(1, 77, 64), torch.randn(1, 4, 8, 8) / SCALE
    ours = host.sample(model, words, latents, noise, ddim_schedule(scheduler, 4)) * SCALE
    assert deviation(ours, reference_ddim(unet, words, latents * SCALE, noise, scheduler, 4)) <= bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_files_in_other_precisions(host, tmp_path, networks, dtype):
    """The file's weights, rounded as they are, run in the host's own precision."""
    unet, scheduler = networks[0], SCHEDULERS["v"]
    rounded = {k: v.to(dtype) for k, v in unet.state_dict().items()}
    save_checkpoint(tmp_path / "u.safetensors", {"unet": rounded}, config_for(unet, scheduler=scheduler), title="r")
    model = host.load_model(open_checkpoint(tmp_path / "u.safetensors"))
    reference = UNet2DConditionModel.from_config(dict(unet.config)).eval().requires_grad_(False)
    reference.load_state_dict({k: v.float() for k, v in rounded.items()})
    noise, words, latents = initial_noise(1, 0, (1, 4, 8, 8)), torch.randn(1, 77, 64), torch.randn(1, 4, 8, 8) / SCALE
    ours = host.sample(model, words, latents, noise, ddim_schedule(scheduler, 4)) * SCALE
    assert deviation(ours, reference_ddim(reference, words, latents * SCALE, noise, scheduler, 4)) <= BOUND


def test_unet_that_the_host_cannot_run_is_refused(host, tmp_path):
    unet = make_unet("one_head_count")
    opened = write_checkpoint(tmp_path / "u.safetensors", unet)
    opened.config.unet["act_fn"] = "gelu"
    with pytest.raises(CheckpointError, match="act_fn='gelu'; ComfyUI's U-Net has 'silu' built in"):
        host.load_model(opened)


def test_damaged_unet_is_refused(host, tmp_path):
    unet = make_unet("one_head_count")
    tensors, config = unet.state_dict(), config_for(unet)
    lacking = {k: v for k, v in tensors.items() if k != "conv_out.bias"}
    save_checkpoint(tmp_path / "a.safetensors", {"unet": lacking}, config, title="r")
    with pytest.raises(CheckpointError, match=r"lacks 1 of \d+ U-Net tensors, for example out\.2\.bias"):
        host.load_model(open_checkpoint(tmp_path / "a.safetensors"))
    save_checkpoint(tmp_path / "b.safetensors", {"unet": {**tensors, "extra": torch.zeros(1)}}, config, title="r")
    with pytest.raises(CheckpointError, match="1 U-Net tensors do not fit its config, for example extra"):
        host.load_model(open_checkpoint(tmp_path / "b.safetensors"))
    narrow = {**tensors, "conv_in.weight": tensors["conv_in.weight"][:, :4].contiguous()}
    save_checkpoint(tmp_path / "c.safetensors", {"unet": narrow}, config, title="r")
    with pytest.raises(CheckpointError, match=r"U-Net is \[32, 4, 3, 3\]; by its config it is \[32, 8, 3, 3\]"):
        host.load_model(open_checkpoint(tmp_path / "c.safetensors"))


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_damaged_vae_and_text_encoder_are_refused(host, tmp_path, networks, part):
    """The host itself would go on with the numbers its network was initialised with."""
    load, module = {"vae": (host.load_vae, networks[1]), "text_encoder": (host.load_clip, networks[2])}[part]
    unet, tensors = networks[0].state_dict(), module.state_dict()
    gone = next(k for k in reversed(tensors) if k.endswith(".weight"))
    for number, damaged in enumerate(({k: v for k, v in tensors.items() if k != gone}, {**tensors, "extra": torch.zeros(1)})):
        file = tmp_path / f"{number}.safetensors"
        save_checkpoint(file, {"unet": unet, part: damaged}, config_for(*networks), title="r")
        with pytest.raises(CheckpointError, match=rf"{number}\.safetensors: its {part.replace('_', ' ').replace('vae', 'VAE')}"):
            load(open_checkpoint(file))
