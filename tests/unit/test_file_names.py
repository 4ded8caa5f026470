"""Names of files made of prompts and photos."""

from __future__ import annotations

import itertools

import pytest

from digseg_nodes.core.file_names import LONGEST, check_prefix, safe_names, word_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["red circle", "dog"], ["red_circle", "dog"]),
        (["Straße", "红圆"], ["Straße", "红圆"]),
        (["traffic light", "b-2"], ["traffic_light", "b-2"]),
    ],
)
def test_plain_names_stay_readable(names, expected):
    assert word_names(names) == expected


@pytest.mark.parametrize("stem", ["IMG 001.2", "photo (1)", "a+b", "a#b"])
def test_names_that_every_system_takes_stay_as_they_are(stem):
    assert safe_names([stem]) == [stem]


@pytest.mark.parametrize(
    "names",
    [
        ["C++", "C#"],
        ["a/b", "a b", "a_b"],
        ["Cat", "cat", "CAT"],
        ["caf\u00e9", "cafe\u0301"],
        ["ﬁsh", "fish"],
        ["x" * 300, "x" * 299 + "y"],
        ["红" * 100 + "a", "红" * 100 + "b"],
        ["\ud800", "\udfff"],
        ["!", "?", "...", "_"],
        ["a.", "a", "a "],
    ],
)
def test_different_names_get_different_files_where_case_does_not_count(names):
    for order in itertools.permutations(names):
        made = word_names(order)
        assert len({name.casefold() for name in made}) == len(names)
        assert dict(zip(order, made, strict=True)) == dict(zip(names, word_names(names), strict=True))


@pytest.mark.parametrize(
    "name", ["CON", "nul", "com1.txt", "..", ".hidden", "a/../../b", "C:\\x", "a\0b", "tab\there", "x" * 5000, ""]
)
def test_every_name_is_legal_everywhere(name):
    (made,) = safe_names([name])
    assert made and not set(made) & set('<>:"/\\|?*\0\t') and made[0] != "." and made[-1] not in ". "
    assert made.casefold().partition(".")[0] not in ("con", "nul", "com1")
    assert len(made.encode()) <= LONGEST


def test_photos_of_one_stem_are_told_apart_by_their_whole_names():
    made = safe_names(["a", "a", "b"], ["a.jpg", "a.png", "b.jpg"])
    assert made[2] == "b" and len(set(made)) == 3


@pytest.mark.parametrize("prefix", ["a\0b", "y" * 250, "x" * 5000, "a/" * 1000, "ü" * 61, "a\\" + "b" * 121])
def test_a_prefix_that_no_file_can_have_is_refused(prefix):
    with pytest.raises(ValueError, match="cannot be used; names of folders and files"):
        check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "labels/scene", "x" * 120, "%date:yyyy%/map"])
def test_other_prefixes_pass(prefix):
    check_prefix(prefix)
