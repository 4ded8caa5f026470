"""The list of trained networks: one optimizer, averages and states over all, each bounded and paced by itself."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from train.learning.trained import Trained
from train.settings.train_config import load_config


@pytest.fixture
def config(config_file):
    return load_config(config_file, ["ema=0.5"])


def networks(*names: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: nn.Linear(3, 2) for name in names}


def run(trained: Trained, steps: range, scale: float = 1.0) -> None:
    """Steps on made-up losses; `scale` makes the second network's gradients larger or smaller."""
    for step in steps:
        trained.set_learning_rates(step)
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        weights = dict(zip(trained.called, (10.0, scale), strict=False))
        sum(weights[name] * network(x).square().mean() for name, network in trained.called.items()).backward()
        trained.clip_gradients()
        trained.optimizer.step()
        trained.optimizer.zero_grad()
        trained.average()


def test_a_second_network_changes_nothing_about_the_first(config):
    alone = Trained(config, Accelerator(), networks("unet"))
    both = Trained(config, Accelerator(), networks("unet", "mask_decoder"), {"mask_decoder": 0.1})
    run(alone, range(4))
    run(both, range(4), scale=1e4)
    expected, found = (one.modules["unet"].weight for one in (alone, both))
    assert torch.equal(expected, found)
    assert torch.equal(alone.ema.shadow_params[0], both.ema.shadow_params[0])


def test_each_network_has_its_own_learning_rate(config):
    both = Trained(config, Accelerator(), networks("unet", "mask_decoder"), {"mask_decoder": 0.1})
    both.set_learning_rates(config.optimizer.warmup_steps)
    assert [group["lr"] for group in both.optimizer.param_groups] == [pytest.approx(1e-3), pytest.approx(0.1)]
    assert both.learning_rate == pytest.approx(1e-3)


def test_a_state_holds_all_networks_and_going_on_from_it_is_exact(config):
    straight, first, second = (Trained(config, Accelerator(), networks("unet", "mask_decoder")) for _ in range(3))
    run(straight, range(6))
    run(first, range(3))
    tensors, values = first.state()
    assert {"unet.weight", "mask_decoder.weight", "ema.3", "optimizer.3.exp_avg"} <= set(tensors)
    second.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    run(second, range(3, 6))
    for expected, found in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(expected, found)
    for expected, found in zip(straight.ema.shadow_params, second.ema.shadow_params, strict=True):
        assert torch.equal(expected, found)


def test_the_norm_is_of_all_networks_before_they_are_bounded(config):
    both = Trained(config, Accelerator(), networks("unet", "mask_decoder"))
    for weight in both.parameters():
        weight.grad = torch.full_like(weight, 2.0)
    count = sum(weight.numel() for weight in both.parameters())
    assert both.clip_gradients() == pytest.approx(2 * count**0.5)
    for module in both.modules.values():
        assert nn.utils.get_total_norm([w.grad for w in module.parameters()]) == pytest.approx(1.0, abs=1e-4)


def test_evaluating_shows_the_averages_and_gives_the_weights_back(config):
    both = Trained(config, Accelerator(), networks("unet", "mask_decoder"))
    run(both, range(2))
    weights, averages = ([one.clone() for one in many] for many in (both.parameters(), both.ema.shadow_params))
    with pytest.raises(KeyError), both.evaluating():
        assert all(torch.equal(a, b) for a, b in zip(both.parameters(), averages, strict=True))
        assert not any(module.training for module in both.modules.values())
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(both.parameters(), weights, strict=True))
    assert all(module.training for module in both.modules.values())
