"""Every node's help page explains all of its inputs and outputs, in every language, and shows a picture that is there."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from tools.help import DOCS, HEADS, page_of, words_of

NODES = words_of("en")
PROSE = {"en": ("## Tips", "## When something is wrong"), "zh": ("## 提示", "## 出错时")}
"""Headings of what is written by hand, by language."""
PAGES = [(language, node) for language in PROSE for node in NODES]


def read(language: str, node: str) -> str:
    return page_of(node, language).read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """{heading: what stands below it}."""
    parts = re.split(r"^(## .*)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_page_for_every_node_and_no_other():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)
    others = {path.relative_to(DOCS).as_posix() for path in DOCS.glob("*/*.md")}
    assert others == {f"{node}/{language}.md" for node in NODES for language in PROSE if language != "en"}
    assert set(PROSE) == set(HEADS) == {path.name for path in (DOCS.parents[2] / "locales").iterdir()}


@pytest.mark.parametrize(("language", "node"), PAGES)
def test_page_is_complete(language, node):
    page, words = read(language, node), words_of(language)[node]
    assert page.startswith(f"# {words['display_name']}\n")
    (inputs, *_), (outputs, *_) = HEADS[language]
    assert list(sections(page)) == [f"## {inputs}", f"## {outputs}", *PROSE[language]]
    assert "▶" in page, "no small graph"
    for entry in [*words["inputs"].values(), *words["outputs"].values()]:
        assert f"| `{entry['name']}` |" in page, entry["name"]
        assert entry["tooltip"].replace("|", "/") in page, f"the page and the tooltip of {entry['name']} differ"


@pytest.mark.parametrize(("language", "node"), [page for page in PAGES if page[0] != "en"])
def test_a_translation_says_as_much_as_the_english_page(language, node):
    english, other = (sections(read(lang, node)) for lang in ("en", language))
    for theirs, ours in zip(PROSE["en"], PROSE[language], strict=True):
        assert other[ours].count("\n- ") == english[theirs].count("\n- "), "tips"
        assert other[ours].count("\n| ") == english[theirs].count("\n| "), "messages"
    written = re.sub(r"`[^`]*`|\|[^|\n]*\|", "", "".join(other[heading] for heading in PROSE[language]))
    assert language != "zh" or len(re.findall(r"[\u4e00-\u9fff]", written)) > 0.3 * len(re.findall(r"[A-Za-z]", written))


@pytest.mark.parametrize(("language", "node"), PAGES)
def test_pictures_are_there_and_small(language, node):
    """ComfyUI's page takes them from the folder of the English pages, whatever the language."""
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(language, node))
    assert names
    for name in names:
        assert (DOCS / name).stat().st_size < 200_000
        with Image.open(DOCS / name) as picture:
            assert min(picture.size) >= 200
