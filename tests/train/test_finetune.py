"""The command itself: training, exact resume after SIGKILL, export, evaluation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from digseg_nodes.core.checkpoint import CheckpointError, open_checkpoint
from tests.train.helpers import folder_dataset, tiny_base
from train.learning.loop import Trainer
from train.learning.loss import end_to_end_loss
from train.learning.resume import ResumeError, latest_state, load_state, save_state
from train.learning.run_log import read_log
from train.networks.bases import load_networks
from train.networks.lora import merge_lora
from train.settings.train_config import load_config

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(script: str, *arguments) -> list[str]:
    return [sys.executable, str(ROOT / "train" / script), *map(str, arguments)]


def finetune(config_file: Path, *overrides: str) -> subprocess.CompletedProcess:
    line = command("finetune.py", "--config", config_file, *overrides)
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def losses(run: Path) -> list[dict]:
    """The log, without what differs between two runs of the same steps."""
    return read_log(run / "log.jsonl", timing=False)


def kill_at(config_file: Path, run: Path, step: int) -> None:
    """Start the command and SIGKILL it once `step` steps are logged."""
    line = command("finetune.py", "--config", config_file, f"output={run}")
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if (run / "log.jsonl").is_file() and len(losses_or_less(run)) >= step:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr.read().decode()


def losses_or_less(run: Path) -> list[str]:
    return (run / "log.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.timeout(900)  # four starts of the command
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_and_continued_equals_uninterrupted_bit_for_bit(config_file, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert finetune(config_file, f"output={straight}").returncode == 0
    for step in (4, 8):
        kill_at(config_file, killed, step)
    result = finetune(config_file, f"output={killed}")
    assert result.returncode == 0, result.stderr
    assert "continuing from" in result.stdout
    assert losses(killed) == losses(straight)
    for expected, found in zip(*(load_state(latest_state(run / "checkpoints")) for run in (straight, killed)), strict=True):
        if isinstance(expected, dict) and any(isinstance(v, torch.Tensor) for v in expected.values()):
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("objective", ["diffusion", "end_to_end"])
def test_export_opens_and_holds_the_averaged_weights(config_file, objective):
    trainer = Trainer(load_config(config_file, ["steps=3", f"objective={objective}"]))
    trainer.run()
    checkpoint = open_checkpoint(trainer.config.output / "digseg.safetensors")
    expected = (1, "zero") if objective == "end_to_end" else (10, "gaussian")
    assert (checkpoint.config.default_steps, checkpoint.config.initial_noise) == expected
    assert checkpoint.config.class_names == ["box", "disc"]
    assert checkpoint.config.resolution == 64
    saved = checkpoint.state_dict("unet")
    names = [name for name, _ in trainer.networks.unet.named_parameters()]
    assert all(torch.equal(saved[name], shadow) for name, shadow in zip(names, trainer.trained.ema.shadow_params, strict=True))
    trained = dict(trainer.networks.unet.named_parameters())
    assert not torch.equal(saved["conv_in.weight"], trained["conv_in.weight"])
    assert set(checkpoint.components) == {"unet", "vae", "text_encoder"}


END_TO_END = {"alpha_bar": 0.0, "prediction_type": "v_prediction", "pixel_weight": 0.5}


@pytest.mark.parametrize("loss", ["pixel", "both"])
def test_pixel_losses_reach_the_unet(config_file, loss):
    trainer = Trainer(
        load_config(config_file, ["objective=end_to_end", f"end_to_end.loss={loss}", "end_to_end.pixel_weight=0.5"])
    )
    (batch,) = trainer.batches[0]
    with torch.no_grad():
        parts = {
            kind: float(end_to_end_loss(trainer.networks.unet, batch, vae=trainer.networks.vae, kind=kind, **END_TO_END))
            for kind in ("latent", "pixel")
        }
    before = trainer.networks.unet.conv_in.weight.detach().clone()
    value = float(trainer.step([batch]))
    assert value == pytest.approx(parts["pixel"] if loss == "pixel" else parts["latent"] + 0.5 * parts["pixel"], rel=1e-4)
    assert parts["pixel"] != pytest.approx(parts["latent"], rel=0.01)
    assert not torch.equal(before, trainer.networks.unet.conv_in.weight)
    assert all(parameter.grad is None for parameter in trainer.networks.vae.parameters())


def test_training_learns_a_tiny_set(config_file):
    overrides = ["objective=end_to_end", "steps=24", "batch_size=4", "optimizer.lr=5e-3", "optimizer.decay=constant"]
    trainer = Trainer(load_config(config_file, overrides))
    trainer.run()
    values = [line["loss"] for line in losses(trainer.config.output)]
    assert sum(values[-5:]) < 0.6 * sum(values[:5])


def test_accumulated_steps_equal_one_large_batch(config_file):
    def stepped(*overrides):
        trainer = Trainer(load_config(config_file, ["optimizer.max_grad_norm=null", *overrides]))
        loss = trainer.step(trainer.batches[0])
        return trainer.networks.unet.conv_in.weight.detach(), float(loss)

    (one, loss), (other, mean) = stepped("batch_size=4"), stepped("batch_size=2", "gradient_accumulation=2")
    assert torch.allclose(one, other, atol=1e-6)
    assert mean == pytest.approx(loss, rel=1e-4)


def test_other_settings_need_another_run_folder(config_file):
    Trainer(load_config(config_file, ["steps=3"])).run()
    with pytest.raises(ResumeError, match="batch_size was 2, now 3"):
        Trainer(load_config(config_file, ["batch_size=3"])).run()


def test_a_state_from_before_a_setting_existed_goes_on_with_its_default(config_file):
    Trainer(load_config(config_file, ["steps=3"])).run()
    trainer = Trainer(load_config(config_file, ["steps=5"]))
    path = latest_state(trainer.config.output / "checkpoints")
    tensors, values = load_state(path)
    del values["config"]["optimizer"]["kind"], values["config"]["noise"]["annealed"], values["config"]["cache_latents"]
    save_state(path.parent, 3, tensors, values, keep=1)
    trainer.run()
    assert [line["step"] for line in losses(trainer.config.output) if "loss" in line] == [1, 2, 3, 4, 5]


def test_a_run_says_when_its_data_have_changed(config_file, tmp_path, capsys):
    data = f"data={folder_dataset(tmp_path / 'own')}"
    Trainer(load_config(config_file, [data, "steps=2"])).run()
    first = capsys.readouterr().out
    assert "images, 0 without any mask" in first  # the account
    Trainer(load_config(config_file, [data, "steps=2"])).run()
    printed = capsys.readouterr().out
    assert "nothing was left to do: the run ended at step 2" in printed
    assert "changed" not in printed
    mask = tmp_path / "own/masks/box/000.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    for steps, advice in ((2, "Nothing was trained on it"), (2, "Nothing was trained on it"), (3, "The run goes on with it")):
        Trainer(load_config(config_file, [data, f"steps={steps}"])).run()
        printed = capsys.readouterr().out
        assert "the training data have changed since step 2: of 4 photos some have other pixels" in printed
        assert advice in printed
    Trainer(load_config(config_file, [data, "steps=4"])).run()
    assert "changed" not in capsys.readouterr().out  # step 3 was trained on it


def test_only_the_last_states_are_kept_and_half_written_ones_never_read(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"x": torch.full((2,), float(step))}, {"step": step}, keep=2)
    (tmp_path / "step-00000009.tmp").write_bytes(b"half")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [f"step-0000000{i}.safetensors" for i in (2, 3)]
    assert load_state(latest_state(tmp_path))[1] == {"step": 3}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_state_is_readable_as_the_umask_says_and_clears_what_a_killed_writer_left(tmp_path):
    (tmp_path / "step-00000009.safetensors.1-ab.tmp").write_bytes(b"half")
    (tmp_path / "plain").touch()
    path = save_state(tmp_path, 1, {"x": torch.ones(2)}, {}, keep=1)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(one.name for one in tmp_path.iterdir()) == ["plain", "step-00000001.safetensors"]


def test_a_full_disk_is_explained_and_leaves_the_previous_state(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"x": torch.ones(2)}, {}, keep=1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.learning.resume.save_file", full)
    with pytest.raises(ResumeError, match="Free some disk space"):
        save_state(tmp_path, 2, {"x": torch.ones(2)}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files")
@pytest.mark.parametrize("first_written", ["state", "best checkpoint"])
def test_a_run_that_cannot_write_says_so_and_goes_on_from_the_previous_state(config_file, first_written):
    import resource

    every = f"validation.every={4 if first_written == 'best checkpoint' else 100}"
    trainer = Trainer(load_config(config_file, [every]))
    trainer.resume()
    for step in range(3):
        trainer.step(trainer.batches[step])
    trainer.save()
    folder = trainer.config.output / "checkpoints"
    state = latest_state(folder).read_bytes()
    result = subprocess.run(
        command("finetune.py", "--config", config_file, every),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),  # a disk with room for a MiB a file
    )
    assert result.returncode == 1
    assert "Free some disk space" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in folder.iterdir()] == ["step-00000003.safetensors"]
    assert latest_state(folder).read_bytes() == state
    assert finetune(config_file, every).returncode == 0
    assert losses(trainer.config.output)[-1]["step"] == 12


def test_a_wrong_setting_ends_in_one_line(config_file):
    result = finetune(config_file, "steps=many")
    assert result.returncode == 1
    assert "command line: steps" in result.stderr
    assert "Traceback" not in result.stderr


VARIANTS = {
    "channels_last": ["channels_last=true"],
    "lora": ["lora={rank: 4, alpha: 2}"],
    "bf16": ["mixed_precision=bf16", "gradient_accumulation=2", "gradient_checkpointing=true"],
    "adamw_8bit": ["optimizer.kind=adamw_8bit"],
    "adamw_not_fused": ["optimizer.fused=false"],
    "fresh": ["cache_latents=false", "augment.variants=1", "workers=1"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_continuing_is_exact_in_every_variant(config_file, tmp_path, variant):
    overrides = VARIANTS[variant]
    if variant == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    if variant == "lora":
        overrides = [*overrides, f"base={tiny_base(tmp_path / 'eight.safetensors', in_channels=8)}"]
    assert_continuing_is_exact(config_file, tmp_path, overrides)


def test_continuing_is_exact_when_the_clock_was_set_back(config_file, tmp_path):
    """Everything that the first part wrote is then from the future."""
    ahead = time.time() + 365 * 86400

    def set_back():
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".safetensors" for path in written)
        assert any("cache" in path.parts for path in written)
        for path in written:
            os.utime(path, (ahead, ahead))

    assert_continuing_is_exact(config_file, tmp_path, [f"cache={tmp_path / 'cache'}"], between=set_back)


def assert_continuing_is_exact(config_file, tmp_path, overrides, between=lambda: None):
    """Six steps at once, and three, then what `between` does, then three."""
    straight = Trainer(load_config(config_file, ["steps=6", f"output={tmp_path / 'a'}", *overrides]))
    straight.run()
    first = Trainer(load_config(config_file, ["steps=6", f"output={tmp_path / 'b'}", *overrides]))
    first.resume()
    for step in range(3):
        first.step(first.batches[step])
    first.save()
    between()
    second = Trainer(load_config(config_file, ["steps=6", f"output={tmp_path / 'b'}", *overrides]))
    second.resume()
    assert second.progress.step == 3, "from the start it would be exact as well"
    second.run()
    for expected, found in zip(straight.trained.parameters(), second.trained.parameters(), strict=True):
        assert torch.equal(expected, found)
    for expected, found in zip(straight.trained.ema.shadow_params, second.trained.ema.shadow_params, strict=True):
        assert torch.equal(expected, found)


def test_a_lora_file_merged_into_its_base_equals_the_trained_model(config_file, tmp_path):
    base = tiny_base(tmp_path / "eight.safetensors", in_channels=8)
    settings = ["steps=3", f"base={base}", "lora={rank: 4, alpha: 2}", "optimizer.lr=0.01"]
    trainer = Trainer(load_config(config_file, settings))
    trainer.run()
    file = trainer.config.output / "digseg-lora.safetensors"
    assert file.stat().st_size < 0.2 * base.stat().st_size
    merged, plain = load_networks(base).unet.eval(), load_networks(base).unet.eval()
    merge_lora(merged, file)
    inputs = (torch.randn(1, 8, 8, 8), 999, torch.randn(1, 77, 16))
    with trainer.trained.averaged(), torch.no_grad():
        expected = trainer.networks.unet.eval()(*inputs).sample
        assert torch.allclose(merged(*inputs).sample, expected, atol=1e-5)
        assert not torch.allclose(plain(*inputs).sample, expected, atol=1e-4)


@pytest.mark.parametrize("beside", [False, True])
def test_a_lora_has_the_strength_that_its_file_says(tmp_path, beside):
    """alpha in diffusers' metadata, or in peft's adapter_config.json beside the file: as the node takes it."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    unet = load_networks(tiny_base(tmp_path / "eight.safetensors", in_channels=8)).unet
    weight = unet.get_submodule(layer).weight
    down, up, before = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4), weight.detach().clone()
    path = tmp_path / ("adapter_model.safetensors" if beside else "lora.safetensors")
    said = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 1.0})}
    tensors = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    save_file(tensors, path, None if beside else said)
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 1.0}))
    merge_lora(unet, path)
    assert torch.allclose(weight - before, up @ down / 4, atol=1e-5)
    save_file({**tensors, f"unet.{layer}.dora_scale": torch.ones(1)}, tmp_path / "dora.safetensors")
    with pytest.raises(CheckpointError, match="only plain LoRAs"):
        merge_lora(unet, tmp_path / "dora.safetensors")


