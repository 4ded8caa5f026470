"""Whatever stands on the command line, a command ends in one line and with a status, never in a traceback."""

import io
import os
import tarfile
import time

import pytest

from tests.train.helpers import tiny_base
from train.check_data import main as check_data
from train.convert import main as convert
from train.evaluate import main as evaluate
from train.exam import main as exam
from train.finetune_decoder import main as finetune_decoder
from train.memory import main as memory
from train.predict import main as predict

LONG, DIGITS = "y" * 5000, "9" * 5000
NO_PATH = {
    "nul": ("a\0b", "a path cannot hold the character NUL"),
    "surrogate": ("a\ud800b", "half a letter"),
    "long": (LONG, "too long for the file system"),
}
READ = [
    *((command, option) for command in ("predict", "evaluate") for option in ("--checkpoint", "--lora", "--components")),
    *(("finetune_decoder", option) for option in ("--checkpoint", "--data")),
    ("predict", "--images"), ("evaluate", "--data"), ("convert", "SOURCE"), ("convert", "--components"), ("convert", "--average"),
    ("memory", "--config"), ("exam", "--data-root"), ("check_data", "DATA"),
]  # fmt: skip
WRITTEN = [
    ("predict", "--output"),
    ("evaluate", "--report"),
    ("convert", "TARGET"),
    ("exam", "--report"),
    ("check_data", "--sheet"),
]
VALUES = [
    ("predict", "--steps", "1001", "--steps is 1001; use 1 to 1000"),
    ("predict", "--ensemble", "65", "--ensemble is 65; use 1 to 64"),
    ("predict", "--threshold", "nan", "--threshold is nan"),
    ("predict", "--resolution", "100000", "--resolution is 100000"),
    ("predict", "--tile", "1", "--tile is 1"),
    ("predict", "--seed", "-1", "--seed is -1"),
    ("predict", "--device", "meta", "--device meta cannot be used"),
    ("predict", "--device", "x", "--device x cannot be used"),
    ("predict", "--prompts", " ", "--prompts"),
    ("predict", "--prompts", "-", "--prompts"),
    ("predict", "--decoder", "guided", "has no mask decoder"),
    ("evaluate", "--images", "0", "--images is 0; use 1 to"),
    ("evaluate", "--batch-size", "0", "--batch-size is 0; use 1 to 4096"),
    ("evaluate", "--batch-size", "9" * 30, "--batch-size is 9"),
    ("convert", "--set", "default_steps=[", "is not valid YAML"),
    ("convert", "--set", f"threshold={DIGITS}", "holds a value that cannot be read"),
    ("convert", "--set", "threshold=*x", "undefined alias"),
    ("convert", "--set", "threshold=.nan", "threshold is nan"),
    ("convert", "--set", "title=\ud800", "half a letter"),
    ("convert", "--set", "²=1", "Cannot set '²=1'"),
    ("convert", "--set", "class_names=[1]", "class_names is"),
    ("convert", "--set", LONG, "(5000 characters)"),
    ("finetune_decoder", "--lr", "inf", "--lr: Input should be a finite number"),
    ("finetune_decoder", "--steps", "0", "--steps: must be 1 to"),
    ("finetune_decoder", "--guide", "100", "--guide: Input should be less"),
    ("check_data", "--sheet", "sheet.pdf", "expected a file ending in .png"),
]
MAINS = {
    "predict": predict, "evaluate": evaluate, "convert": convert, "exam": exam, "memory": memory, "check_data": check_data,
    "finetune_decoder": finetune_decoder,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("model") / "model.safetensors", in_channels=8)


