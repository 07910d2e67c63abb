"""Files are whole or not there."""

import stat

import pytest

from stability.files import write_atomically


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


def test_the_file_has_the_rights_of_any_new_file(tmp_path):
    path = write_atomically(tmp_path / "a", lambda p: p.write_text("x"))
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)
