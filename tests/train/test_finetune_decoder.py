"""The command that gives a checkpoint a mask decoder: every kind of checkpoint, exact resume, both decoders side by side."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from digseg_nodes.core.checkpoint import open_checkpoint
from tests.train.helpers import EPSILON_SCHEDULER, folder_dataset, tiny_base
from train.convert import main as convert
from train.finetune_decoder import main
from train.learning import decoder_pairs
from train.learning.decoder_loop import DecoderTrainer
from train.learning.loop import Trainer
from train.learning.resume import ResumeError, latest_state, load_state, save_state
from train.learning.run_lock import sole_training
from train.learning.run_log import TIMING, read_log
from train.networks.engine import open_segmenter
from train.settings.decoder_config import DecoderSettings, settings_from
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random model of several steps from Gaussian noise."""
    return tiny_base(tmp_path_factory.mktemp("model") / "model.safetensors", in_channels=8, scheduler=EPSILON_SCHEDULER)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photos twice as large as the model's resolution."""
    return folder_dataset(tmp_path_factory.mktemp("photos"), size=(96, 128))


def options(model: Path, photos: Path, output: Path, **more) -> dict:
    few = {"images": 3, "prompts": 2, "variants": 1, "steps": 6, "photos": 2, "masks": 2, "crop": 64, "validate_images": 2}
    return {"checkpoint": model, "data": photos, "output": output, "cpu": True, "save_every": 2, "log_every": 1, **few, **more}


def run(model: Path, photos: Path, output: Path, **more) -> DecoderTrainer:
    trainer = DecoderTrainer(settings_from(options(model, photos, output, **more)))
    trainer.run()
    return trainer


def lines(output: Path) -> list[dict]:
    """The log, without what differs between two runs of the same steps."""
    return read_log(output / "log.jsonl", timing=False)


def line_of(values: dict) -> list[str]:
    """Options as a command line."""
    parts = [part for key, value in values.items() if key != "cpu" for part in (f"--{key.replace('_', '-')}", str(value))]
    return [*parts, "--cpu"]


@pytest.mark.timeout(300)
def test_command_writes_a_checkpoint_that_is_the_old_one_with_a_decoder(model, photos, tmp_path, capsys):
    main(line_of(options(model, photos, tmp_path / "run")))
    old, new = open_checkpoint(model), open_checkpoint(tmp_path / "run" / "digseg.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        before, after = old.state_dict(part), new.state_dict(part)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert new.config.mask_decoder["guide"] == 4.0 and new.mask_decoder() is not None
    assert new.config.default_steps == old.config.default_steps
    log = lines(tmp_path / "run")
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4, 5, 6]
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert all({"loss", "lr", "grad_norm", *TIMING} < line.keys() and line["grad_norm"] > 0 for line in steps)
    assert all(line["samples_per_second"] * line["seconds_per_step"] == pytest.approx(2, rel=0.01) for line in steps)
    assert {"validation", "validation_vae"} <= log[-1].keys()
    assert log[-1]["validation"]["groups"].keys() == log[-1]["validation_vae"]["groups"].keys()
    assert "put it into ComfyUI/models/digseg/" in capsys.readouterr().out
    assert "Decoded by the VAE instead" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
def test_the_decoder_of_a_checkpoint_that_has_one_is_trained_further(model, photos, tmp_path):
    first = run(model, photos, tmp_path / "first", steps=2)
    second = run(tmp_path / "first" / "digseg.safetensors", photos, tmp_path / "second", steps=2)
    before, after = first.decoder.state_dict(), second.decoder.state_dict()
    assert before.keys() == after.keys()
    assert not all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.timeout(300)
