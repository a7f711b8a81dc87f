"""A device of a load test: a session on gevent's sockets and timers, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import gevent
from gevent import Greenlet

from imsim.core.model import Scene
from imsim.load.adapters.interface import Adapter, Connect, Connected, Disconnected, Event, Item, Message, Out, Request
from imsim.load.driver import Driver
from imsim.load.exchange import exchange
from imsim.load.transport import Transport

now = time.perf_counter

_CLOSE_TIMEOUT = 2.0  # seconds


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
        super().__init__(adapter.session(number, user, device), partial(report, self))
        self.number = number
        self.user = user
        self.since = 0.0
        """When the device began to log in, for the first time or after it lost its connection."""
        self._held: list[Message] | None = None  # messages to groups and chatrooms, until `let_go`
        self._adapter = adapter
        self._crash = crash
        self._opening: Greenlet[..., None] | None = None  # the one that opens the connection
        self._transport: Transport | None = None
        self._timer: Any = None  # of the event loop
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
        transport = self._transport
        self.leave()
        self._stop_timer()
        if transport is not None:
            transport.join(timeout=_CLOSE_TIMEOUT)

    def hold(self) -> None:
        """Keep further messages to groups and chatrooms until `let_go`, because the device is not in them so far."""
        if self._held is None:
            self._held = []

    def let_go(self) -> None:
        """Send the messages that were kept."""
        held, self._held = self._held, None
        for message in held or ():
            self.send_message(message)

    def send_message(self, message: Message) -> None:
        if self._held is None or message.conversation.scene is Scene.P2P:
            super().send_message(message)
        else:
            self._held.append(message)

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        # Most deadlines are cancelled before they are due. So an occasional wake-up that is too early costs less than a
        # new timer for each message.
        if deadline is not None and deadline < self._timer_at:
            self._stop_timer()
            self._timer_at = deadline
            self._timer = gevent.get_hub().loop.timer(max(0.0, deadline - now()))
            self._timer.start(self._tick)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer, self._timer_at = None, inf

    def _tick(self) -> None:
        self._stop_timer()
        self._safely(self.do, self.session.handle_timer)

    # --- the connection ---------------------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        """Drop the frame, because there was no connection so far. The first one replaces this method by its own."""

    def _connect(self, connect: Connect) -> None:
        self._disconnect()
        self._opening = self._spawn(lambda: self._open(connect))

    def _disconnect(self) -> None:
        self._opening = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _open(self, connect: Connect) -> None:
        """Open a connection, in a greenlet of its own."""
        current = gevent.getcurrent()
        try:
            transport = Transport.connect(connect, self._adapter.largest, self._adapter.binary, self._receive)
        except OSError as error:
            if self._opening is current:
                self._opening = None
                self.give(Disconnected(str(error)))
            return
        if self._opening is not current:  # it was disconnected during the handshake
            transport.close()
            return
        self._opening, self._transport = None, transport
        # The transport's own method saves a call for each frame. After its end, it drops frames itself.
        self._send = transport.send  # type: ignore[assignment,method-assign]
        self.give(Connected(transport.subprotocol))
        transport.listen(lambda: self._lost(transport))

    # The event loop calls the following methods. It would only print their errors.

    def _receive(self, frame: bytes) -> None:
        """Do what `give` does, with fewer calls."""
        try:
            at, session = now(), self.session
            self._carry_out(session.received(frame, at), at)
            deadline = session.next_deadline()
            if deadline is not None and deadline < self._timer_at:
                self._arm(deadline)
        except Exception as error:
            self._crash(error)

    def _lost(self, transport: Transport) -> None:
        """Handle the end of a connection, unless the session has closed it itself."""
        if self._transport is transport:
            self._transport = None
            self._safely(self.give, Disconnected("connection lost"))

    def _safely(self, step: Callable[[Any], None], argument: Item | Callable[[float], list[Out]]) -> None:
        try:
            step(argument)
        except Exception as error:
            self._crash(error)

    def _request(self, request: Request) -> None:
        self._spawn(lambda: self.give(exchange(request)))

    def _spawn(self, step: Callable[[], Any]) -> Greenlet[..., None]:
        greenlet = gevent.spawn(step)
        greenlet.link_exception(lambda failed: self._crash(failed.exception))
        return greenlet
