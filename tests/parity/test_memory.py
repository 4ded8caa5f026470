"""Models are the host's to unload: its free_memory takes them off, sampling brings them back, nothing else holds them."""

import gc
import weakref

import torch
from safetensors.torch import save_file

from digseg_nodes.core.ddim import initial_noise
from digseg_nodes.core.schedule import ddim_schedule
from tests.parity.builders import SCHEDULERS, deviation, make_text, make_unet, make_vae, write_checkpoint
from tests.parity.lora_formats import FORMATS, random_lora


def loaded_networks(host) -> list:
    """The networks that the host has on its device."""
    return [entry.model.model for entry in host.mm.current_loaded_models if entry.model is not None]


def test_free_memory_unloads_and_sampling_brings_it_back(host, tmp_path):
    opened = write_checkpoint(tmp_path / "a.safetensors", make_unet("one_head_count"), make_vae(), scheduler=SCHEDULERS["v"])
    model, vae = host.load_model(opened), host.load_vae(opened)
    words, image, noise = torch.randn(1, 77, 64), torch.randn(1, 4, 8, 8), initial_noise(0, 0, (1, 4, 8, 8))

    def mask() -> torch.Tensor:
        return host.decode(vae, host.sample(model, words, image, noise, ddim_schedule(SCHEDULERS["v"], 2)))

    before = mask()
    assert any(network is model.model for network in loaded_networks(host))
    assert any(network is vae.first_stage_model for network in loaded_networks(host))
    host.mm.free_memory(1e30, model.load_device)
    assert loaded_networks(host) == []
    assert torch.equal(mask(), before)


def test_weights_that_do_not_fit_are_cast_layer_by_layer(host, tmp_path, monkeypatch):
    """What --novram does on a GPU: no weight stays on the device, LoRAs are added on the way. Same masks to rounding."""
    unet = make_unet("one_head_width")
    model = host.load_model(write_checkpoint(tmp_path / "u.safetensors", unet, scheduler=SCHEDULERS["v"]))
    save_file(FORMATS["peft"](random_lora(unet)), tmp_path / "lora.safetensors")
    model = host.apply_lora(model, tmp_path / "lora.safetensors")
    words, image, noise = torch.randn(1, 77, 64), torch.randn(1, 4, 8, 8), initial_noise(0, 0, (1, 4, 8, 8))

    def latents() -> torch.Tensor:
        return host.sample(model, words, image, noise, ddim_schedule(SCHEDULERS["v"], 2))

    before = latents()
    host.mm.unload_all_models()
    monkeypatch.setattr(host.mm, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(host.mm, "vram_state", host.mm.VRAMState.NO_VRAM)
    low = latents()
    assert model.model.model_lowvram
    assert model.lowvram_patch_counter() > 0
    assert deviation(low, before) <= 1e-4


def test_dropped_models_leave_nothing_behind(host, tmp_path):
    unet = make_unet("one_head_count")
    opened = write_checkpoint(tmp_path / "a.safetensors", unet, make_vae(), make_text(), scheduler=SCHEDULERS["v"])
    model, clip, vae = host.load_model(opened), host.load_clip(opened), host.load_vae(opened)
    image = host.encode_image(vae, torch.rand(1, 3, 64, 64))
    noise, schedule = initial_noise(0, 0, (1, 4, 8, 8)), ddim_schedule(SCHEDULERS["v"], 1)
    host.decode(vae, host.sample(model, host.encode_text(clip, "red"), image, noise, schedule))
    networks = [weakref.ref(network) for network in (model.model, clip.cond_stage_model, vae.first_stage_model)]
    del model, clip, vae
    host.mm.unload_all_models()
    gc.collect()
    assert [network() for network in networks] == [None, None, None]