def test_stopped_and_continued_equals_uninterrupted_bit_for_bit(model, photos, tmp_path):
    straight = run(model, photos, tmp_path / "straight")
    run(model, photos, tmp_path / "stopped", steps=6)  # the whole schedule, then back to the state of step 4
    state = latest_state(tmp_path / "stopped" / "checkpoints")
    state.unlink()
    (tmp_path / "stopped" / "digseg.safetensors").unlink()
    shutil.rmtree(tmp_path / "stopped" / "pairs")  # made again, the same
    continued = run(model, photos, tmp_path / "stopped")
    for name, weight in straight.decoder.state_dict().items():
        assert torch.equal(weight, continued.decoder.state_dict()[name]), name
    assert lines(tmp_path / "straight") == lines(tmp_path / "stopped")
    first, second = (load_state(latest_state(tmp_path / name / "checkpoints"))[0] for name in ("straight", "stopped"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_runs_folder_is_refused(model, photos, tmp_path):
    run(model, photos, tmp_path, steps=2)
    with pytest.raises(ResumeError, match="noise"):
        run(model, photos, tmp_path, steps=4, noise=0.5)


def stopped_while_predicting(model: Path, photos: Path, output: Path, **more) -> None:
    """A run that ends, as by Ctrl+C, before its second photo."""
    whole = decoder_pairs.predicted_pair

    def until_second(engine, sample, settings, number, texts):
        if number:
            raise KeyboardInterrupt
        return whole(engine, sample, settings, number, texts)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoder_pairs, "predicted_pair", until_second)
        run(model, photos, output, **more)
    assert len(list((output / "pairs").iterdir())) == 1


def retrained(model: Path, path: Path) -> Path:
    """Another model's weights in the file `path`, as large as those of `model`."""
    tiny_base(path, in_channels=8, scheduler=EPSILON_SCHEDULER, seed=7)
    assert path.stat().st_size == model.stat().st_size
    return path


@pytest.mark.timeout(300)
def test_predictions_of_another_model_data_or_settings_are_not_gone_on_with(model, photos, tmp_path):
    mine, output = Path(shutil.copy(model, tmp_path / "model.safetensors")), tmp_path / "run"
    stopped_while_predicting(mine, photos, output)
    other_data = folder_dataset(tmp_path / "other", size=(96, 128), seed=3)
    other_model = retrained(model, tmp_path / "other.safetensors")
    for named, values in {
        "checkpoint was model.safetensors .*, now other.safetensors": (other_model, photos, {}),
        "components was None, now model.safetensors": (mine, photos, {"components": model}),
        "data was": (mine, other_data, {}),
        r"settings: guide was 4.0, now 2.0\. Choose another --output, or delete the folder": (mine, photos, {"guide": 2}),
        r"settings: images was 3, now 4\. ": (mine, photos, {"images": 4}),
    }.items():
        changed, data, more = values
        with pytest.raises(ResumeError, match=named):
            run(changed, data, output, **more)
    assert run(mine, photos, output, steps=2).step_number == 2


@pytest.mark.timeout(300)
def test_a_checkpoint_retrained_in_its_place_is_noticed_with_and_without_a_state(model, photos, tmp_path):
    mine = Path(shutil.copy(model, tmp_path / "model.safetensors"))
    stopped_while_predicting(mine, photos, tmp_path / "stopped")
    run(mine, photos, tmp_path / "done", steps=2)
    retrained(model, mine)
    for name in ("stopped", "done"):
        with pytest.raises(
            SystemExit, match=r"predictions of another model.*checkpoint was model.safetensors \w+, now model.saf"
        ):
            main(line_of(options(mine, photos, tmp_path / name, steps=2)))


def test_a_folder_of_an_older_version_is_gone_on_with_and_a_damaged_note_named(model, photos, tmp_path):
    stopped_while_predicting(model, photos, tmp_path)
    (tmp_path / "pairs.json").unlink()
    stopped = next((tmp_path / "pairs").iterdir())
    written = stopped.stat().st_mtime_ns
    run(model, photos, tmp_path, steps=1)
    assert stopped.stat().st_mtime_ns == written and (tmp_path / "pairs.json").is_file()
    (tmp_path / "pairs.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResumeError, match=r"pairs.json.* cannot be read .*delete the folder"):
        run(model, photos, tmp_path, steps=1)


def test_a_refused_run_leaves_no_note_in_an_older_folder(model, photos, tmp_path):
    run(model, photos, tmp_path, steps=1)
    (tmp_path / "pairs.json").unlink()
    with pytest.raises(ResumeError, match=r"guide was 4\.0, now 2\.0"):
        run(model, photos, tmp_path, steps=1, guide=2)
    assert run(model, photos, tmp_path, steps=1).step_number == 1


def test_a_folder_in_use_and_one_that_cannot_be_are_named(model, photos, tmp_path):
    with sole_training(tmp_path), pytest.raises(SystemExit, match=rf"going on in .*: process {os.getpid()} on"):
        main(line_of(options(model, photos, tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["running.lock"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match=r"--output: .*file cannot be written to: it is a file"):
        main(line_of(options(model, photos, tmp_path / "file")))


def test_a_damaged_state_is_named_with_what_to_do(model, photos, tmp_path):
    run(model, photos, tmp_path, steps=2)
    path = latest_state(tmp_path / "checkpoints")
    tensors, values = load_state(path)
    del tensors[next(name for name in tensors if name.startswith("mask_decoder."))]
    save_state(path.parent, 2, tensors, values, keep=1)
    with pytest.raises(SystemExit, match=r"step-00000002.safetensors cannot be gone on from.*Delete it"):
        main(line_of(options(model, photos, tmp_path, steps=4)))


def test_full_memory_is_told_with_this_commands_options(model, photos, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DecoderTrainer, "step", full)
    with pytest.raises(SystemExit, match=r"The memory is full: CUDA out of memory.*--masks.*goes on from the last state"):
        main(line_of(options(model, photos, tmp_path)))


@pytest.mark.timeout(300)
def test_loss_falls(model, photos, tmp_path):
    run(model, photos, tmp_path, steps=60, validate_images=1, noise=0.0)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["one step", "overlay", "folder", "ldm", "unet"])
def test_every_kind_of_checkpoint_gets_one(kind, model, photos, tmp_path):
    edits = {"one step": ["initial_noise=zero", "default_steps=1"], "overlay": ["mask_target=overlay"]}
    layout = {"ldm": ["--to", "ldm"], "unet": ["--to", "unet"]}.get(kind, [])
    source = tmp_path / ("source" if kind == "folder" else "source.safetensors")
    convert([str(model), str(source), *layout, *(["--set", *edits[kind]] if kind in edits else [])])
    more = {"components": model} if kind == "unet" else {}
    run(source, photos, tmp_path / "run", steps=2, **more)
    made = tmp_path / "run" / "digseg.safetensors"
    engine = open_segmenter(made, more.get("components"), device="cpu").engine
    assert engine.mask_decoder is not None
    assert open_checkpoint(made).config.initial_noise == ("zero" if kind == "one step" else "gaussian")


@pytest.mark.timeout(300)
def test_lora_gets_its_own_and_the_checkpoint_none(config_file, base, photos, tmp_path):
    full = Trainer(load_config(config_file, ["steps=1", "objective=end_to_end", f"output={tmp_path / 'full'}"]))
    full.run()
    model = tmp_path / "full" / "digseg.safetensors"
    lora = [f"base={model}", "lora={rank: 2}", "steps=1", "objective=end_to_end", f"output={tmp_path / 'lora'}"]
    Trainer(load_config(config_file, lora)).run()
    adapters = tmp_path / "lora" / "digseg-lora.safetensors"
    trainer = run(model, photos, tmp_path / "run", steps=2, lora=adapters)
    engine = open_segmenter(model, lora=tmp_path / "run" / "digseg.safetensors", device="cpu").engine
    assert open_segmenter(model, lora=adapters, device="cpu").engine.mask_decoder is None
    found = engine.networks.mask_decoder.state_dict()
    assert all(torch.equal(weight.half().float(), found[name].float()) for name, weight in trainer.decoder.state_dict().items())


def test_options_out_of_range_are_named():
    with pytest.raises(ConfigError, match="--guide"):
        settings_from({"checkpoint": "a", "data": "b", "guide": "0"})
    assert DecoderSettings(checkpoint="a/model.safetensors", data="b").run_folder == Path("output/runs/model-decoder")
