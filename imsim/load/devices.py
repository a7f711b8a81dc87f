"""A device of a load test: the core's `Client` on a real connection and in real time.

The simulation uses the same `Client`.
"""

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
    """The receiver of the devices' status changes. `number` is the number of the device within the run."""

    def online(self, number: int, after: float) -> None:
        """Record that the device is logged in and synced, `after` seconds after its first attempt."""

    def offline(self, number: int, why: str) -> None:
        """Record that the device lost its connection or could not connect. It retries by itself."""

    def ended(self, number: int, why: str) -> None:
        """Record that the server refused the device permanently. It does not reconnect."""

    def crashed(self, error: BaseException | None) -> None:
        """Handle an error of a device, such as a full disk or an internal error. The run is not reliable."""

    def group_made(self, name: str) -> None:
        """Record that the server has created the group."""

    def group_failed(self, name: str, code: Code, text: str) -> None:
        """Record that the server refused to create the group, or answered none of the attempts."""

    def room_entered(self, number: int, name: str) -> None:
        """Record that the device is in the chatroom."""

    def room_failed(self, name: str, code: Code, text: str) -> None:
        """Record that the server did not let a device into the chatroom."""


class Device:
    """A device: a `Client` with its port, one connection and one timer.

    It requests its token from the server, with the server's `key`.
    """

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
        self.answered = Event()  # set once the first login has succeeded or has been refused
        self.client = Client(self, user, device, "", policies, draw)
        self._target = target
        self._key = key
        self._timeout = policies.login_timeout
        self._largest = largest_taken(policies)
        self._recording = recording
        self._lobby = lobby
        self._creating: dict[str, str] = {}  # idClient of the pending request -> name of the group that it creates
        self._now = 0.0  # the time of the input that the client is handling
        self._connection: Greenlet[..., None] | None = None  # the current one; a closed one may still be ending
        self._transport: Transport | None = None
        self._timer: Greenlet[..., None] | None = None
        self._timer_at = inf
        self._trouble = ""
        self._tries_since = 0.0

    def start(self) -> None:
        """Log in, and remain logged in until `stop`."""
        self._tries_since = now()
        self.do(self.client.start)

    def stop(self) -> None:
        """Go offline, and wait until the connection has ended (2 s at most)."""
        connection = self._connection
        self.do(self.client.stop)
        if self._timer is not None:
            self._timer.kill(block=False)
        if connection is not None:
            connection.join(timeout=2.0)

    def leave(self) -> None:
        """Go offline until the next `start`, without waiting for the connection to end."""
        self.do(self.client.stop)

    def do(self, step: Callable[[float], None]) -> None:
        """Call `step(now)`, which makes the client do something, and update the timer."""
        self._now = now()
        step(self._now)
        self._arm()

    def enter(self, room: str) -> None:
        """Enter the chatroom, now and again after each login. The lobby receives the result."""
        self.do(lambda now: self.client.enter(room, now))

    def create_group(self, name: str, members: list[str]) -> None:
        """Create the group. The lobby receives the result. Repeating the call is harmless."""
        id_client = f"create:{name}"
        self._creating[id_client] = name
        self.do(lambda now: self.client.create_group(name, members, now, id_client))

    # --- time -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer for the next deadline, unless it is set for an earlier time.

        Most deadlines are cancelled before they are due. So an occasional wake-up that is too early costs less than a
        new timer for each message.
        """
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
        """Begin to connect (the client calls this)."""
        self._connection = gevent.spawn(self._connect)
        self._connection.link_exception(self._crash)

    def close(self) -> None:
        """Close the connection (the client calls this)."""
        self._connection = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def send(self, frame: frames.FromClient) -> None:
        """Send a frame (the client calls this)."""
        if self._transport is not None:
            self._transport.send(encode(frame))

    def _connect(self) -> None:
        current = gevent.getcurrent()
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
            if self._connection is not current:  # `close` was called during the handshake
                transport.close()
            else:
                self._transport = transport
                self.do(self.client.connected)
            transport.read()
        if self._connection is current:
            self._connection = self._transport = None
            self.do(self.client.disconnected)

    def _receive(self, data: bytes) -> None:
        self._now = now()
        try:
            self.client.receive(decode_from_server(data), self._now)
        except WireError as error:
            self._end(f"the server sent an invalid frame: {error}")
        self._arm()

    def _crash(self, greenlet: Greenlet[..., None]) -> None:
        self._lobby.crashed(greenlet.exception)

    def _end(self, why: str) -> None:
        self.do(self.client.stop)
        self._lobby.ended(self.number, why)
        self.answered.set()

    # --- events of the client ---------------------------------------------------------------------------------------

    def emit(self, event: events.ClientEvent) -> None:
        """Record an event of the client, and notify the lobby (the client calls this)."""
        self._recording.client_event(self.number, event, self._now)
        kind = type(event)
        e: Any = event
        if kind is events.Shown:
            if actor.wants_answer(self.client, e):
                gevent.spawn(self.do, lambda now: actor.answer(self.client, e, now)).link_exception(self._crash)
        elif kind is events.Acked:
            if e.id_client in self._creating:
                self._lobby.group_made(self._creating.pop(e.id_client))
        elif kind is events.SendFailed:
            if e.id_client in self._creating:
                self._lobby.group_failed(self._creating[e.id_client], e.code, e.text)
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
