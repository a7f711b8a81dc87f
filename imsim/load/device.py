"""A device of a load test: a session on gevent's sockets and timers, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any

import gevent
from gevent import Greenlet

from imsim.load.adapters.interface import (
    Adapter,
    Connect,
    Connected,
    Disconnected,
    Event,
    Request,
)
from imsim.load.driver import Driver
from imsim.load.http import exchange
from imsim.load.transport import Transport

now = time.perf_counter


class Device(Driver):
    """A device: a session with one connection and one timer.

    number: its number within the run.
    report: called with the device, each event, and its time.
    crash: called with an error in one of the device's greenlets. The run is then not reliable.
    """

    def __init__(
        self,
        number: int,
        user: str,
        device: str,
        adapter: Adapter,
        report: Callable[[Device, Event, float], None],
        crash: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__(adapter.session(number, user, device), lambda event, at: report(self, event, at))
        self.number = number
        self.user = user
        self.since = 0.0
        """When the device began to log in, for the first time or after it lost its connection."""
        self._adapter = adapter
        self._crash = crash
        self._connection: Greenlet[..., None] | None = None  # the current one; a closed one may still be ending
        self._transport: Transport | None = None
        self._timer: Greenlet[..., None] | None = None
        self._timer_at = inf

    def now(self) -> float:
        return now()

    def start(self) -> None:
        """Log in, and remain logged in until `leave` or `stop`."""
        self.since = now()
        self.do(self.session.start)

    def leave(self) -> None:
        """Go offline until the next `start`, without waiting for the connection to end."""
        self.do(self.session.stop)

    def stop(self) -> None:
        """Go offline, and wait until the connection has ended (2 s at most)."""
        connection = self._connection
        self.leave()
        if self._timer is not None:
            self._timer.kill(block=False)
            self._timer, self._timer_at = None, inf
        if connection is not None:
            connection.join(timeout=2.0)

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        # Most deadlines are cancelled before they are due. So an occasional wake-up that is too early costs less than a
        # new timer for each message.
        if deadline is not None and deadline < self._timer_at:
            if self._timer is not None:
                self._timer.kill(block=False)
            self._timer_at = deadline
            self._timer = self._spawn(self._tick, max(0.0, deadline - now()))

    def _tick(self) -> None:
        self._timer, self._timer_at = None, inf
        self.do(self.session.handle_timer)

    # --- the connection ---------------------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.send(frame)

    def _connect(self, connect: Connect) -> None:
        self._disconnect()
        self._connection = self._spawn(lambda: self._hold(connect))

    def _disconnect(self) -> None:
        self._connection = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _hold(self, connect: Connect) -> None:
        """Open a connection, and read from it until it ends."""
        current, reason = gevent.getcurrent(), "connection lost"
        try:
            transport = Transport.connect(connect, self._adapter.largest, self._adapter.binary, self.give)
        except OSError as error:
            reason = str(error)
        else:
            if self._connection is not current:  # it was disconnected during the handshake
                transport.close()
            else:
                self._transport = transport
                self.give(Connected(transport.subprotocol))
            transport.read()
        if self._connection is current:
            self._connection = self._transport = None
            self.give(Disconnected(reason))

    def _request(self, request: Request) -> None:
        self._spawn(lambda: self.give(exchange(request)))

    def _spawn(self, step: Callable[[], Any], after: float = 0.0) -> Greenlet[..., None]:
        greenlet = gevent.spawn_later(after, step) if after > 0 else gevent.spawn(step)
        greenlet.link_exception(lambda failed: self._crash(failed.exception))
        return greenlet