def test_a_lora_on_a_text_to_image_base_is_refused(config_file):
    with pytest.raises(CheckpointError, match="text-to-image base"):
        Trainer(load_config(config_file, ["lora={rank: 4}"]))


@pytest.mark.parametrize(
    ("setting", "said"),
    [("target=overlay", "Set `target: binary`"), ("prediction_type=epsilon", "Leave `prediction_type` out")],
)
def test_a_lora_for_another_kind_of_model_than_its_base_is_refused(config_file, tmp_path, setting, said):
    base = tiny_base(tmp_path / "eight.safetensors", in_channels=8)
    with pytest.raises(CheckpointError, match=said):
        Trainer(load_config(config_file, [f"base={base}", "lora={rank: 4}", setting]))


def test_steps_are_not_lost_when_the_validation_fails(config_file, monkeypatch):
    def out_of_memory(*_):
        raise RuntimeError("out of memory")

    trainer = Trainer(load_config(config_file, ["steps=8", "validation.every=5", "checkpoints.every=100"]))
    monkeypatch.setattr("train.learning.validator.sample_masks", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert latest_state(trainer.config.output / "checkpoints").name.startswith("step-00000005")


def test_the_best_file_says_after_how_many_steps_it_was(config_file):
    trainer = Trainer(load_config(config_file, ["steps=4", "validation.every=2", "optimizer.lr=1e-12"]))
    trainer.run()
    descriptions = [
        open_checkpoint(trainer.config.output / f"{name}.safetensors").metadata["modelspec.description"]
        for name in ("best", "digseg")
    ]
    assert [" 2 steps from" in descriptions[0], " 4 steps from" in descriptions[1]] == [True, True]


def test_masks_painted_on_the_photo(config_file):
    trainer = Trainer(load_config(config_file, ["steps=1", "target=overlay"]))
    trainer.run()
    assert open_checkpoint(trainer.config.output / "digseg.safetensors").config.mask_target == "overlay"
    asked = trainer.batches.sampler.table.rows
    parts = [part for step in range(12) for part in trainer.batches[step]]
    same = [torch.equal(mask, image) for part in parts for mask, image in zip(part.mask, part.image, strict=True)]
    assert any(same) and not all(same)
    assert np.array_equal(asked["mask"] < 0, asked["absent"] > 0), "nothing is painted where it is not there"


def test_tensorboard_gets_the_figures(config_file):
    trainer = Trainer(load_config(config_file, ["steps=2", "validation.every=2", "tensorboard=true"]))
    trainer.run()
    events = list((trainer.config.output / "tensorboard").rglob("events*"))
    assert any(b"validation/groups/seen/miou" in path.read_bytes() for path in events)


def test_augmented_versions_are_cached_like_images(config_file):
    trainer = Trainer(load_config(config_file, ["augment.variants=2"]))
    rows = trainer.batches.sampler.table.rows
    assert len(set(rows["place"].tolist())) == 3 * 4
    latents = trainer.batches.rows[0].images.read(np.unique(rows["image"]))
    assert len(latents) == len(latents.flatten(1).unique(dim=0)) == 3 * 4, "no two are the same"


def test_validation_takes_its_images_evenly_from_all(config_file):
    trainer = Trainer(load_config(config_file, []))  # two of four
    [source], samples = trainer.validator.sources, trainer.validator._encoded()
    for taken, one in zip((0, 2), samples, strict=True):
        assert np.array_equal(one.sample.image, source.sample(taken).image)


def test_a_run_without_improvement_stops_early_and_stays_stopped(config_file, capsys):
    settings = ["steps=40", "validation.every=2", "validation.patience=2", "optimizer.lr=1e-12"]
    first = Trainer(load_config(config_file, settings))
    first.run()
    assert first.progress.step < 40
    assert first.progress.since_best == 2
    assert "no better validation for 2 of them: stopped before the end" in capsys.readouterr().out
    assert (first.config.output / "digseg.safetensors").is_file()
    log = losses(first.config.output)
    again = Trainer(load_config(config_file, settings))
    again.run()
    assert losses(first.config.output) == log
