"""Files on disk: complete writes, and errors of one line.

An OSError of a file becomes a UsageError if the path is wrong, for example without permission or without a folder. It
becomes a RunError if the path is right but the computer failed, for example if no space is left. Either way the error
names the path, the reason and the remedy.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from imsim.core.exceptions import ImsimError, RunError, UsageError

AnyPath = str | PathLike[str]

#: A note for errors of temporary files.
TMPDIR = "the variable TMPDIR sets the folder for temporary files"

_PROBE_BYTES = 1 << 16  # more than what a full disk may still accept

#: The reasons for which no file of this size fits, with the remedy. They can end after a while, unlike a wrong path.
_FULL = {
    errno.ENOSPC: ("no space left at {}", "free some space there, or choose another place"),
    errno.EDQUOT: ("the disk quota is used up at {}", "free some space there, or choose another place"),
    errno.EFBIG: ("no space left at {}: the file reached the limit of file sizes", "raise the limit (ulimit -f)"),
}

#: The other reasons that are not the caller's mistake.
_FAILED = {
    errno.EIO: "; check the disk",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.ENFILE: "; raise the limit of open files of this computer",
}

#: The remedies for wrong paths.
_WRONG = {
    errno.EACCES: "; check the permissions",
    errno.EPERM: "; check the permissions",
    errno.EROFS: "; choose a folder on a file system that is not read-only",
    errno.ENOENT: "; check the path",
    errno.ENOTDIR: "; a part of the path is a file",
    errno.EISDIR: "; give the path of a file",
    errno.EEXIST: "; choose another name",
    errno.ENAMETOOLONG: "; choose a shorter name",
    errno.ELOOP: "; check the symbolic links",
}


def error_of(error: OSError, verb: str, path: AnyPath, *, name: str = "", note: str = "") -> ImsimError:
    """Return the one-line error that stands for `error` at `path`.

    verb: what was tried, such as "write" or "make the folder". name: the option or argument that holds the path, if
    any. note: the end of the text, for example what remains in spite of the error.
    """
    prefix, ending = name and f"{name}: ", note and f"; {note}"
    number = error.errno or 0
    if number in _FULL:
        reason, remedy = _FULL[number]
        return RunError(f"{prefix}{reason.format(os.fspath(path))}; {remedy}{ending}")
    # Some libraries raise an OSError without a number, or with a longer text of their own.
    reason = os.strerror(number) if number else " ".join(str(error).split())
    text = f"{prefix}cannot {verb} {os.fspath(path)}: {reason}"
    if number in _WRONG:
        return UsageError(f"{text}{_WRONG[number]}{ending}")
    return RunError(f"{text}{_FAILED.get(number, '')}{ending}")


@contextmanager
def errors(verb: str, path: AnyPath, *, name: str = "", note: str = "") -> Iterator[None]:
    """Convert an OSError of the block, which writes or reads `path`. `error_of` describes the arguments.

    Raises: UsageError or RunError.
    """
    try:
        yield
    except OSError as error:
        raise error_of(error, verb, path, name=name, note=note) from None


def make_folder(path: AnyPath, *, name: str = "") -> Path:
    """Make a folder and its parents, unless it exists, and return it. Raises: UsageError or RunError."""
    folder = Path(path)
    with errors("make the folder", folder, name=name):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(path: AnyPath, content: bytes, *, name: str = "") -> Path:
    """Write a file and return its path. If that fails, an existing file stays as it was.

    The path may be that of a device or a pipe. Raises: UsageError or RunError.
    """
    with errors("write", path, name=name):
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_bytes(content)
            return Path(path)
        target = Path(os.path.realpath(path))  # if it is a symbolic link, the link stays
        partial = target.with_name(f".imsim-{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(content)
            if target.exists():
                shutil.copymode(target, partial)
            os.replace(partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    return Path(path)


def check_writable(path: AnyPath, *, name: str = "") -> None:
    """Check that a file can be written, and that there is space in its folder. Other libraries give vague reasons.

    The file is not changed, and it is not created. Raises: UsageError or RunError.
    """
    file = Path(path)
    with errors("write", file, name=name), suppress(FileNotFoundError):
        os.close(os.open(file, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)))  # without waiting for the reader of a pipe
    probe = file.absolute().with_name(f".imsim-{secrets.token_hex(4)}.partial")
    with errors("write to the folder", probe.parent, name=name):
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


def temporary_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder. Raises: UsageError or RunError."""
    with errors("make a folder in", tempfile.gettempdir(), note=TMPDIR):
        return tempfile.TemporaryDirectory(prefix=prefix)
