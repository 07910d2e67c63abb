"""Files are whole or not there."""

import errno
import os
import platform
import re
import stat
import subprocess
import sys

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


def test_a_file_keeps_its_rights_and_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "data.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomically(link, lambda p: p.write_text("new"))
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_a_killed_run_left_is_cleared_and_nothing_else(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    machine = platform.node()
    dead = tmp_path / f".data-{machine}-{process.pid}-abc.txt"
    others = [f".data-{machine}-{os.getpid()}-abc.txt", f".data-elsewhere-{process.pid}-abc.txt", ".data-mine.txt"]
    others = [tmp_path / name for name in (*others, f".other-{machine}-{process.pid}-abc.txt")]
    for path in (dead, *others):
        path.write_text("half")
    write_atomically(tmp_path / "data.txt", lambda p: p.write_text("whole"))
    assert not dead.exists()
    assert all(path.exists() for path in others)


def test_a_full_disk_is_an_error_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "data.txt"

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        OSError, match=re.escape(f"cannot write {path}: No space left on device; what was there")
    ) as caught:
        write_atomically(path, fail)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
