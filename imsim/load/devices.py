"""One device: the core's `Client`, the same machine as in the simulation, on a real connection and real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import gevent
from gevent import Greenlet
from gevent.event import Event

from imsim.core import events, frames
from imsim.core.client.client import Client
from imsim.core.exceptions import RunError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.sizes import largest_taken
from imsim.load.recording import Recording
from imsim.load.target import Target
from imsim.load.transport import Transport
from imsim.scenario import actor
from imsim.wire.codec import WireError, decode_from_server, encode

now = time.perf_counter


class Lobby(Protocol):
    """Hears which devices are there. `number` is the device's global number."""

    def online(self, number: int, after: float) -> None:
        """Logged in and up to date, `after` seconds after it began to try."""

    def offline(self, number: int, why: str) -> None:
        """The connection is lost, or could not be made; the device tries again by itself."""

    def ended(self, number: int, why: str) -> None:
        """Refused for good: this device will not come back."""

    def crashed(self, why: str) -> None:
        """A mistake in imsim: nothing that was measured can be trusted."""

    def group_made(self, name: str) -> None: ...

    def group_failed(self, name: str, code: Code, text: str) -> None:
        """Refused, or without an answer after every attempt."""

    def room_entered(self, number: int, name: str) -> None: ...

    def room_failed(self, name: str, code: Code, text: str) -> None:
        """Refused."""


class Device:
    """A `Client` with its port, one connection and one timer. `key` opens the server's token endpoint."""

    def __init__(
        self,
        number: int,
        user: str,
        device: str,
        target: Target,
        key: str,
        policies: Policies,
        draw: Callable[[], float],
        recording: Recording,
        lobby: Lobby,
    ) -> None:
        self.number = number
        self.answered = Event()  # the first login has succeeded, or been refused
        self.client = Client(self, user, device, "", policies, draw)
        self._target = target
        self._key = key
        self._timeout = policies.login_timeout
        self._largest = largest_taken(policies)
        self._recording = recording
        self._lobby = lobby
        self._making: dict[str, str] = {}  # names of the groups that are being made, by the idClient of the change
        self._now = 0.0  # when what is being handled happened
        self._connection: Greenlet[..., None] | None = None  # the one that counts; a closed one may still linger
        self._transport: Transport | None = None
        self._timer: Greenlet[..., None] | None = None
        self._timer_at = inf
        self._trouble = ""
        self._tries_since = 0.0

    def start(self) -> None:
        """Log in, and stay logged in until `stop`."""
        self._tries_since = now()
        self.do(self.client.start)

    def stop(self) -> None:
        """Leave, and wait until the connection has ended (a second at most)."""
        connection = self._connection
        self.do(self.client.stop)
        if self._timer is not None:
            self._timer.kill(block=False)
        if connection is not None:
            connection.join(timeout=2.0)

    def leave(self) -> None:
        """Go offline, until the next `start`."""
        self.do(self.client.stop)

    def do(self, step: Callable[[float], None]) -> None:
        """Have the client do something: `step(now)`."""
        self._now = now()
        step(self._now)
        self._arm()

    def enter(self, room: str) -> None:
        """Enter the chatroom, and again after each login; the lobby hears how that ended."""
        self.do(lambda now: self.client.enter(room, now))

    def create_group(self, name: str, members: list[str]) -> None:
        """Make it; the lobby hears how that ended. To do it again is harmless."""
        id_client = f"create:{name}"
        self._making[id_client] = name
        self.do(lambda now: self.client.create_group(name, members, now, id_client))

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Have a timer for the next deadline. One that is set too early stays: most deadlines are called off in time,
        and looking in vain now and then is cheaper than a new timer for each message."""
        deadline = self.client.next_deadline()
        if deadline is not None and deadline < self._timer_at:
            if self._timer is not None:
                self._timer.kill(block=False)
            self._timer_at = deadline
            self._timer = gevent.spawn_later(max(0.0, deadline - now()), self._tick)
            self._timer.link_exception(self._crash)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, inf
        self.do(self.client.handle_timer)

    # --- the connection ---------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self._connection = gevent.spawn(self._connect)
        self._connection.link_exception(self._crash)

    def close(self) -> None:
        self._connection = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def send(self, frame: frames.FromClient) -> None:
        if self._transport is not None:
            self._transport.send(encode(frame))

    def _connect(self) -> None:
        me = gevent.getcurrent()
        try:
            if not self.client.token:
                self.client.token = self._target.token(self.client.user, self._key, self._timeout)
            transport = Transport.connect(self._target, self._timeout, self._receive, self._largest)
        except RunError as error:
            self._end(str(error))
            return
        except OSError as error:
            self._trouble = str(error)
        else:
            if self._connection is not me:  # given up meanwhile
                transport.close()
            else:
                self._transport = transport
                self.do(self.client.connected)
            transport.read()
        if self._connection is me:
            self._connection = self._transport = None
            self.do(self.client.disconnected)

    def _receive(self, data: bytes) -> None:
        self._now = now()
        try:
            self.client.receive(decode_from_server(data), self._now)
        except WireError as error:
            self._end(f"the server sent what is not a frame: {error}")
        self._arm()

    def _crash(self, greenlet: Greenlet[..., None]) -> None:
        self._lobby.crashed(repr(greenlet.exception))

    def _end(self, why: str) -> None:
        self.do(self.client.stop)
        self._lobby.ended(self.number, why)
        self.answered.set()

    # --- what the machine reports -----------------------------------------------------------------------------------

    def emit(self, event: events.ClientEvent) -> None:
        self._recording.client_event(self.number, event, self._now)
        kind = type(event)
        e: Any = event
        if kind is events.Shown:
            if actor.wants_answer(self.client, e):
                gevent.spawn(self.do, lambda now: actor.answer(self.client, e, now)).link_exception(self._crash)
        elif kind is events.Acked:
            if e.id_client in self._making:
                self._lobby.group_made(self._making.pop(e.id_client))
        elif kind is events.SendFailed:
            if e.id_client in self._making:
                self._lobby.group_failed(self._making[e.id_client], e.code, e.text)
        elif kind is events.Entered:
            self._lobby.room_entered(self.number, e.name)
        elif kind is events.RequestFailed:
            if e.request == frames.Enter.op:
                self._lobby.room_failed(e.ref, e.code, e.text)
        elif kind is events.Ready:
            self._lobby.online(self.number, self._now - self._tries_since)
            self.answered.set()
        elif kind is events.Disconnected:
            why, self._trouble = self._trouble, ""
            self._tries_since = self._now
            self._lobby.offline(self.number, why or (f"connection lost: {e.code}" if e.code else "connection lost"))
        elif kind is events.Ended:
            self._lobby.ended(self.number, f"{e.code}: {e.text}")
            self.answered.set()
