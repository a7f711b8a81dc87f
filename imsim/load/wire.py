"""Messages between the processes of a Locust session: small values in order, and the files of workers as streams.

A message is a test's number, a kind and plain values. Locust carries it over its own connection between master and
workers. Messages that are sent at the same moment travel together, so a thousand users that start cost a few messages.

A stream copies a growing file to the master in chunks. The master acknowledges them, so a worker knows when its file is
complete there, and neither side holds more than a few chunks in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import Queue

from imsim import disk
from imsim.core.exceptions import ImsimError, RunError
from imsim.load.device import now

logger = logging.getLogger("imsim.load")

_TYPE = "imsim"  # of Locust's messages
_CHUNK_BYTES = 1 << 16
_WINDOW_BYTES = 8 * _CHUNK_BYTES  # of a file that may be on the way without an acknowledgement
_STREAM_SECONDS = 0.2  # between two looks for new facts
_RESEND_SECONDS = 5.0  # without an acknowledgement, after which chunks are sent again

Handle = Callable[[str, int, str, dict[str, Any]], None]
"""Handles a message: `handle(sender, test, kind, values)`."""

Failed = Callable[[str, int, str], None]


class Wire:
    """The connection of a Locust process to the others.

    runner: Locust's runner of this process.
    handle: called with each message, one after the other, in a greenlet of its own. It may wait.
    failed: called if `handle` raised an exception: `failed(sender, test, reason)`. The test is then not reliable.
    urgent: kinds that are handled at once, even while `handle` waits. Their handling must not wait.
    """

    def __init__(self, runner: Any, handle: Handle, failed: Failed, urgent: Collection[str] = ()) -> None:
        self.heard = now()
        """When the latest message arrived."""
        self._runner = runner
        self._handle = handle
        self._failed = failed
        self._urgent = frozenset(urgent)
        self._incoming: Queue[tuple[str, int, str, dict[str, Any]]] = Queue()
        self._outgoing: dict[str | None, list[tuple[int, str, dict[str, Any]]]] = {}  # by receiver
        self._is_sending = False
        # Without `concurrent`, Locust would handle no heartbeat while a handler waits.
        runner.register_message(_TYPE, self._received, concurrent=True)
        gevent.spawn(self._handle_all)

    def send(self, to: str | None, test: int, kind: str, /, **values: Any) -> None:
        """Send a message to a worker (its Locust id), or to the master (None). It does not wait."""
        self._outgoing.setdefault(to, []).append((test, kind, values))
        if not self._is_sending:
            self._is_sending = True
            gevent.spawn(self._send_all)

    def _send_all(self) -> None:
        try:
            while self._outgoing:
                to = next(iter(self._outgoing))
                self._runner.send_message(_TYPE, self._outgoing.pop(to), to)
        finally:
            self._is_sending = False

    def _received(self, msg: Any, **_: Any) -> None:
        self.heard = now()
        for test, kind, values in msg.data:
            message = msg.node_id, test, kind, values
            if kind in self._urgent:
                self._handle(*message)
            else:
                self._incoming.put(message)

    def _handle_all(self) -> None:
        while True:
            message = self._incoming.get()
            try:
                self._handle(*message)
            except Exception as error:
                sender, test, kind, _ = message
                logger.exception("handling the message %r of another process failed", kind)
                reason = str(error) if isinstance(error, ImsimError) else f"internal error in imsim: {error!r}"
                self._failed(sender, test, reason)


class Outflow:
    """The streams of the files in a worker's folder.

    names: the names of the files, which may not exist yet. send: sends a message to the master: `send(kind, **values)`.
    flush: called before new data is read, to write what is buffered.
    """

    def __init__(self, folder: Path, names: Collection[str], send: Callable[..., None], flush: Callable[[], None]):
        self._folder = folder
        self._send = send
        self._flush = flush
        self._sent = dict.fromkeys(names, 0)  # bytes
        self._stored = dict.fromkeys(names, 0)  # bytes that the master has acknowledged
        self._acknowledged = Event()
        self._greenlet = gevent.spawn(self._run)

    def stored(self, name: str, size: int) -> None:
        """Handle an acknowledgement of the master, which has `size` bytes of the file."""
        if size > self._stored[name]:
            self._stored[name] = size
            self._acknowledged.set()

    def finish(self, seconds: float) -> dict[str, int]:
        """Stream the rest, wait until the master has all of it, and return the size of each file.

        Raises: RunError if the master has not acknowledged everything within this time.
        """
        self._greenlet.kill()
        deadline = now() + seconds
        while any(self._stored[name] < self._size(name) for name in self._stored):
            if now() > deadline:
                raise RunError(f"the master did not store the facts of this worker within {seconds:.0f} s")
            self._step()
        return {name: self._size(name) for name in self._stored}

    def close(self) -> None:
        """Stop streaming."""
        self._greenlet.kill(block=False)

    def _run(self) -> None:
        while True:
            gevent.sleep(_STREAM_SECONDS)
            self._flush()
            self._step()

    def _step(self) -> None:
        """Send what is new, as far as the window allows, and wait for an acknowledgement."""
        self._acknowledged.clear()
        before = dict(self._stored)
        for name in self._sent:
            while self._sent[name] - self._stored[name] < _WINDOW_BYTES and (data := self._read(name)):
                self._send("chunk", name=name, start=self._sent[name], data=data)
                self._sent[name] += len(data)
        if self._sent != self._stored and not self._acknowledged.wait(_RESEND_SECONDS):
            self._sent = before  # chunks or acknowledgements are lost with a connection that Locust replaced

    def _read(self, name: str) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(self._sent[name])
                return file.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return b""

    def _size(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return 0


class Inflow:
    """The files of a worker that the master receives, in its own folder."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        self.sizes = dict.fromkeys(names, 0)
        """The bytes of each file that are stored."""
        self._folder = folder

    def chunk(self, name: str, start: int, data: bytes) -> int:
        """Append a chunk, unless it is already stored or chunks before it are missing. Return the file's size.

        Raises: RunError or UsageError if the file cannot be written.
        """
        size = self.sizes[name]
        if start == size:
            path = self._folder / name
            with disk.errors("write", path, note=disk.TMPDIR), path.open("ab") as file:
                file.write(data)
            self.sizes[name] = size + len(data)
        return self.sizes[name]
