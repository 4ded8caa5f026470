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


@pytest.mark.parametrize("words", ["mixed_precision: no", "export: {title: off}", "gradient_checkpointing: yes"])
def test_yes_and_no_are_words_where_a_word_is_expected(config_file, words):
    text = config_file.read_text(encoding="utf-8").replace("export: {dtype: fp32}\n", "")
    config_file.write_text(f"{text}{words}\n", encoding="utf-8")
    config = load_config(config_file, ["mixed_precision=no", "channels_last=on", "tensorboard=false"])
    assert (config.mixed_precision, config.channels_last, config.tensorboard) == ("no", True, False)
    assert config.export.title == ("off" if "title" in words else "DiGSeg")
    assert config.gradient_checkpointing == ("gradient" in words)


def test_classes_named_with_words_that_yaml_takes_for_switches(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("train: {type: folder, images: i, masks: m, classes: {no: 'no', On: [2024-05-01]}}\n", encoding="utf-8")
    assert load_data(path).train[0].classes == {"no": ["no"], "On": ["2024-05-01"]}


@pytest.mark.parametrize(
    "text", ["train:\n  type: demo\nname: a\ntrain:\n  type: demo\n", "train:\n- {type: demo,\n   seed: 1,\n   seed: 2}\n"]
)
def test_a_key_that_is_there_twice_is_an_error_with_both_lines(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(text, encoding="utf-8")
    expected = "lines 1 and 4: train is" if "name" in text else r"lines 3 and 4: train\.0\.seed is"
    with pytest.raises(ConfigError, match=expected):
        load_data(path)


def test_merged_keys_are_no_repetition(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("common: &c {type: demo, seed: 1}\ntrain: {<<: *c, seed: 2}\n", encoding="utf-8")
    assert load_data(path).train[0].seed == 2


def test_files_in_other_encodings(tmp_path):
    path = tmp_path / "data.yaml"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes("name: été\ntrain: {type: demo}\n".encode(encoding))
        assert load_data(path).name == "été"
    path.write_bytes("train: {type: demo}\nname: été\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"line 2: the file is not UTF-8 text .*0xe9"):
        load_data(path)


def test_the_home_folder_in_every_path(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "d.yaml").write_text("train: {type: binary, root: ~/set, images: a, masks: b, name: c}\n", encoding="utf-8")
    config = load_config(config_file, ["data=~/d.yaml", "output=~/runs", "cache=~/cache", "components=~/c"])
    assert config.data.train[0].root == tmp_path / "set"
    assert (config.output, config.cache, config.components) == (tmp_path / "runs", tmp_path / "cache", tmp_path / "c")
