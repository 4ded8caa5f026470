"""Every label is used or named, with a count, before step 1: K2, K5, K20, K21, K22 and the table that both commands print."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.train.helpers import folder_dataset
from train.check_data import main as check_data
from train.data.account import ContentStore, data_digest, describe_change
from train.data.base import DataError
from train.data.build import open_split
from train.data.config import load_data


def checked(data, capsys, *options) -> tuple[int, str]:
    """(status, printed text) of check_data."""
    try:
        check_data([str(data), *options])
        status = 0
    except SystemExit as end:
        status = 1 if isinstance(end.code, str) else end.code
    return status, capsys.readouterr().out


def source_of(data):
    return open_split(load_data(data), "train")[0][0]


def paired(root, yaml: str, label: np.ndarray, count: int = 2):
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(count):
        Image.fromarray(np.full((*label.shape[:2], 3), 90 + number, np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(label).save(root / f"labels/{number}.png")
    where = 'root: ., images: "images/*.png", masks: "labels/{1}.png"'
    (root / "data.yaml").write_text(f"train: {{{yaml}, {where}}}\n", encoding="utf-8")
    return root / "data.yaml"


NUMBERS = np.zeros((20, 40), np.uint8)
NUMBERS[:10, :10], NUMBERS[10:, 20:], NUMBERS[:, -2:] = 1, 7, 255


def test_clean_data_leave_nothing_over(tmp_path, capsys):
    status, printed = checked(folder_dataset(tmp_path), capsys, "--strict")
    assert status == 0
    assert "WARNING" not in printed
    assert "4 images, 0 without any mask" in printed


def test_numbers_of_no_class_are_named_with_their_share(tmp_path, capsys):
    data = paired(tmp_path, "type: index, classes: {a: 1}", NUMBERS)
    status, printed = checked(data, capsys)
    assert status == 0
    assert "2 numbers or colours are neither a class" in printed
    assert "7: 22.50% of the pixels, in 2 images" in printed
    assert "255: 5.00% of the pixels" in printed
    assert checked(data, capsys, "--strict")[0] == 1
    text = data.read_text().replace("{a: 1}", "{a: 1}, ignore: [255], background: [0, 7]")
    data.write_text(text)
    assert checked(data, capsys, "--strict")[0] == 0


def test_a_mistyped_colour_is_named_and_its_class_is_not_taught_to_be_nowhere(tmp_path, capsys):
    label = np.zeros((20, 40, 3), np.uint8)
    label[:5], label[10:, :20] = (250, 50, 83), (51, 221, 255)
    data = paired(tmp_path, "type: colour, classes: {disc: [250, 50, 83], blob: [51, 221, 225]}", label)
    assert [query.name for query in source_of(data).sample(0).queries] == ["disc"]
    _, printed = checked(data, capsys)
    assert "(51, 221, 255): 25.00% of the pixels" in printed
    assert "no mask in 2 images of 1 of 2 classes, which are not asked for: blob" in printed
    data.write_text(data.read_text().replace("type: colour", "type: colour, absent: [blob]"))
    assert [query.name for query in source_of(data).sample(0).queries] == ["disc", "blob"]


def rename(path, name):
    path.rename(path.with_name(name))


@pytest.mark.parametrize(
    "name", ["000.PNG", "000.Tif", "000_mask.png", "000-mask.png", "mask_000.png", "0.png", "000_0.png", "000_seg.webp"]
)
def test_masks_by_another_name_are_taken(tmp_path, capsys, name):
    data = folder_dataset(tmp_path)
    before = source_of(data).sample(0).queries[0].mask
    image = Image.open(tmp_path / "masks/box/000.png").copy()
    (tmp_path / "masks/box/000.png").unlink()
    image.save(tmp_path / "masks/box" / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert np.array_equal(source_of(data).sample(0).queries[0].mask, before)
    _, printed = checked(data, capsys)
    assert ("NOTE class box: 1 masks are taken by a similar name" in printed) == (not name.lower().startswith("000."))


def test_unicode_forms_and_case_are_one_name(tmp_path):
    data = folder_dataset(tmp_path)
    rename(tmp_path / "images/000.png", unicodedata.normalize("NFD", "Été.png"))
    rename(tmp_path / "masks/box/000.png", unicodedata.normalize("NFC", "été.png"))
    source = source_of(data)
    index = next(i for i in range(len(source)) if "t" in source.photo(i).stem)
    assert source.sample(index).queries[0].mask.any()


def test_numbered_masks_of_one_photo_are_joined_and_others_refused(tmp_path):
    data = folder_dataset(tmp_path)
    whole = np.asarray(Image.open(tmp_path / "masks/box/000.png"))
    middle = int(np.argwhere(whole)[:, 0].mean())
    for number, part in enumerate((slice(0, middle), slice(middle, None))):
        half = np.zeros_like(whole)
        half[part] = whole[part]
        Image.fromarray(half).save(tmp_path / f"masks/box/000_{number}.png")
    with pytest.raises(DataError, match=r"both the mask of the photo 000"):
        source_of(data)
    (tmp_path / "masks/box/000.png").unlink()
    assert np.array_equal(source_of(data).sample(0).queries[0].mask, whole > 0)


def test_a_name_that_fits_two_photos_is_refused(tmp_path):
    data = folder_dataset(tmp_path)
    rename(tmp_path / "images/000.png", "a.png")
    rename(tmp_path / "images/001.png", "A.png")
    rename(tmp_path / "masks/box/000.png", "a_mask.png")
    with pytest.raises(DataError, match="may belong to the photo"):
        source_of(data)


def test_what_is_not_read_is_named(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    (tmp_path / "images/more").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images/more/x.png")
    (tmp_path / "images/000.json").write_text("{}")
    (tmp_path / "masks/star").mkdir()
    Image.new("L", (64, 64)).save(tmp_path / "masks/star/000.png")
    Image.new("L", (64, 64)).save(tmp_path / "masks/disc/other.png")
    data.write_text(data.read_text().replace("masks: masks", "masks: masks, classes: [box, disc]"))
    status, printed = checked(data, capsys, "--strict")
    assert status == 1
    assert "1 images in sub-folders" in printed
    assert "1 files in" in printed
    assert ".json 1" in printed
    assert "star with 1 masks is no class" in printed
    assert "label files belong to no image that is read" in printed
    assert "other.png" in printed


def test_hidden_and_foreign_files_are_passed_over(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "masks" / name).mkdir()
        (tmp_path / "images" / name).mkdir()
    for name in ("images/._000.jpg", "masks/box/._000.png", "images/.hidden.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    os.mkfifo(tmp_path / "masks/box/pipe.png")  # opening it would wait for ever
    status, _ = checked(data, capsys, "--strict")
    assert status == 0
    assert source_of(data).class_names == ["box", "disc"]


def test_photos_with_another_suffix_than_the_pattern_are_named(tmp_path, capsys):
    data = paired(tmp_path, "type: index, classes: {a: 1}, ignore: [255], background: [0, 7]", NUMBERS)
    rename(tmp_path / "images/1.png", "1.PNG")
    _, printed = checked(data, capsys)
    assert "WARNING 1 images match `images: images/*.png` but for their suffix and are not read: 1.PNG" in printed
    assert "1 label files belong to no image that is read" in printed


def test_a_photo_in_two_sources_is_named(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    part = "{type: folder, images: images, masks: masks}"
    data.write_text(f"train: [{part}, {part}]\n", encoding="utf-8")
    assert "4 photos come more than once in train" in checked(data, capsys)[1]


def test_a_phrase_of_two_classes_is_named(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    data.write_text(data.read_text().replace("masks: masks", "masks: masks, classes: {box: [thing], disc: [disc, thing]}"))
    assert '"thing" stands for box and disc' in checked(data, capsys)[1]


def test_what_labels_hold_is_remembered_by_their_content(tmp_path):
    data = folder_dataset(tmp_path)
    store = ContentStore(tmp_path / "labels.jsonl")
    first = store.of(source_of(data), 0)
    store.save()
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write('{"id": "half')
    again = ContentStore(tmp_path / "labels.jsonl")
    (entry,) = again.known.values()
    assert entry == first
    Image.new("L", (64, 64), 255).save(tmp_path / "masks/box/000.png")
    assert again.of(source_of(data), 0).areas == {"box": 64 * 64}


def test_the_digest_of_data_follows_pixels_labels_and_words(tmp_path):
    data = folder_dataset(tmp_path)
    digests = [{"train": data_digest([source_of(data)])}]
    Image.fromarray(255 - np.asarray(Image.open(tmp_path / "masks/box/000.png"))).save(tmp_path / "masks/box/000.png")
    digests.append({"train": data_digest([source_of(data)])})
    (tmp_path / "images/003.png").unlink()
    digests.append({"train": data_digest([source_of(data)])})
    assert describe_change(digests[0], digests[0], "train") is None
    assert "of 4 photos some have other" in describe_change(digests[0], digests[1], "train")
    assert describe_change(digests[1], digests[2], "train") == "4 photos then, 3 now"
    assert describe_change({}, digests[0], "train") is None  # a state from before digests
    json.dumps(digests)


def test_a_class_that_only_a_small_split_lacks_is_a_note(tmp_path, capsys):
    data = folder_dataset(tmp_path)
    part = "{type: folder, images: images, masks: masks}"
    data.write_text(f"train: {part}\nvalidation: {part[:-1]}, limit: 1}}\n", encoding="utf-8")
    status, printed = checked(data, capsys, "--strict")
    assert status == 0
    assert "NOTE no mask in 1 images of 1 of 2 classes, which are not asked for: disc" in printed
