"""Pairs of photo and mask become a data set that training reads, and nothing that is there is lost."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from digseg_nodes.core.masks import Masks, of_photo
from digseg_nodes.core.training_pairs import DATA_FILE, Pair, PairError, check_class_name, make_pairs, save_pairs

SIZE = (24, 32)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def mask(left: int = 4) -> np.ndarray:
    out = np.zeros(SIZE, bool)
    out[4:12, left : left + 8] = True
    return out


def classes(folder) -> dict:
    [line] = [line for line in (folder / DATA_FILE).read_text("utf-8").splitlines() if line.startswith("  classes: ")]
    return json.loads(line.removeprefix("  classes: "))


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_pair_is_a_photo_a_mask_and_a_line_of_the_data_file(tmp_path):
    [name] = save_pairs(tmp_path / "set", [Pair(photo(), {"red cell": mask()})])
    assert np.array_equal(read(tmp_path / f"set/images/{name}.png"), photo())
    assert np.array_equal(read(tmp_path / f"set/masks/red cell/{name}.png"), mask() * np.uint8(255))
    assert classes(tmp_path / "set") == {"red cell": ["red cell"]}
    assert not list(tmp_path.rglob("*.tmp"))


def test_classes_of_one_photo_come_together_whenever_they_are_saved(tmp_path):
    first = save_pairs(tmp_path, [Pair(photo(), {"cell": mask()})])
    second = save_pairs(tmp_path, [Pair(photo(), {"a/b": mask(20)}), Pair(photo(1), {"a/b": mask() & False})])
    assert first[0] == second[0] != second[1] and len(list((tmp_path / "images").iterdir())) == 2
    listed = classes(tmp_path)
    assert list(listed.values()) == [["cell"], ["a/b"]] and (tmp_path / "masks" / list(listed)[1]).is_dir()
    assert not read(tmp_path / "masks" / list(listed)[1] / f"{second[1]}.png").any(), "empty: it is not here"


def test_nothing_is_overwritten_unless_the_id_is_given(tmp_path):
    [name] = save_pairs(tmp_path, [Pair(photo(), {"cell": mask()})])
    assert save_pairs(tmp_path, [Pair(photo(), {"cell": mask()})]) == [name], "the same again is no change"
    with pytest.raises(PairError, match=f"already saved with another mask of 'cell'.*Write {name} into pair_id"):
        save_pairs(tmp_path, [Pair(photo(1), {"cell": mask()}), Pair(photo(), {"cell": mask(20)})])
    assert len(list((tmp_path / "images").iterdir())) == 1, "nothing is written of a batch that cannot be saved whole"
    assert save_pairs(tmp_path, [Pair(photo(), {"cell": mask(20)})], name) == [name]
    assert np.array_equal(read(tmp_path / f"masks/cell/{name}.png") > 0, mask(20))
    with pytest.raises(PairError, match=f"The pair '{name}' in .* holds another photo"):
        save_pairs(tmp_path, [Pair(photo(1), {"cell": mask()})], name)


def test_ids_are_safe_file_names_and_a_batch_is_numbered(tmp_path):
    pairs = [Pair(photo(seed), {"cell": mask()}) for seed in range(2)]
    names = save_pairs(tmp_path / "set", pairs, "../../up")
    assert len(set(names)) == 2 and all(name.endswith(("-0001", "-0002")) for name in names)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "set/images", tmp_path / "set/masks/cell"}


def test_what_its_owner_wrote_into_the_data_file_stays(tmp_path):
    save_pairs(tmp_path, [Pair(photo(), {"cell": mask()})])
    path = tmp_path / DATA_FILE
    path.write_text(path.read_text("utf-8").replace("  masks: masks\n", "  masks: masks\n  absent_per_image: 2\n"), "utf-8")
    save_pairs(tmp_path, [Pair(photo(1), {"nucleus": mask()})])
    assert "  absent_per_image: 2\n" in path.read_text("utf-8") and list(classes(tmp_path)) == ["cell", "nucleus"]
    path.write_text("name: mine\ntrain: {type: folder, images: images, masks: masks}\n", "utf-8")
    with pytest.raises(PairError, match="was edited: its line `classes"):
        save_pairs(tmp_path, [Pair(photo(2), {"cell": mask()})])


@pytest.mark.parametrize(("first", "second"), [("Cat", "cat"), ("a:b", "a?b"), ("\u00e9", "e\u0301")])
def test_a_class_keeps_its_folder_when_another_would_have_the_same(tmp_path, first, second):
    [name] = save_pairs(tmp_path, [Pair(photo(), {first: mask()})])
    [folder] = classes(tmp_path)
    save_pairs(tmp_path, [Pair(photo(), {second: mask(20)})])
    save_pairs(tmp_path, [Pair(photo(), {second: mask(20), first: mask()})])
    listed = classes(tmp_path)
    other = list(listed)[1]
    assert listed == {folder: [first], other: [second]}
    files = {path.relative_to(tmp_path / "masks").as_posix() for path in tmp_path.glob("masks/*/*.png")}
    assert files == {f"{folder}/{name}.png", f"{other}/{name}.png"} and other.casefold() != folder.casefold()


def rewrite(folder, *changes: tuple[str, str]) -> str:
    """The data file with `classes` and `absent` as its owner wrote them."""
    path = folder / DATA_FILE
    text = path.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_bytes(text.encode())
    return text


def test_lists_that_the_owner_edited_only_grow(tmp_path):
    save_pairs(tmp_path, [Pair(photo(), {"a": mask(), "b": mask(), "c": mask()})])
    edited = '{"a":  ["a", "synonym"], "b": "cat", "c": null,"mine": ["my own"] }\r'
    before = ('{"a": ["a"], "b": ["b"], "c": ["c"]}', edited), ('["a", "b", "c"]', "[]"), ("  masks:", "  limit: 5\n  masks:")
    text = rewrite(tmp_path, *before)
    [name] = save_pairs(tmp_path, [Pair(photo(1), {"synonym": mask(), "cat": mask(), "c": mask(), "my own": mask()})])
    assert (tmp_path / DATA_FILE).read_bytes() == text.encode(), "nothing is new"
    assert {path.parent.name for path in tmp_path.glob(f"masks/*/{name}.png")} == {"a", "b", "c", "mine"}
    save_pairs(tmp_path, [Pair(photo(2), {"d": mask()})])
    grown = text.replace('"my own"] }', '"my own"], "d": ["d"]}').replace("absent: []", 'absent: ["d"]')
    assert (tmp_path / DATA_FILE).read_bytes() == grown.encode()


def test_only_the_lists_of_the_training_source_grow(tmp_path):
    save_pairs(tmp_path, [Pair(photo(), {"a": mask()})])
    path, more = tmp_path / DATA_FILE, '  images: i\n  masks: m\n  classes: {"x": ["y"]}\n  absent: ["x"]\n'
    path.write_text(f"validation:\n{more}{path.read_text('utf-8')}test:\n{more}", "utf-8")
    text = path.read_text("utf-8")
    save_pairs(tmp_path, [Pair(photo(1), {"b": mask()})])
    expected = text.replace('{"a": ["a"]}', '{"a": ["a"], "b": ["b"]}').replace('["a"]\n', '["a", "b"]\n')
    assert path.read_text("utf-8") == expected
    rewrite(tmp_path, ('  absent: ["a", "b"]\n', ""))
    text = path.read_text("utf-8")
    save_pairs(tmp_path, [Pair(photo(2), {"c": mask()})])
    assert path.read_text("utf-8") == text.replace('"b": ["b"]}', '"b": ["b"], "c": ["c"]}'), "no list of absent is made"


def everything(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ('{"a": [5]}', "was edited: its line `classes"),
        ('{"a": 5}', "was edited: its line `classes"),
        ('{"a": ' + "[" * 100_000, "was edited: its line `classes"),
        ('{"../../up": ["b"]}', "lists the class '../../up', which cannot be the name of a folder"),
        ('{"C:up": ["b"]}', "lists the class 'C:up', which cannot be the name of a folder"),
        ('{"\\u0000": ["b"]}', "which cannot be the name of a folder"),
        ('{"B": ["x"], "b-3e23e816": ["z"]}', "which .* lists for 'z'. Give the class another name"),
        ('{"x": ["x"]}\n  absent: [x]', "its line `absent: …` cannot be read, so the new class 'b'"),
    ],
)
def test_lists_that_cannot_be_used_are_told_before_anything_is_written(tmp_path, listed, words):
    save_pairs(tmp_path / "set", [Pair(photo(), {"a": mask()})])
    rewrite(tmp_path / "set", ('{"a": ["a"]}', listed))
    before = everything(tmp_path)
    with pytest.raises(PairError, match=words):
        save_pairs(tmp_path / "set", [Pair(photo(1), {"b": mask()})])
    assert everything(tmp_path) == before


PNG = b"\x89PNG\r\n\x1a\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")


@pytest.mark.parametrize("file", ["images", "masks/a"])
@pytest.mark.parametrize("content", [b"", b"junk", PNG, PNG + b"\0\0\0\rIHDR" + b"\xff" * 40, "half"])
def test_a_damaged_picture_is_told_before_anything_is_written(tmp_path, file, content):
    [name] = save_pairs(tmp_path, [Pair(photo(), {"a": mask()})])
    path = tmp_path / file / f"{name}.png"
    path.write_bytes(path.read_bytes()[:-30] if content == "half" else content)
    before = everything(tmp_path)
    with pytest.raises(PairError, match=rf"{file}/{name}.png is there and cannot be read as a picture.*delete it"):
        save_pairs(tmp_path, [Pair(photo(1), {"b": mask()}), Pair(photo(), {"a": mask()})])
    assert everything(tmp_path) == before
    path.unlink()
    assert save_pairs(tmp_path, [Pair(photo(), {"a": mask()})]) == [name]


def test_a_mask_of_one_bit_counts_as_it_looks(tmp_path):
    [name] = save_pairs(tmp_path, [Pair(photo(), {"a": mask()})])
    Image.fromarray(mask()).save(tmp_path / f"masks/a/{name}.png")
    with pytest.raises(PairError, match="already saved with another mask of 'a'"):
        save_pairs(tmp_path, [Pair(photo(), {"a": mask() & False})])
    assert save_pairs(tmp_path, [Pair(photo(), {"a": mask()})]) == [name]


@pytest.mark.parametrize("content", [b"\xff\xfe\0\0", bytes(range(256)), "classes: {}".encode("utf-16")])
def test_a_data_file_that_is_no_text_is_told(tmp_path, content):
    (tmp_path / DATA_FILE).write_bytes(content)
    with pytest.raises(PairError, match=f"{DATA_FILE} cannot be read: it is no text in UTF-8. Put the file back"):
        save_pairs(tmp_path, [Pair(photo(), {"a": mask()})])
    assert list(tmp_path.iterdir()) == [tmp_path / DATA_FILE]


def test_a_data_file_that_is_too_large_is_told(tmp_path):
    with (tmp_path / DATA_FILE).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PairError, match=f"{DATA_FILE} cannot be read: it has more than 16,777,216 bytes"):
        save_pairs(tmp_path, [Pair(photo(), {"a": mask()})])


@pytest.mark.parametrize("make", [os.mkdir, pytest.param(getattr(os, "mkfifo", None), marks=POSIX)])
@pytest.mark.parametrize("place", [DATA_FILE, "images/x.png", "masks/a/x.png"])
def test_what_is_no_file_where_one_goes_is_told_before_anything_is_written(tmp_path, place, make):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / place)
    with pytest.raises(PairError, match=f"{place} cannot be a file of the data set: it is a .*Move away what is in its place"):
        save_pairs(tmp_path, [Pair(photo(), {"a": mask()})], "x")
    assert not everything(tmp_path)


@POSIX
@pytest.mark.parametrize("place", ["set", "set/images", "set/masks", "set/masks/a"])
def test_a_file_where_a_folder_goes_is_told_before_anything_is_written(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    with pytest.raises(PairError, match="cannot be a file of the data set: Not a directory"):
        save_pairs(tmp_path / "set", [Pair(photo(), {"a": mask()})])
    assert list(everything(tmp_path)) == [tmp_path / place]


def test_masks_of_one_batch_that_differ_are_not_one_file(tmp_path):
    with pytest.raises(PairError, match="Frames 1 and 3 of the batch are the same photo with different masks of 'a'"):
        save_pairs(tmp_path, [Pair(photo(), {"a": mask()}), Pair(photo(1), {"a": mask()}), Pair(photo(), {"a": mask(20)})])
    assert not everything(tmp_path)
    ids = save_pairs(tmp_path, [Pair(photo(), {"a": mask()}), Pair(photo(), {"a": mask(), "b": mask(20)})])
    assert ids[0] == ids[1] and len(list(tmp_path.rglob("*.png"))) == 3
    assert len(set(save_pairs(tmp_path, [Pair(photo(), {"a": mask()}), Pair(photo(), {"a": mask(20)})], "mine"))) == 2
    rewrite(tmp_path, ('["b"]', '["b", "synonym"]'))
    with pytest.raises(PairError, match="'synonym' and 'b' are phrases of one class, 'b'"):
        save_pairs(tmp_path, [Pair(photo(1), {"synonym": mask(), "b": mask(20)})])


@pytest.mark.parametrize("name", ["red circle: scarlet\n-blue star", "a\r\nb", "a\n \n\u2028b"])
def test_the_name_of_a_mask_has_one_line(name):
    with pytest.raises(PairError, match=r"class_name has 2 lines, '(red circle: scarlet|a)' and more"):
        check_class_name(name)
    check_class_name("\n red circle: scarlet \n\n")


def test_frames_become_pairs_one_by_one():
    image = torch.rand(3, *SIZE, 4)
    hard = {"cell": torch.zeros(3, *SIZE)}
    hard["cell"][1, 2:5] = 1
    pairs = make_pairs(image, hard)
    assert len(pairs) == 3 and [pair.masks["cell"].any() for pair in pairs] == [False, True, False]
    assert np.array_equal(pairs[2].photo, (image[2, ..., :3] * 255).round().byte().numpy())


def test_masks_get_the_photo_and_a_name():
    image = torch.rand(2, *SIZE, 3)
    found = of_photo(None, torch.ones(2, *SIZE), image, "  red   cell ")
    assert found.names == ("red cell",) and torch.equal(found.image, image)
    masks = Masks(torch.rand(2, 3, *SIZE), ("a", "b", "c"), torch.zeros(2, *SIZE, 3))
    assert torch.equal(of_photo(masks, None, image, "").image, image) and of_photo(masks, None, image, "a").names == (
        "a",
        "b",
        "c",
    )
    with pytest.raises(ValueError, match="class_name is empty"):
        of_photo(None, torch.ones(2, *SIZE), image, " ")
    with pytest.raises(ValueError, match="The image is 1 x 24 x 32 and its masks are 2 x 24 x 32"):
        of_photo(masks, None, image[:1], "")
