"""The driver of a session: it gives a sans-I/O session its inputs, and carries out what the session returns.

`Driver` is the part that every driver shares. `imsim.load.device` adds sockets and timers of gevent, `imsim.load.aio`
those of asyncio. The conformance kit and the tests use the same class, so an adapter behaves the same everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from imsim.core.events import Sent as ClientSent
from imsim.load.adapters.interface import Connect, Disconnect, Event, Item, Message, Out, Request, Sent, Session

_COMMANDS = frozenset([Connect, Disconnect, Request])


class Driver(ABC):
    """A driver of one session.

    report: called with each event of the session and the time of the input that caused it.
    """

    def __init__(self, session: Session, report: Callable[[Event, float], None]) -> None:
        self.session = session
        self._report = report

    def do(self, step: Callable[[float], list[Out]]) -> None:
        """Call `step(now)`, a method of the session, carry out its result, and update the timer."""
        now = self.now()
        self._carry_out(step(now), now)
        self._arm(self.session.next_deadline())

    def give(self, item: Item) -> None:
        """Give the session an input."""
        now, session = self.now(), self.session
        self._carry_out(session.received(item, now), now)
        self._arm(session.next_deadline())

    def send_message(self, message: Message) -> None:
        """Let the session send the message. If it does so at once without reporting it, report `Sent` for it."""
        now = self.now()
        outs = self.session.send(message, now)
        is_sent = False
        for out in outs:
            kind = type(out)
            if kind is ClientSent or kind is Sent:
                break
            is_sent = is_sent or kind is bytes
        else:
            if is_sent:
                self._report(Sent(message.id), now)
        self._carry_out(outs, now)
        self._arm(self.session.next_deadline())

    def _carry_out(self, outs: Iterable[Out], now: float) -> None:
        for out in outs:
            kind = type(out)
            if kind is bytes:
                self._send(out)  # type: ignore[arg-type]  # `kind` narrows it
            elif kind not in _COMMANDS:
                self._report(out, now)  # type: ignore[arg-type]  # only events are left
            elif kind is Connect:
                self._connect(out)  # type: ignore[arg-type]  # `kind` narrows it
            elif kind is Disconnect:
                self._disconnect()
            else:
                self._request(out)  # type: ignore[arg-type]  # `kind` narrows it

    @abstractmethod
    def now(self) -> float:
        """Return the time in seconds of a monotonic clock."""

    @abstractmethod
    def _arm(self, deadline: float | None) -> None:
        """Call `do(session.handle_timer)` at this time instead of any earlier request; None: not at all."""

    @abstractmethod
    def _send(self, frame: bytes) -> None:
        """Send a frame, without waiting. Drop it if there is no connection."""

    @abstractmethod
    def _connect(self, connect: Connect) -> None:
        """Begin to connect. `give` a `Connected`, the frames, and a `Disconnected` if the connection ends by itself."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, or give up connecting. Give the session nothing more of this connection."""

    @abstractmethod
    def _request(self, request: Request) -> None:
        """Begin an HTTP request, and `give` its `Response`."""
