"""What all commands share."""

import sys
from io import BytesIO, TextIOWrapper

from train.settings.command import run


def test_letters_that_a_console_lacks_are_written_as_escapes(monkeypatch):
    bytes_out = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(bytes_out, encoding="cp1252"))
    run("x", lambda: print("été 圆", flush=True))
    assert bytes_out.getvalue().strip() == b"\xe9t\xe9 \\u5706"
