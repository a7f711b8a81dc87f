"""The recorder of a run: it keeps each event as a fact of five integers.

A fact takes 18 bytes, so a run of a million messages can record all its events. Facts can have any order and come from
several processes. `imsim.results.tables.assemble` turns them into rows.

The fields of a fact:

kind: see `Kind`.
intent: the number of the message, or -1 if the fact is only about a device.
device: the global number of the device (user * devices per user + device), or -1.
at: nanoseconds from the start of the run.
extra: the number of a code or a route, otherwise 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from math import inf
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imsim import disk
from imsim.core.model import Code, Route


class Kind(IntEnum):
    """The first integer of a fact. New kinds go to the end, because spools contain the numbers."""

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
    LEFT_OUT = 13
    WITHDRAWN = 14
    RETURNED = 15


CODES = tuple(Code)
ROUTES = tuple(Route)

Facts = NDArray[np.void]
"""An array of facts, with the fields kind, intent, device, at and extra."""

# Native byte order: a spool is read on the machine that wrote it, or on one with the same byte order.
_FACT = Struct("=biiqb")
FACT_BYTES = _FACT.size
_FIELDS = np.dtype([("kind", "i1"), ("intent", "i4"), ("device", "i4"), ("at", "i8"), ("extra", "i1")])
_pack = _FACT.pack
_SPOOL_BYTES = 4096 * _FACT.size
_SPOOL_SECONDS = 1.0
_NO_INTENT = _NO_DEVICE = -1


class Recorder:
    """A list of facts. Each method records one fact in about 0.3 us. Times are seconds from the start of the run.

    spool: the path of a new file for the facts, or None to keep them in memory. The recorder appends to the file after
        every few thousand facts, or one second after the last append by the times of the facts. So a killed process
        loses only its last second.

    Each process needs its own recorder, created after the last fork.

    Raises: UsageError if the spool exists or cannot be created. Each method raises RunError if the spool cannot be
    written, for example if no space is left; `flush` continues where it stopped.
    """

    def __init__(self, spool: Path | str | None = None) -> None:
        self._buffer = bytearray()
        self._before: list[Facts] = []  # without a spool: the facts that `facts` has already returned
        self._path = None if spool is None else Path(spool)
        self._file: BinaryIO | None = None
        self._flush_at = self._flush_bytes = inf  # without a spool
        self._flushed = 0  # bytes
        if self._path is not None:
            # "x" creates a new file. Facts behind the truncated last fact of another process would be unreadable.
            with disk.errors("create the spool", self._path):
                self._file = self._path.open("xb", buffering=0)
            self._flush_at, self._flush_bytes = _SPOOL_SECONDS, _SPOOL_BYTES

    def sent(self, intent: int, at: float) -> None:
        """Record an attempt of the sender's device to send the message."""
        self._buffer += _pack(_SENT, intent, _NO_DEVICE, round(at * 1e9), 0)
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def stored(self, intent: int, at: float) -> None:
        """Record that storage has the message."""
        self._buffer += _pack(_STORED, intent, _NO_DEVICE, round(at * 1e9), 0)
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def received(self, intent: int, at: float) -> None:
        """Record that the sender learned that the router has the message, which is perhaps not stored yet."""
        self._add(_RECEIVED, intent, _NO_DEVICE, at, 0)

    def acked(self, intent: int, at: float) -> None:
        """Record that the sender learned that the message is stored."""
        self._buffer += _pack(_ACKED, intent, _NO_DEVICE, round(at * 1e9), 0)
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def failed(self, intent: int, at: float, code: Code, text: str = "") -> None:
        """Record that the sender gave up.

        code: `timeout` or `unavailable` if no answer arrived; any other code means that the message was refused.
        text: the explanation; it is not recorded.
        """
        self._add(_FAILED, intent, _NO_DEVICE, at, _CODE_NUMBER[code])

    def pushed(self, intent: int, device: int, at: float) -> None:
        """Record an attempt of the server to push the message to the device."""
        self._buffer += _pack(_PUSHED, intent, device, round(at * 1e9), 0)
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def delivered(self, intent: int, device: int, at: float, route: Route) -> None:
        """Record that the device showed the message."""
        self._buffer += _pack(_DELIVERED, intent, device, round(at * 1e9), _ROUTE_NUMBER[route])
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def duplicate(self, intent: int, device: int, at: float) -> None:
        """Record that the message arrived at the device again."""
        self._add(_DUPLICATE, intent, device, at, 0)

    def read(self, intent: int, device: int, at: float) -> None:
        """Record that the device's user read the message."""
        self._add(_READ, intent, device, at, 0)

    def shed(self, intent: int, device: int, at: float) -> None:
        """Record that the server left the device out, because the device receives too much (chatrooms only)."""
        self._add(_SHED, intent, device, at, 0)

    def left_out(self, intent: int, device: int, at: float) -> None:
        """Record that the first sync of the device left the message to history."""
        self._add(_LEFT_OUT, intent, device, at, 0)

    def recalled(self, intent: int, at: float) -> None:
        """Record that the sender recalled the message. A device that has not shown it will not show it."""
        self._add(_RECALLED, intent, _NO_DEVICE, at, 0)

    def disconnected(self, device: int, at: float) -> None:
        """Record that the device lost its connection. Messages of chatrooms go only to connected devices."""
        self._add(_DISCONNECTED, _NO_INTENT, device, at, 0)

    def entered(self, device: int, at: float) -> None:
        """Record that the device entered a chatroom, for the first time or again.

        On a server that keeps nothing for devices that are offline, or that lets devices join groups only while they
        are online: that the device is logged in, and is in its groups and chatrooms.
        """
        self._add(_ENTERED, _NO_INTENT, device, at, 0)

    def withdrawn(self, device: int, at: float) -> None:
        """Record that the tester took the device out of the test, for example by lowering the number of users."""
        self._add(_WITHDRAWN, _NO_INTENT, device, at, 0)

    def returned(self, device: int, at: float) -> None:
        """Record that the tester brought a withdrawn device back: it begins to log in."""
        self._add(_RETURNED, _NO_INTENT, device, at, 0)

    @property
    def recorded(self) -> int:
        """The count of facts so far; without a spool, since the last call of `facts`."""
        return (self._flushed + len(self._buffer)) // _FACT.size

    def facts(self) -> Facts:
        """Return all facts so far. With a spool, they are read from the file."""
        if self._path is not None:
            self.flush()
            return read_facts([self._path])
        self._before.append(decode_facts(self._buffer))
        self._buffer = bytearray()  # the array of facts uses the memory of the previous buffer
        if len(self._before) > 1:
            self._before = [np.concatenate(self._before)]
        return self._before[0]

    def flush(self) -> None:
        """Append the buffered facts to the spool. Without a spool, do nothing."""
        if self._file is not None and self._buffer:
            assert self._path is not None
            with disk.errors("write", self._path):
                while self._buffer:
                    written = self._file.write(self._buffer)
                    del self._buffer[:written]
                    self._flushed += written

    def close(self) -> None:
        """Flush and close the spool. Without a spool, do nothing. The facts stay readable."""
        if self._file is not None:
            try:
                self.flush()
            finally:
                self._file.close()
                self._file = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, kind: int, intent: int, device: int, at: float, extra: int) -> None:
        # The methods for the facts that every message has do not use this one, which saves a call.
        self._buffer += _pack(kind, intent, device, round(at * 1e9), extra)
        if at >= self._flush_at or len(self._buffer) >= self._flush_bytes:
            self._flush_due(at)

    def _flush_due(self, at: float) -> None:
        self._flush_at = max(self._flush_at, at + _SPOOL_SECONDS)
        self.flush()


