"""The memory estimate: what is kept is exact, what a step adds reacts to the options, and it is said before the first step."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from train.learning.forecast import ATTENTION, Ledger, estimate
from train.learning.loop import Trainer
from train.learning.resume import optimizer_tensors
from train.memory import main
from train.settings.train_config import load_config


@pytest.fixture
def need(config_file):
    trainer = Trainer(load_config(config_file, []))

    def of(*overrides: str):
        return estimate(load_config(config_file, list(overrides)), trainer.networks.config)

    return of


def test_the_ledger_counts_what_is_alive():
    with FakeTensorMode(), Ledger() as ledger:
        a = torch.empty(1000)
        b = a + 1
        b[:10].add_(1)  # a view on the same storage
        del b
        c = a * 2 + 1
        assert (ledger.live, ledger.peak) == (8000, 12000)
        del a, c
        assert ledger.live == 0


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_what_is_kept_is_exact(config_file, need, kind):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    trainer = Trainer(load_config(config_file, [f"optimizer.kind={kind}"]))
    trainer.step(trainer.batches[0])
    found = need(f"optimizer.kind={kind}")
    networks = trainer.networks
    weights = [w for part in (networks.unet, networks.vae, networks.text_encoder) for w in part.parameters()]
    assert found.weights == pytest.approx(sum(weight.nbytes for weight in weights), rel=1e-3)
    assert found.averages == sum(tensor.nbytes for tensor in trainer.trained.ema.shadow_params)
    tensors = optimizer_tensors(trainer.trained.optimizer)[0]
    assert found.optimizer == sum(t.nbytes for name, t in tensors.items() if not name.endswith(("step", "qmap1", "qmap2")))


def test_every_option_moves_the_estimate_the_right_way(need):
    plain = need("batch_size=16")
    assert need("batch_size=32").step > 1.5 * plain.step
    assert need("batch_size=16", "gradient_checkpointing=true").step < 0.6 * plain.step
    assert need("batch_size=16", "mixed_precision=bf16").step < 0.8 * plain.step
    assert need("batch_size=16", "mixed_precision=fp16").step < 0.8 * plain.step
    assert need("batch_size=16", "ema=0").averages == 0
    lora = need("batch_size=16", "lora={rank: 4}")
    assert lora.optimizer < 0.2 * plain.optimizer
    assert lora.trained < 0.2 * plain.trained
    assert need("cache_latents=false").encoding > plain.encoding == 0
    assert need("encode_batch=16").filling > 2 * need("encode_batch=2").filling
    assert need("encode_batch=256").peak == need("encode_batch=256").filling
    pixel = need("objective=end_to_end", "end_to_end.loss=pixel")
    assert pixel.step > need("objective=end_to_end").step
    assert need("gradient_accumulation=2").flops == 2 * need().flops


def test_attention_on_a_cpu_counts_as_operations():
    heads, length, width = 2, 64, 8
    one = torch.zeros(1, heads, length, width)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        torch.nn.functional.scaled_dot_product_attention(one, one, one)
    assert counter.get_total_flops() == 2 * 2 * heads * length * length * width


def test_the_estimate_does_not_depend_on_when_python_collects_garbage(need):
    options = ("batch_size=16", "gradient_checkpointing=true")
    found = need(*options)
    gc.collect()
    gc.disable()
    try:
        assert need(*options) == found
    finally:
        gc.enable()


def test_it_is_said_before_the_first_step(config_file, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Trainer(load_config(config_file, [])).run()
    said = capsys.readouterr().out
    assert "million trained weights; memory about" in said
    assert "s a step, " in said


def test_the_command_needs_neither_data_nor_weights_in_memory(config_file, capsys):
    main(["--config", str(config_file), "batch_size=4"])
    assert "memory about" in capsys.readouterr().out
