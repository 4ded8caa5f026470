"""Settings that cannot be: each ends in one line that says what was found and what is expected, never in a traceback."""

import time

import pytest
import yaml

from train.check_data import main as check_data
from train.finetune import main as finetune

DIGITS = "9" * 5000
DEEP = "[" * 100_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

OVERRIDES = [
    # numbers and their bounds
    ("steps=0", "steps: must be 1 to 99999999: states are named with eight digits"),
    ("steps=100000000", "steps: must be 1 to 99999999"),
    ("steps=1e9", "steps: Input should be a valid integer"),
    (f"steps={DIGITS}", "holds a value that cannot be read"),
    (f"steps=-{DIGITS}", "holds a value that cannot be read"),
    (f"steps=0x{DIGITS}", "a number of thousands of digits"),
    ("steps=.inf", "steps: Input should be a finite number"),
    ("steps=.nan", "steps: Input should be a finite number"),
    ("steps=1.5", "steps: Input should be a valid integer"),
    ("steps=many", "steps: Input should be a valid integer"),
    ("steps=", "steps: Input should be a valid integer"),
    ("steps=[1]", "steps: Input should be a valid integer"),
    ("steps={a: 1}", "steps: Input should be a valid integer"),
    ("batch_size=0", "batch_size: must be 1 to 4096"),
    ("batch_size=100000", "gradient_accumulation makes larger batches"),
    ("batch_size=-1", "batch_size: must be 1 to 4096"),
    ("gradient_accumulation=100000", "gradient_accumulation: must be 1 to 4096"),
    ("resolution=4088 batch_size=4096", "2^32 at most"),
    ("resolution=16", "resolution: must be 32 to 4096"),
    ("resolution=1000000000", "resolution: must be 32 to 4096: pixels"),
    ("resolution=65", "multiple of 8"),
    ("workers=100000", "workers: must be 0 to 256: each is a process"),
    ("workers=-1", "workers: must be 0 to 256"),
    ("augment.variants=100000000", "augment.variants: must be 0 to 1000: each is encoded and kept"),
    ("augment.flip=2", "augment.flip: Input should be less than or equal to 1"),
    ("augment.crop=0", "augment.crop: Input should be greater than 0"),
    ("augment.colour=.nan", "augment.colour: Input should be a finite number"),
    ("validation.steps=100000", "validation.steps: must be 1 to 1000: U-Net calls"),
    ("validation.every=0", "validation.every: must be 1 to"),
    ("validation.ensemble=1000", "validation.ensemble: must be 1 to 100"),
    ("validation.batch_size=0", "validation.batch_size: must be 1 to 4096"),
    ("validation.pictures=-1", "validation.pictures: must be 0 to 1000"),
    ("validation.images=0", "validation.images: must be 1 to"),
    ("validation.patience=0", "validation.patience: must be 1 to"),
    ("checkpoints.every=0", "checkpoints.every: must be 1 to"),
    ("checkpoints.keep=0", "checkpoints.keep: must be 1 to"),
    ("export.steps=100000", "export.steps: must be 1 to 1000"),
    ("export.threshold=1.5", "export.threshold: Input should be less than or equal to 1"),
    ("log_every=0", "log_every: must be 1 to"),
    ("encode_batch=0", "encode_batch: must be 1 to 4096"),
    ("seed=18446744073709551616", "seed: must be -9223372036854775808 to 18446744073709551615: a seed has 64 bits"),
    ("seed=x", "seed: Input should be a valid integer"),
    ("ema=1", "ema: Input should be less than 1"),
    ("ema=.nan", "ema: Input should be"),
    ("optimizer.lr=.inf", "optimizer.lr: Input should be a finite number"),
    ("optimizer.lr=.nan", "optimizer.lr: Input should be"),
    ("optimizer.lr=1e400", "optimizer.lr: Input should be a finite number"),
    ("optimizer.lr=0", "optimizer.lr: Input should be greater than 0"),
    ("optimizer.betas=[1, 0.9]", "optimizer.betas.0: Input should be less than 1"),
    ("optimizer.betas=[0.9]", "optimizer.betas.1: missing"),
    ("optimizer.betas=0.9", "optimizer.betas: Input should be a valid tuple"),
    ("optimizer.warmup_steps=1000000000", "optimizer.warmup_steps: must be 0 to"),
    ("optimizer.weight_decay=.inf", "optimizer.weight_decay: Input should be a finite number"),
    ("optimizer.max_grad_norm=0", "optimizer.max_grad_norm: Input should be greater than 0"),
    ("optimizer.kind=sgd", "optimizer.kind: Input should be 'adamw' or 'adamw_8bit'"),
    ("optimizer.final_lr_share=2", "optimizer.final_lr_share: Input should be less than or equal to 1"),
    ("optimizer=fast", "optimizer: Input should be a valid dictionary"),
    ("noise.high_from=1000", "noise.high_from: Input should be less than 1000"),
    ("noise.min_snr_gamma=.inf", "noise.min_snr_gamma: Input should be a finite number"),
    ("lora={rank: 100000}", "lora.rank: must be 1 to 1024"),
    ("lora={alpha: .inf}", "lora.alpha: Input should be a finite number"),
    ("lora=16", "lora: Input should be a valid dictionary"),
    ("mixed_precision=fp8", "mixed_precision: Input should be 'no', 'fp16' or 'bf16'"),
    # the form of an override
    ("steps=[", "on the command line is not valid YAML: line 1"),
    ("steps='", "is not valid YAML"),
    ("steps=*x", "undefined alias"),
    ("steps=!!python/object:os.system x", "could not determine a constructor"),
    ("steps=!!timestamp 2024-13-45", "holds a value that cannot be read"),
    ("steps=!!int x", "holds a value that cannot be read"),
    ("steps=!!int ", "is not what its tag"),
    ("steps=!!timestamp x", "is not what its tag"),
    ("steps=!!bool x", "is not what its tag"),
    (f"steps={DEEP}", "nested hundreds of levels deep"),
    ("steps=&a [*a]", "stands inside of what it stands for"),
    ('export.title="\\ud83d"', "half a character"),
    ("²=1", "²: unknown key"),
    ("=1", "unknown key"),
    ("steps", "not key=value"),
    ("steps.x=1", "there is no such key in the file"),
    (f"{DIGITS}=1", "unknown key"),
    ("optimizer.0.lr=1", "optimizer.0: Keys should be strings"),
    ("a.b.c=1", "a: unknown key"),
    # folders and files
    ("output=/dev/null", "output: /dev/null cannot be written to: it is a file"),
    ("output=/dev/null/run", "output: /dev/null/run cannot be written to: a part of the path is a file"),
    ("output={folder}/config.yaml", "config.yaml cannot be written to: it is a file"),
    ("output=" + "x" * 5000, "output: the path is too long"),
    ('output="a\\0b"', "output: a path cannot hold the character NUL"),
    ("output=/sys/run", "output: /sys/run cannot be written to"),
    ("output=", "output: Input is not a valid path"),
    ("cache=/dev/null", "cache: /dev/null cannot be written to"),
    ("cache=/sys/cache", "cache: /sys/cache cannot be written to"),
    ("base=nowhere.safetensors", "nowhere.safetensors"),
    ("base=" + "x" * 5000, "base: the path is too long"),
    ("base=7", "base: Input is not a valid path"),
    ("base=~nobody-of-this-name/x", "base: ~nobody-of-this-name/x"),
    ("data=nowhere.yaml", "There is no configuration file nowhere.yaml"),
    ("data=" + "x" * 5000, "the path is too long"),
    ("data=/dev/zero", "There is no configuration file /dev/zero"),
    ("data=", "data: Input should be a valid dictionary"),
    ("data=5", "data: Input should be a valid dictionary"),
    ("data=[]", "data: Input should be a valid dictionary"),
    ("data.train.type=zip", "data"),
]


