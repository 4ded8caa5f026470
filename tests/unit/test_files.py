"""Writing whole files: what a reader, another process and a failing disk see."""

import os
import stat

import pytest

from digseg_nodes.core.files import write_text, written_atomically


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with written_atomically(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old" and temporary.parent == path.parent
        temporary.write_text("new")
    assert path.read_text() == "new" and names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(type(error)), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_target_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "taken", "text")
    assert names(tmp_path) == ["taken"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read_even_when_a_library_made_the_file(tmp_path, mask, expected):
    path = tmp_path / "a.bin"
    before = os.umask(mask)
    try:
        with written_atomically(path, sync=True) as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with written_atomically(path) as first, written_atomically(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and names(tmp_path) == ["a.txt"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    path = tmp_path / ("ä" * 125 + ".txt")
    write_text(path, "text\n")
    assert path.read_bytes() == b"text\n"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError) as found, written_atomically(path) as temporary:
        temporary.unlink()
        temporary.read_text()
    assert found.value.filename == str(path) and names(tmp_path) == []
