"""Text becomes prompts literally, and wrong text is named by line."""

from __future__ import annotations

import pytest

from digseg_nodes.core.prompts import Prompt, excluded_names, note_on_separators, parse_prompts, parse_thresholds


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("red  circle ", Prompt("red circle", ("red circle",))),
        ("car: automobile, sedan", Prompt("car", ("car", "automobile", "sedan"))),
        ("car:", Prompt("car", ("car",))),
        ("car: , car, sedan,", Prompt("car", ("car", "sedan"))),
        ("clock at 10:30", Prompt("clock at 10:30", ("clock at 10:30",))),
        ("(left) dog:1.5", Prompt("(left) dog:1.5", ("(left) dog:1.5",))),
        ("猫: 白猫", Prompt("猫", ("猫", "白猫"))),
        ("red circle：disc", Prompt("red circle", ("red circle", "disc"))),  # noqa: RUF001
        ("猫：白猫，黑猫、狸花猫", Prompt("猫", ("猫", "白猫", "黑猫", "狸花猫"))),  # noqa: RUF001
        ("clock at 10：30", Prompt("clock at 10：30", ("clock at 10：30",))),  # noqa: RUF001
        ("\ufeffred\u200b circle\u3000", Prompt("red circle", ("red circle",))),
        ("e\u0301te\u0301", Prompt("été", ("été",))),
        ("红，蓝", Prompt("红，蓝", ("红，蓝",))),  # noqa: RUF001
        ("a, b and c", Prompt("a, b and c", ("a, b and c",))),
        ("car: van: small, sedan", Prompt("car", ("car", "van: small", "sedan"))),
    ],
)
def test_one_line(line, expected):
    assert parse_prompts(line) == [expected]


def test_lines_keep_their_order_and_empty_ones_are_left_out():
    assert [p.name for p in parse_prompts("\nb\n\n  \na: x\r\nc")] == ["b", "a", "c"]


@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff\n\u200b"])
def test_empty_text(text):
    with pytest.raises(ValueError, match="The text is empty"):
        parse_prompts(text)


def test_a_name_twice_tells_both_lines():
    with pytest.raises(ValueError, match=r"'car' is named twice, on lines 1 and 3"):
        parse_prompts("car\nbus\ncar: truck")


def test_no_name_before_the_colon():
    with pytest.raises(ValueError, match=r"Line 2 .*no name before the colon"):
        parse_prompts("car\n: truck")


def test_thresholds():
    assert parse_thresholds("b: 0.25\n\n", ("a", "b"), 0.5) == [0.5, 0.25]
    assert parse_thresholds("", ("a",), 0.4) == [0.4]
    assert parse_thresholds("\ufeff猫：0.4\na: b: 0.2", ("猫", "a: b"), 0.5) == [0.4, 0.2]  # noqa: RUF001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog: 0.4", "no class 'dog'; there are: a, b"),
        ("a: much", "write a number"),
        ("a: 1.5", "not between 0 and 1"),
        ("a: nan", "not between 0 and 1"),
        ("a", "there is no colon"),
    ],
)
def test_wrong_thresholds_name_the_line(text, message):
    with pytest.raises(ValueError, match=f"Line 1 .*{message}"):
        parse_thresholds(text, ("a", "b"), 0.5)


def test_a_threshold_without_a_colon_is_told_how_to_be_written():
    with pytest.raises(ValueError, match=r"Line 1 \('person 0.4'\): there is no colon; write e.g. person: 0.4"):
        parse_thresholds("person 0.4", ["person", "car"], 0.5)


@pytest.mark.parametrize(
    "line", ["-eyes", "- eyes: pupils", "\u2212eyes", "\uff0d eyes", "\u2013 eyes", "\u2014eyes", "\u2011eyes"]
)
def test_a_line_with_a_minus_is_excluded_under_its_name(line):
    face, eyes = parse_prompts(f"face\n{line}")
    assert (face.excluded, eyes.excluded, eyes.name) == (False, True, "eyes")
    assert excluded_names([face, eyes]) == ("eyes",)


def test_nothing_but_excluded_lines_selects_nothing():
    with pytest.raises(ValueError, match="Every line starts with -"):
        parse_prompts("- cat\n- dog")
    with pytest.raises(ValueError, match="minus sign alone"):
        parse_prompts("face\n-")


@pytest.mark.parametrize("text", ["red circle, blue star", "cat | dog", "cat. dog.", "cat . dog", "红圆、蓝星"])
def test_one_line_that_looks_like_several_prompts_gets_a_note(text):
    prompts = parse_prompts(text)
    assert [prompt.name for prompt in prompts] == [text] and "one thing a line" in note_on_separators(prompts)


@pytest.mark.parametrize("text", ["red circle", "a 1.5 l bottle", "cat, dog\nbird", "car: automobile, sedan", "the end."])
def test_others_get_none(text):
    assert note_on_separators(parse_prompts(text)) == ""


@pytest.mark.parametrize("text", ["-", "face\n - ", "\u2014"])
def test_a_minus_alone_is_named(text):
    with pytest.raises(ValueError, match="is a minus sign alone"):
        parse_prompts(text)
