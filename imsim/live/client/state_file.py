"""The file in which a client keeps its state, so that a restarted program does not receive its history again."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from pydantic import ConfigDict, TypeAdapter, ValidationError

from imsim.core.client.saved import Saved, SavedConversation
from imsim.core.exceptions import UsageError
from imsim.core.unread import SavedUnread
from imsim.wire.codec import alias

try:
    import fcntl
except ImportError:  # Windows: two programs with one file are not detected there
    fcntl = None  # type: ignore[assignment]

_LOGGER = logging.getLogger("imsim.client")
_FORMAT = 1


@dataclass(slots=True)
class _File:
    format: int
    user: str
    saved: Saved


# pydantic reads this attribute, which a dataclass does not declare.
for _class in (_File, Saved, SavedConversation, SavedUnread):
    _class.__pydantic_config__ = ConfigDict(alias_generator=alias, extra="ignore")  # type: ignore[union-attr]

_ADAPTER = TypeAdapter(_File)
_CONVERSATION = TypeAdapter(SavedConversation)


class StateFile:
    """The file at `path` with the state of a client of `user`. One client at a time can use it.

    The file `<path>.lock` beside it stays empty: a client holds a lock on it while it uses the state.

    Raises: UsageError if `path` is not a path.
    """

    def __init__(self, path: str | os.PathLike[str], user: str) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise UsageError(f"state: must be the path of a file (got {path!r})")
        self.path = Path(path)
        self._user = user
        self._lock: int | None = None
        self._writing = Lock()
        self._number = 0  # of the latest snapshot
        self._written = 0  # the number of the snapshot in the file
        self._is_failing = False

    def open(self) -> Saved | None:
        """Lock the file and return its content, or None if there is no file yet.

        Raises: UsageError if another client uses the file, it belongs to another user, or it cannot be read.
        """
        if not self.path.parent.is_dir():
            raise UsageError(f"state: there is no folder {self.path.parent}; create it first")
        try:
            self._acquire()
            return self._decoded(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.close()
            raise UsageError(f"state: cannot use {self.path}: {error.strerror}") from None
        except UsageError:
            self.close()
            raise

    def _decoded(self, text: bytes) -> Saved:
        try:
            file = _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise UsageError(
                f"state: {self.path} is not the state of a client: {where}: {first['msg']}; delete it to start over"
            ) from None
        if file.format != _FORMAT:
            raise UsageError(
                f"state: {self.path}: format: must be {_FORMAT} (got {file.format}); another version of imsim wrote"
                " it: use that version, or delete the file to start over"
            )
        if file.user != self._user:
            raise UsageError(
                f"state: {self.path} belongs to {file.user}, not to {self._user}; give each user a file of its own"
            )
        return file.saved

    def _acquire(self) -> None:
        if fcntl is None:
            return
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"state: another client uses {self.path}; end it first, or give each client a file of its own"
            ) from None

    def next_number(self) -> int:
        """Return the number of a new snapshot."""
        self._number += 1
        return self._number

    def write(self, number: int, saved: Saved) -> None:
        """Replace the file by a snapshot, unless a newer one is there. It may run in any thread.

        A failure, such as a full disk, is logged once until the next success. The file keeps its old content.
        """
        text = self._encoded(saved)
        with self._writing:
            if number <= self._written:
                return
            temporary = f"{self.path}.new"
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(temporary)
                if not self._is_failing:
                    _LOGGER.error(
                        "cannot write the state to %s: %s; the client tries again",
                        self.path,
                        error.strerror,
                    )
                self._is_failing = True
                return
            self._written = number
            if self._is_failing:
                self._is_failing = False
                _LOGGER.warning("the state is written to %s again", self.path)

    def _encoded(self, saved: Saved) -> bytes:
        # One conversation at a time, so that other threads can run meanwhile.
        frame = _ADAPTER.dump_json(_File(_FORMAT, self._user, replace(saved, conversations=[])), by_alias=True)
        assert frame.endswith(b"[]}}")
        lines = (_CONVERSATION.dump_json(one, by_alias=True, exclude_defaults=True) for one in saved.conversations)
        return frame[:-3] + b",\n".join(lines) + frame[-3:]

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
