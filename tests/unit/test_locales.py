"""Every language says everything that English says, and says it."""

from __future__ import annotations

import json

import pytest

import dev

LOCALES = dev.ROOT / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.is_dir())


def leaves(words: dict, prefix: tuple = ()) -> dict[tuple, str]:
    """{path of keys: text}."""
    found = {}
    for key, value in words.items():
        found |= leaves(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return found


def read(language: str, file: str) -> dict[tuple, str]:
    return leaves(json.loads((LOCALES / language / file).read_text(encoding="utf-8")))


def test_english_and_chinese_are_there():
    assert {"en", "zh"} <= set(LANGUAGES)


@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_same_keys_as_english_and_no_text_missing(language, file):
    words = read(language, file)
    assert set(words) == set(read("en", file))
    assert all(text.strip() for text in words.values())


@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
def test_chinese_is_chinese(file):
    english, chinese = read("en", file), read("zh", file)
    untranslated = [
        path
        for path, text in chinese.items()
        if path[-1] != "name" and (text == english[path] or not any("\u4e00" <= c <= "\u9fff" for c in text))
    ]
    assert not untranslated
