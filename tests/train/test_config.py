"""Configuration errors name the file, the line and the key."""

import pytest

from train.data.config import load_data
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError


def broken(config_file, old: str, new: str) -> str:
    config_file.write_text(config_file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config(config_file)
    return str(error.value)


def test_a_value_out_of_range(config_file):
    message = broken(config_file, "lr: 1.0e-3", "lr: -1")
    assert message.startswith(f"{config_file}, line 9: optimizer.lr:")
    assert "greater than 0" in message
    assert "-1" in message


def test_a_misspelt_key(config_file):
    assert "line 7: batchsize: unknown key" in broken(config_file, "batch_size", "batchsize")


def test_broken_yaml(config_file):
    assert "not valid YAML" in broken(config_file, "steps: 12", "steps: [12")


def test_overrides_replace_values_and_their_errors_say_command_line(config_file):
    config = load_config(config_file, ["steps=5", "optimizer.lr=0.5", "objective=end_to_end"])
    assert (config.steps, config.optimizer.lr, config.sampling_steps, config.initial_noise) == (5, 0.5, 1, "zero")
    with pytest.raises(ConfigError, match=r"command line: optimizer\.lr"):
        load_config(config_file, ["optimizer.lr=fast"])
    with pytest.raises(ConfigError, match="key=value"):
        load_config(config_file, ["steps"])


def test_errors_of_a_data_file_name_that_file(config_file, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\ntrain:\n  type: folder\n  images: photos\n", encoding="utf-8")
    message = broken(config_file, "data:", f"data: {bad}\n#")
    assert message.startswith(f"{bad}, line 2")
    assert "masks: missing" in message


def test_unknown_kind_of_source(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("train: {type: zip, images: a}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 1.*train.*folder"):
        load_data(path)


def test_paths_of_a_data_file_are_relative_to_it(data):
    assert load_data(data).train[0].images == data.parent / "images"
