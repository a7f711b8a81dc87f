"""Tests of `imsim.disk`: complete writes, and the one-line errors of files."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from imsim import disk
from imsim.core.exceptions import RunError, UsageError


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (
            errno.ENOSPC,
            RunError,
            "out: no space left at a/b; free some space there, or choose another place; c is",
        ),
        (errno.EDQUOT, RunError, "out: the disk quota is used up at a/b; free some space there"),
        (errno.EFBIG, RunError, "out: no space left at a/b: the file reached the limit of file sizes; raise the limit"),
        (errno.EIO, RunError, "out: cannot write a/b: Input/output error; check the disk; c is kept"),
        (errno.EMFILE, RunError, "out: cannot write a/b: Too many open files; raise the limit of open files"),
        (
            errno.EROFS,
            UsageError,
            "out: cannot write a/b: Read-only file system; choose a folder on a file system",
        ),
        (errno.EACCES, UsageError, "out: cannot write a/b: Permission denied; check the permissions; c is kept"),
        (errno.ENOENT, UsageError, "out: cannot write a/b: No such file or directory; check the path; c is kept"),
        (errno.ENOTDIR, UsageError, "out: cannot write a/b: Not a directory; a part of the path is a file; c is kept"),
        (errno.EBUSY, RunError, "out: cannot write a/b: Device or resource busy; c is kept"),
    ],
)
def test_error_has_path_reason_and_remedy(number, kind, text):
    with pytest.raises(kind) as raised, disk.errors("write", "a/b", name="out", note="c is kept"):
        raise OSError(number, "the text of some library, with the number in it")
    assert str(raised.value).startswith(text)


def test_error_without_a_number_has_its_own_text_in_one_line():
    assert str(disk.error_of(OSError("encoder\nerror -2"), "write", "x.png")) == "cannot write x.png: encoder error -2"


def test_write_replaces_a_file_and_keeps_its_permissions_and_links(tmp_path):
    disk.write(tmp_path / "file", b"one")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    assert disk.write(tmp_path / "link", b"two") == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"two"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_failed_write_leaves_the_file_as_it_was(tmp_path, file_sizes):
    disk.write(tmp_path / "file", b"before")
    with file_sizes(100), pytest.raises(RunError, match=r"^no space left at .*/file: "):
        disk.write(tmp_path / "file", bytes(101))
    with file_sizes(100), pytest.raises(RunError):
        disk.write(tmp_path / "new", bytes(101))
    assert (tmp_path / "file").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_device_is_written_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    disk.write(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_missing_folder_for_temporary_files_is_a_one_line_error(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"cannot make a folder in .*/gone: No such file .* TMPDIR"):
        disk.temporary_folder("imsim-")
