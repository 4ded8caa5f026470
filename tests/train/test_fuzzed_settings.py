"""Configuration files that something has gnawed at: read, or refused with a ConfigError; nothing else, and at once."""

import random
import time
from pathlib import Path

import pytest

from train.data.config import load_data
from train.settings.train_config import load_config
from train.settings.yaml_config import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "train" / "configs"
CASES, PATIENCE = 100, 10.0
TOKENS = [
    *(b"[", b"]", b"{", b"}", b": ", b"- ", b"? ", b"|", b">", b"\t", b"#", b"'", b'"', b"---\n", b"...\n", b"%YAML 3"),
    *(b"&a ", b"*a", b"<<: *a", b"&a [*a]", b"!!int ", b"!!float x", b"!!set {a}", b"!!binary aaaa", b"!!timestamp 2000-99-99"),
    *(b"null", b"~", b"true", b"no", b"[[]]", b"{}", b".inf", b".nan", b"1e400", b"9" * 50, b"9" * 5000, b"-1", b"0", b"0x"),
    *(b"\xff", b"\x00", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b'"\\ud800"', b"12:30:45"),
]  # fmt: skip


def gnawed(text: bytes, rng: random.Random) -> bytes:
    """A text with bytes cut out or changed, pieces of YAML put in, lines doubled and values replaced."""
    for _ in range(rng.randint(1, 6)):
        at, lines = rng.randrange(len(text) + 1), text.split(b"\n")
        line = rng.randrange(len(lines))
        key = lines[line].split(b":")[0]
        text = rng.choice(
            [
                text[:at] + text[at + rng.randint(1, 20) :],
                text[:at] + rng.choice(TOKENS) + text[at:],
                text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :],
                b"\n".join([*lines[:line], lines[rng.randrange(len(lines))], *lines[line:]]),
                b"\n".join([*lines[:line], key + b": " + rng.choice(TOKENS), *lines[line + 1 :]]),
            ]
        )
    return text


@pytest.mark.parametrize("seed", range(3))
def test_a_gnawed_file_is_read_or_refused(tmp_path, seed):
    rng, files, refused = random.Random(seed), sorted(CONFIGS.rglob("*.yaml")), 0
    for _ in range(CASES):
        original, path = rng.choice(files), tmp_path / "gnawed.yaml"
        path.write_bytes(gnawed(original.read_bytes(), rng))
        started = time.monotonic()
        try:
            (load_data if original.parent.name == "data" else load_config)(path)
        except ConfigError as error:
            assert "gnawed.yaml" in str(error) or "configuration file" in str(error)
            refused += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} of {path.read_bytes()!r}")
        assert time.monotonic() - started < PATIENCE
    assert CASES / 2 < refused < CASES  # some are read