# Plain integers, because the look-up of an enum's member takes as long as packing the fact.
_SENT, _STORED, _ACKED, _FAILED, _PUSHED, _DELIVERED, _DUPLICATE, _READ, _SHED, *_RARE = map(int, Kind)
_RECALLED, _DISCONNECTED, _ENTERED, _RECEIVED, _LEFT_OUT, _WITHDRAWN, _RETURNED = _RARE
_CODE_NUMBER = {code: number for number, code in enumerate(CODES)}
_ROUTE_NUMBER = {route: number for number, route in enumerate(ROUTES)}


def read_facts(paths: Iterable[Path | str]) -> Facts:
    """Return the facts of several spools, in the order of the paths.

    If a killed process has truncated the last fact of a spool, that fact is ignored.

    Raises: UsageError if a spool cannot be read.
    """
    return np.concatenate([decode_facts(b""), *(decode_facts(_read(Path(path))) for path in paths)])


def _read(path: Path) -> bytes:
    with disk.errors("read the spool", path):
        return path.read_bytes()


def decode_facts(data: bytes | bytearray) -> Facts:
    """Return the facts in the bytes of a spool, which share their memory. A truncated last fact is ignored."""
    whole = len(data) // _FACT.size
    return np.frombuffer(data, _FIELDS, whole)
