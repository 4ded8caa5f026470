"""Masks and latents on the device against the CPU's in fp32, and calls that run out of memory."""

import pytest
import torch

from benchmarks import gpu
from train.latents.encoder import Encoder, power_of_two
from train.networks.bases import load_networks

LEAST_IOU = {"fp32": 0.999, "bf16": 0.97, "fp16": 0.99}
LEAST_ENCODED_IOU = {"bf16": 0.99, "fp16": 0.995}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(gpu, "SCENES", 1)
    monkeypatch.setattr(gpu, "ENCODED", 2)


@pytest.fixture
def vae(device, base):
    return load_networks(base).vae.to(device)


def test_masks_are_the_cpus(device):
    found = gpu.measure_parity(device)
    least = {precision: found[f"mask_iou_{precision}_to_cpu"]["min"] for precision in LEAST_IOU}
    assert all(least[precision] >= bound for precision, bound in LEAST_IOU.items()), least
    assert found["mask_difference_fp32_to_cpu"]["max"] <= 1e-2


def test_half_precision_of_the_encoder_does_not_harm_masks(device):
    found = gpu.measure_encoded_masks(device)
    least = {precision: found[f"encoded_mask_iou_{precision}_to_fp32"]["min"] for precision in LEAST_ENCODED_IOU}
    assert all(least[precision] >= bound for precision, bound in LEAST_ENCODED_IOU.items()), least
    assert 0 < found["encoded_error_fp16"]["max"] < found["encoded_error_bf16"]["max"] < 0.02


def test_calls_that_run_out_of_memory_are_halved(device):
    (found,) = gpu.measure_recovery(device).values()
    assert found["max"] <= 1e-4


def test_encoding_that_runs_out_of_memory_is_halved(device, vae):
    pixels, sizes = torch.rand(5, 3, 64, 64) * 2 - 1, []
    expected = Encoder(vae).encode(pixels, 5)

    def check(_module, arguments):
        sizes.append(len(arguments[0]))
        if len(arguments[0]) > 2:
            gpu.ask_for_too_much(device)

    hook = vae.encoder.register_forward_pre_hook(check)
    found = Encoder(vae).encode(pixels, 5)
    hook.remove()
    assert sizes == [5, 3, 2, 1, 2]
    assert torch.allclose(found, expected, atol=1e-3)
    assert found.device.type == device.type


def test_one_image_too_many_is_an_error(device, vae):
    hook = vae.encoder.register_forward_pre_hook(lambda *_: gpu.ask_for_too_much(device))
    with pytest.raises(torch.OutOfMemoryError):
        Encoder(vae).encode(torch.zeros(2, 3, 64, 64), 2)
    hook.remove()


def test_what_half_precision_overflows_is_encoded_in_float32(device, vae):
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = Encoder(vae).encode(pixels, 2)

    def overflow(_module, _arguments, out):
        return out.masked_fill(torch.ones_like(out, dtype=torch.bool), float("inf")) if out.dtype == torch.float16 else out

    hook = vae.quant_conv.register_forward_hook(overflow)
    found = Encoder(vae, "fp16").encode(pixels, 2)
    hook.remove()
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_batch_is_as_large_as_fits(device, vae):
    count = Encoder(vae).fits(64, fallback=5)
    assert count == 5 if device.type == "cpu" else count in (1, 2, 4, 8, 16, 32)
    assert [power_of_two(number) for number in (0, 1, 2, 3, 9, 32, 33, 1000)] == [1, 1, 2, 2, 8, 32, 32, 32]
