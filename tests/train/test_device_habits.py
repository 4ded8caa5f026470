"""TF32, pinned memory, torch.compile: settings that are recorded, and what they do as far as a CPU can show it."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data._utils.pin_memory import pin_memory

from tests.train.test_trained import networks
from tests.train.test_trained import run as steps_of
from train.latents.batches import Batch
from train.learning.loop import Trainer
from train.learning.resume import ResumeError, latest_state, load_state
from train.learning.trained import Trained, check_compile
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError


@pytest.fixture(autouse=True)
def _flags():
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [([], False), (["tf32=true"], True), (["mixed_precision=bf16"], True), (["mixed_precision=bf16", "tf32=false"], False)],
)
def test_tf32_goes_with_mixed_precision_unless_it_is_set_and_is_recorded(config_file, settings, allowed):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not allowed
    trainer = Trainer(load_config(config_file, ["steps=1", *settings]))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    trainer.save()
    _, values = load_state(latest_state(trainer.config.output / "checkpoints"))
    assert values["config"]["tf32"] is allowed


def test_going_on_with_another_rounding_is_refused(config_file):
    Trainer(load_config(config_file, [])).save()
    with pytest.raises(ResumeError, match="tf32 was False, now True"):
        Trainer(load_config(config_file, ["tf32=true"])).resume()


def test_the_loader_pins_every_tensor_of_a_batch(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    image, mask, noise, text, timesteps = (torch.full((1,), float(number)) for number in range(5))
    (found,) = pin_memory([Batch(image=image, mask=mask, noise=noise, text=text, timesteps=timesteps)])
    assert isinstance(found, Batch) and found.valid is None
    assert sorted(float(tensor) for tensor in pinned) == [0, 1, 2, 3, 4]
    assert found.image is not image and torch.equal(found.image, image)


def test_a_compiled_network_trains_like_the_plain_one_and_goes_on_exactly(config_file):
    config = load_config(config_file, ["ema=0.5"])
    compiled = config.model_copy(update={"compile": True})
    plain, straight, first, second = (
        Trained(one, Accelerator(), networks("unet", "mask_decoder")) for one in (config, compiled, compiled, compiled)
    )
    for trained in (plain, straight):
        steps_of(trained, range(4))
    assert type(straight.called["unet"]).__name__ == "OptimizedModule" and plain.called["unet"] is plain.modules["unet"]
    for expected, found in zip(plain.parameters(), straight.parameters(), strict=True):
        assert torch.allclose(expected, found, atol=1e-5)
    steps_of(first, range(2))
    tensors, values = first.state()
    assert set(tensors) == set(plain.state()[0])  # under the networks' own names
    second.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    steps_of(second, range(2, 4))
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), second.parameters(), strict=True))


def test_a_machine_that_cannot_compile_says_so(config_file, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match=r"cannot run here \(RuntimeError: no C\+\+ compiler\).*compile: false"):
        check_compile(load_config(config_file, ["compile=true"]), torch.device("cpu"))
    check_compile(load_config(config_file, []), torch.device("cpu"))
