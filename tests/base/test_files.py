import errno
import os

import pytest

from cinelora.base.errors import RunError
from cinelora.base.files import sha256_file, sha256_text, stays_inside, whole_folder, write_text, write_whole


def test_written_file_is_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "grüße")
    assert path.read_text(encoding="utf-8") == "grüße"
    assert oct(path.stat().st_mode & 0o777) == "0o644"
    assert os.listdir(path.parent) == ["a.txt"]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folder_in_the_way_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_whole_folder_appears_at_once_or_not(tmp_path):
    with whole_folder(tmp_path / "c") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "c").exists()
    assert (tmp_path / "c" / "a").read_text() == "1"

    def break_off():
        with whole_folder(tmp_path / "d") as folder:
            (folder / "a").write_text("1")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        break_off()
    assert sorted(os.listdir(tmp_path)) == ["c"]


def test_whole_folder_replaces(tmp_path):
    for text in ("1", "2"):
        with whole_folder(tmp_path / "c") as folder:
            (folder / text).write_text(text)
    assert os.listdir(tmp_path / "c") == ["2"]
    assert os.listdir(tmp_path) == ["c"]


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_text("a", "bc") != sha256_text("ab", "c")


def test_paths_that_leave_the_root(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    assert stays_inside(tmp_path / "in", tmp_path / "in" / "x.mp4")
    assert not stays_inside(tmp_path / "in", tmp_path / "in" / ".." / "x.mp4")
    assert not stays_inside(tmp_path / "in", tmp_path / "in" / "link" / "x.mp4")