def message_of(command, line: list[str]) -> str:
    """What a command that refuses says; it takes no longer than people wait."""
    started = time.monotonic()
    with pytest.raises(SystemExit) as end:
        command(line)
    assert time.monotonic() - started < 20  # two seconds, on a machine that does nothing else
    assert isinstance(end.value.code, str), f"ended with status {end.value.code}"
    return end.value.code


@pytest.mark.parametrize(("overrides", "words"), OVERRIDES, ids=[row[0][:40] for row in OVERRIDES])
def test_a_bad_override_ends_in_one_line(config_file, overrides, words):
    given = overrides.replace("{folder}", str(config_file.parent))
    parts = given.split(" ") if given.startswith("resolution") else [given]
    message = message_of(finetune, ["--config", str(config_file), *parts])
    assert words in message
    assert "\n" not in message and len(message) < 1000
    assert not (config_file.parent / "run" / "log.jsonl").exists()


FILES = [
    ("", "must hold `key: value` lines, found NoneType"),
    ("- a\n- b\n", "must hold `key: value` lines, found list"),
    ("just text", "must hold `key: value` lines, found str"),
    ("steps: [12\n", "is not valid YAML: line"),
    ("a: b: c\n", "is not valid YAML: line 1, column 5: mapping values are not allowed here"),
    ("\tsteps: 12\n", "is not valid YAML"),
    ("steps: 12\nsteps: 13\n", "is there twice"),
    ("steps: \x07\n", "is not valid YAML"),
    ("? [a]\n: b\n", "unhashable key"),
    (LAUGHS, "its aliases (*name) make more than 100000 values"),
    (MERGES, "its aliases (*name) make more than 100000 values"),
    ("a: &a\n  b: *a\n", "line 1: an alias (*name) stands inside of what it stands for"),
    ("a: &a [*a]\n", "stands inside of what it stands for"),
    (DEEP, "nested hundreds of levels deep"),
    ("{a: " * 20_000, "nested hundreds of levels deep"),
    (f"steps: {DIGITS}\n", "holds a value that cannot be read"),
    ("title: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    ("#" * (2**20 + 1), "has more than 1 MiB"),
    ("1: 2\n", "data: missing"),
]


@pytest.mark.parametrize(("text", "words"), FILES, ids=[row[0][:30] for row in FILES])
def test_a_bad_configuration_file_ends_in_one_line(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    message = message_of(finetune, ["--config", str(path)])
    assert words in message and path.name in message
    assert "\n" not in message and len(message) < 1000


FOLDER = "type: folder, images: images, masks: masks"
INDEX = "type: index, root: ., images: '*.png', masks: '{1}.png'"
DATA = [
    ("train: {type: zip}\n", "train.0"),
    ("train: 5\n", "train.0: Input should be a valid dictionary"),
    ("train: [5]\n", "train.0: Input should be a valid dictionary"),
    ("train: [{}]\n", "train.0"),
    (f"common: [{{{FOLDER}}}]\ntrain: {{}}\n", "common must hold `key: value` lines that all sources share, found list"),
    (f"common: folder\ntrain: {{{FOLDER}}}\n", "common must hold `key: value` lines that all sources share, found str"),
    (f"common: &c {{classes: *c}}\ntrain: {{{FOLDER}}}\n", "stands inside of what it stands for"),
    (f"common: {LAUGHS[3:40]}\ntrain: {{{FOLDER}}}\n", "common must hold"),
    (f"train: {{{FOLDER}, classes: 5}}\n", "classes: Input should be a valid dictionary"),
    (f"train: {{{FOLDER}, classes: [[a]]}}\n", "classes have names, found ['a']"),
    (f"train: {{{FOLDER}, classes: {{cat: 5}}}}\n", "classes.cat"),
    (f"train: {{{FOLDER}, templates: [a photo]}}\n", "has no {} where the class name goes"),
    (f"train: {{{FOLDER}, ignore: 300}}\n", "ignore: Input should be less than or equal to 255"),
    (f"train: {{{FOLDER}, limit: 0}}\n", "limit"),
    (f"train: {{{FOLDER}, weight: 0}}\n", "weight: Input should be greater than 0"),
    (f"train: {{{INDEX}, classes: [a, b], skip: 3}}\n", "skip must be a list of numbers, e.g. [3, 7], found 3"),
    (f"train: {{{INDEX}, classes: [a, b], skip: [[1]]}}\n", "skip must be a list of numbers, e.g. [3, 7], found [[1]]"),
    (f"train: {{{INDEX}, classes: [a, b], first: x}}\n", "first must be the number of the first class, found 'x'"),
    (f"train: {{{INDEX}, classes: [[a], b]}}\n", "classes have names, found ['a']"),
    (f"train: {{{INDEX}, classes: a}}\n", "classes"),
    (f"train: {{{INDEX}, preset: nowhere}}\n", "there is no preset 'nowhere'"),
    (f"train: {{{INDEX}, preset: [a]}}\n", "there is no preset ['a']"),
    ("train: {type: demo, scenes: 1000000000}\n", "scenes: must be 1 to"),
    ("train: {type: demo, size: 100000}\n", "size: must be 32 to 4096"),
    ("train: {type: demo, seed: -1}\n", "seed: must be 0 to"),
    ("train: {type: demo, weight: .inf}\n", "weight: Input should be a finite number"),
    ("validation: [{}, 7]\ntrain: {type: demo, scenes: -1}\n", "scenes"),
]


@pytest.mark.parametrize(("text", "words"), DATA, ids=[row[0][:60] for row in DATA])
def test_a_bad_data_file_ends_in_words(tmp_path, text, words):
    path = tmp_path / "data.yaml"
    path.write_text(text, encoding="utf-8")
    message = message_of(check_data, [str(path)])
    assert words in message and path.name in message


def test_anchors_that_stay_small_are_taken(config_file):
    text = config_file.read_text(encoding="utf-8").replace("optimizer: {", "optimizer: &o {")
    config_file.write_text(text.replace("steps: 12", "steps: &s 12").replace("log_every: 1", "log_every: *s"), encoding="utf-8")
    message = message_of(finetune, ["--config", str(config_file), "base=nowhere.safetensors"])
    assert "nowhere.safetensors" in message


def test_the_table_tells_laughs_from_what_people_write():
    assert len(yaml.safe_load(MERGES[: MERGES.index("e:")])) == 4


@pytest.mark.parametrize("path", ["/dev/zero", "/nowhere/x.yaml", "x" * 5000, "."])
def test_a_configuration_that_is_no_file_is_named(path):
    message = message_of(finetune, ["--config", path])
    assert ("configuration file" in message or "--config is" in message) and "\n" not in message
