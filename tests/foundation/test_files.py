"""Files are whole or not there."""

import os
import stat

import pytest

from stability.foundation.files import make_folder, write_atomically


def test_a_failure_in_the_middle_changes_nothing(tmp_path):
    path = tmp_path / "data.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(temporary):
        temporary.write_text("ne")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["data.txt"]


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "data.txt", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.read_text()))
    write_atomically(path, lambda p: p.write_text("new"))
    assert seen == ["old"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("place", ["/proc/nowhere", "a file"])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, place):
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError, match=f"cannot write into the folder .*{place}: .*; give another one"):
        make_folder(tmp_path / place)
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_the_file_has_the_rights_of_any_new_file(tmp_path):
    path = write_atomically(tmp_path / "a", lambda p: p.write_text("x"))
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)
