"""What happened, recorded while it does: facts of five integers, cheap enough for every event of a million messages.

A fact is (kind, intent, device, at, extra), in 18 bytes: `intent` is -1 where it is about a device alone, `device` the
global device number (user * devices per user + device) or -1, `at` nanoseconds from the run's start, `extra` the number
of a code or a route. Facts may come in any order and from several processes; `imsim.results.tables.assemble` makes rows
of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imsim.core.exceptions import UsageError
from imsim.core.model import Code, Route


class Kind(IntEnum):
    """The first integer of a fact. Only ever append here: spools hold the numbers."""

    SENT = 0
    STORED = 1
    ACKED = 2
    FAILED = 3
    PUSHED = 4
    DELIVERED = 5
    DUPLICATE = 6
    READ = 7
    SHED = 8
    RECALLED = 9
    DISCONNECTED = 10
    ENTERED = 11
    RECEIVED = 12


CODES = tuple(Code)
ROUTES = tuple(Route)

Facts = NDArray[np.void]
"""With the fields kind, intent, device, at, extra."""

# Native byte order: a spool is merged on the kind of machine that wrote it.
_FACT = Struct("=biiqb")
_FIELDS = np.dtype([("kind", "i1"), ("intent", "i4"), ("device", "i4"), ("at", "i8"), ("extra", "i1")])
_pack = _FACT.pack
_SPOOL_BYTES = 4096 * _FACT.size
_SPOOL_SECONDS = 1.0
_NO_INTENT = _NO_DEVICE = -1


class Recorder:
    """Keeps facts (about 0.3 us each), by methods named after what happened. Times are seconds from the run's start.

    With `spool`, facts go to that new file, by raw appends every few thousand facts or every second of their own time,
    so that a killed process leaves all but its last moment. One recorder per process, made after any fork.

    Raises: UsageError if the spool exists or cannot be made.
    """

    def __init__(self, spool: Path | str | None = None) -> None:
        self._buffer = bytearray()
        self._before: list[Facts] = []  # without a spool: what `facts` has returned
        self._path = None if spool is None else Path(spool)
        self._file: BinaryIO | None = None
        self._flush_at = _SPOOL_SECONDS
        if self._path is not None:
            # "x": facts appended behind another process's torn tail could not be read back.
            try:
                self._file = self._path.open("xb", buffering=0)
            except OSError as error:
                raise UsageError(f"cannot make the spool {self._path}: {error.strerror}") from error

    def sent(self, intent: int, at: float) -> None:
        """The sender's device sent it; recorded for each attempt."""
        self._buffer += _pack(_SENT, intent, _NO_DEVICE, round(at * 1e9), 0)
        if self._file is not None:
            self._flush_when_due(at)

    def stored(self, intent: int, at: float) -> None:
        """The server's storage holds it."""
        self._buffer += _pack(_STORED, intent, _NO_DEVICE, round(at * 1e9), 0)
        if self._file is not None:
            self._flush_when_due(at)

    def received(self, intent: int, at: float) -> None:
        """The sender heard that the router has it, which need not have stored it."""
        self._add(_RECEIVED, intent, _NO_DEVICE, at, 0)

    def acked(self, intent: int, at: float) -> None:
        """The stored-ack reached the sender."""
        self._buffer += _pack(_ACKED, intent, _NO_DEVICE, round(at * 1e9), 0)
        if self._file is not None:
            self._flush_when_due(at)

    def failed(self, intent: int, at: float, code: Code, text: str = "") -> None:
        """The sender gave up: rejected for good, or (`timeout`, `unavailable`) without an answer. The text, which says
        more, is not recorded."""
        self._add(_FAILED, intent, _NO_DEVICE, at, _CODE_NUMBER[code])

    def pushed(self, intent: int, device: int, at: float) -> None:
        """The server pushed it to the device; recorded for each attempt."""
        self._buffer += _pack(_PUSHED, intent, device, round(at * 1e9), 0)
        if self._file is not None:
            self._flush_when_due(at)

    def delivered(self, intent: int, device: int, at: float, route: Route) -> None:
        """The device showed it."""
        self._buffer += _pack(_DELIVERED, intent, device, round(at * 1e9), _ROUTE_NUMBER[route])
        if self._file is not None:
            self._flush_when_due(at)

    def duplicate(self, intent: int, device: int, at: float) -> None:
        """It came to the device once more."""
        self._add(_DUPLICATE, intent, device, at, 0)

    def read(self, intent: int, device: int, at: float) -> None:
        """The device's user read it."""
        self._add(_READ, intent, device, at, 0)

    def shed(self, intent: int, device: int, at: float) -> None:
        """The server left the device out, which gets too much (chatrooms only)."""
        self._add(_SHED, intent, device, at, 0)

    def recalled(self, intent: int, at: float) -> None:
        """Its sender took it back: a device that has not shown it never will."""
        self._add(_RECALLED, intent, _NO_DEVICE, at, 0)

    def disconnected(self, device: int, at: float) -> None:
        """The device lost its connection, and with it what only connected devices get."""
        self._add(_DISCONNECTED, _NO_INTENT, device, at, 0)

    def entered(self, device: int, at: float) -> None:
        """The device is in a chatroom, perhaps again."""
        self._add(_ENTERED, _NO_INTENT, device, at, 0)

    def facts(self) -> Facts:
        """All facts so far; those of a spool are read back from it."""
        if self._path is not None:
            self.flush()
            return read_facts([self._path])
        self._before.append(_decode(self._buffer))
        self._buffer = bytearray()  # the array has the other one's bytes
        if len(self._before) > 1:
            self._before = [np.concatenate(self._before)]
        return self._before[0]

    def flush(self) -> None:
        """Append what is buffered to the spool; without one, nothing."""
        if self._file is not None and self._buffer:
            rest = memoryview(bytes(self._buffer))
            while rest:
                rest = rest[self._file.write(rest) :]
            self._buffer.clear()

    def close(self) -> None:
        """Flush and close the spool. Without one, nothing: the facts stay readable."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, kind: int, intent: int, device: int, at: float, extra: int) -> None:
        # What every message has is packed in its own method: a call less.
        self._buffer += _pack(kind, intent, device, round(at * 1e9), extra)
        if self._file is not None:
            self._flush_when_due(at)

    def _flush_when_due(self, at: float) -> None:
        if at >= self._flush_at or len(self._buffer) >= _SPOOL_BYTES:
            self._flush_at = max(self._flush_at, at + _SPOOL_SECONDS)
            self.flush()


# Plain integers at hand: looking up an enum's member costs as much as packing the fact.
_SENT, _STORED, _ACKED, _FAILED, _PUSHED, _DELIVERED, _DUPLICATE, _READ, _SHED, *_RARE = map(int, Kind)
_RECALLED, _DISCONNECTED, _ENTERED, _RECEIVED = _RARE
_CODE_NUMBER = {code: number for number, code in enumerate(CODES)}
_ROUTE_NUMBER = {route: number for number, route in enumerate(ROUTES)}


def read_facts(paths: Iterable[Path | str]) -> Facts:
    """The facts of several spools, one after the other. A killed process's torn last fact is ignored.

    Raises: UsageError for a spool that is not there.
    """
    return np.concatenate([_decode(b""), *(_decode(_read(Path(path))) for path in paths)])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the spool {path}: {error.strerror}") from error


def _decode(data: bytes | bytearray) -> Facts:
    whole = len(data) // _FACT.size
    return np.frombuffer(data, _FIELDS, whole)