@pytest.fixture
def line_of(tmp_path, model, data):
    """A good command line with one option changed."""
    good = {
        "predict": {"--checkpoint": model, "--images": data.parent / "images", "--prompts": "box", "--output": tmp_path / "out",
                    "--steps": 1, "--device": "cpu"},
        "evaluate": {"--checkpoint": model, "--data": data, "--report": tmp_path / "r.json", "--steps": 1, "--images": 1},
        "convert": {"SOURCE": model, "TARGET": tmp_path / "c.safetensors"},
        "exam": {"--checkpoint": model, "--data-root": tmp_path, "--report": tmp_path / "e.json"},
        "memory": {"--config": "x.yaml"},
        "check_data": {"DATA": data},
        "finetune_decoder": {"--checkpoint": model, "--data": data, "--output": tmp_path / "dec", "--steps": 1, "--images": 1},
    }  # fmt: skip

    def line(command: str, option: str, value: object) -> list[str]:
        words = []
        for name, given in {**good[command], option: value}.items():
            words += [str(given)] if name.isupper() else [name, str(given)]
        return words + (["--cpu"] if command in ("evaluate", "exam", "finetune_decoder") else [])

    return line


def message_of(command: str, line: list[str]) -> str:
    """What a command that refuses says: one line, soon."""
    started = time.monotonic()
    with pytest.raises(SystemExit) as end:
        MAINS[command](line)
    assert time.monotonic() - started < 30  # a second or two, on a machine that does nothing else
    assert isinstance(end.value.code, str), f"ended with status {end.value.code}"
    assert "\n" not in end.value.code and len(end.value.code) < 1000
    return end.value.code


@pytest.mark.parametrize("kind", NO_PATH)
@pytest.mark.parametrize(("command", "option"), READ + [row for row in WRITTEN if row[0] != "check_data"])
def test_what_can_be_no_path_is_named(line_of, command, option, kind):
    value, words = NO_PATH[kind]
    assert words in message_of(command, line_of(command, option, value))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize(("command", "option"), READ)
def test_a_pipe_is_not_opened(line_of, tmp_path, command, option):
    os.mkfifo(tmp_path / "pipe.safetensors")
    message_of(command, line_of(command, option, tmp_path / "pipe.safetensors"))


@pytest.mark.parametrize(("command", "option"), READ)
def test_what_is_not_there_is_named(line_of, tmp_path, command, option):
    assert "nowhere" in message_of(command, line_of(command, option, tmp_path / "nowhere"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize(("command", "option"), WRITTEN)
def test_a_pipe_or_device_is_not_replaced(line_of, tmp_path, command, option):
    """Files are written beside their target and then renamed: root would have put one in the place of /dev/null."""
    pipe = tmp_path / "pipe.png" if option == "--sheet" else tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert pipe.name in message_of(command, line_of(command, option, pipe))
    assert pipe.is_fifo()


@pytest.mark.parametrize(("command", "option"), [("evaluate", "--report"), ("exam", "--report")])
def test_a_folder_in_the_place_of_a_file_is_named(line_of, tmp_path, command, option):
    assert "it is a folder" in message_of(command, line_of(command, option, tmp_path))


@pytest.mark.parametrize(("command", "option", "value", "words"), VALUES, ids=[f"{r[0]}-{r[1]}-{r[2][:20]!r}" for r in VALUES])
def test_a_value_that_cannot_be_is_named(line_of, command, option, value, words):
    assert words in message_of(command, line_of(command, option, value))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nowhere.png\n", "1 of 1 photos could not be segmented"),
        (LONG.encode(), "1 of 1 photos could not be segmented"),
        (b"a\0b.png\n", "1 of 1 photos could not be segmented"),
        (b"\xff\xfe\0", "is not UTF-8 text"),
        (b"", "holds no photos"),
    ],
)
def test_a_list_of_photos_is_read_or_refused(line_of, tmp_path, content, words):
    (tmp_path / "list.txt").write_bytes(content)
    assert words in message_of("predict", line_of("predict", "--images", tmp_path / "list.txt"))


def test_a_tar_leads_nowhere(line_of, tmp_path, data):
    """Names above the folder, absolute ones, links and pipes in a shard: results stay in the output folder."""
    content = next((data.parent / "images").iterdir()).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../../evil.png", "/evil.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("pipe.png", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    before = set(tmp_path.iterdir())
    predict(line_of("predict", "--images", tmp_path / "a.tar"))
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    assert len(list((tmp_path / "out/masks/box").iterdir())) == 2
