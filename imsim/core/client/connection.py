"""A device's connection to the service: opening, login, heartbeats, and reconnects after a loss."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from imsim.core import events, frames
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_PINGS = 2  # the least count of pings within the time after which the server gives up
_LIMITS, _WINDOWS = frames.Limits(), frames.Windows()  # shared by all clients of a server with the defaults


class ClientPort(Protocol):
    """The actions that a Client needs from its shell."""

    def connect(self) -> None:
        """Open a connection. The shell answers with `connected(now)` or `disconnected(now)`."""

    def send(self, frame: frames.FromClient) -> None: ...

    def close(self) -> None:
        """End the connection. A call of `disconnected` may follow."""

    def emit(self, event: events.ClientEvent) -> None: ...


class State(StrEnum):
    """The state of a connection."""

    OFFLINE = "offline"  # not started, or waiting for the next attempt
    CONNECTING = "connecting"
    LOGGING_IN = "logging_in"
    SYNCING = "syncing"
    ONLINE = "online"
    ENDED = "ended"  # finally refused, or stopped


class Owner(Protocol):
    """The client that owns a connection, as the parts of the client see it."""

    def lost(self) -> None:
        """Handle the end of the connection, or of the attempt to open one."""

    def gave_up(self, now: float) -> None:
        """Handle a send that failed because it got no answer. It may be stored."""


class Connection:
    """The connection of one device.

    `draw()` returns a uniform random number in [0, 1), for the jitter of reconnects and the name of this instance. The
    other parts of the client also use `owner`, `port`, `policies` and `timers` from here.
    """

    __slots__ = (
        "_attempts",
        "_draw",
        "_failures",
        "_heartbeat",
        "_instance",
        "_sent_at",
        "_since",
        "_timer",
        "device",
        "heard_at",
        "kind",
        "limits",
        "owner",
        "policies",
        "port",
        "state",
        "timers",
        "token",
        "windows",
    )

    def __init__(
        self,
        timers: Timers,
        policies: Policies,
        port: ClientPort,
        device: str,
        kind: str,
        token: str,
        draw: Callable[[], float],
        owner: Owner,
    ) -> None:
        self.device = device
        self.kind = kind
        self.token = token
        self.state = State.OFFLINE
        self.timers = timers
        self.policies = policies
        self.port = port
        self._draw = draw
        self.owner = owner
        self._instance = f"{int(draw() * 2**53):x}"
        self._attempts = 0
        self._failures = 0  # the count of failed or short connections in a row
        self._since = 0.0  # the time of the latest login
        self._timer: Timer | None = None  # the timer of the reconnect, of the login, or of the heartbeat
        self._sent_at = 0.0  # the time of the latest frame to the server
        self.heard_at = 0.0  # the time of the latest frame from the server
        self.limits = _LIMITS  # of the server
        self.windows = _WINDOWS
        self._heartbeat = policies.heartbeat  # the seconds of silence before a ping

    def start(self, now: float) -> None:
        """Connect now, unless a connection is open or being opened."""
        if self.state in (State.OFFLINE, State.ENDED):
            self._connect(now)

    def stop(self) -> None:
        """End the connection until the next `start`."""
        self.port.close()
        self._end()

    def forget(self) -> None:
        """Drop the timers and the references to the owner and the port, which refer to this object."""
        self.timers.clear()
        self._timer = None
        del self.owner, self.port

    def put(self, frame: frames.FromClient, now: float) -> None:
        """Send a frame to the server."""
        self._sent_at = now
        self.port.send(frame)

    def connected(self, now: float) -> None:
        """Log in on the connection that `port.connect` requested, which is open now."""
        if self.state == State.CONNECTING:
            self.state = State.LOGGING_IN
            self.heard_at = now
            self._attempts += 1
            self._arm(now + self.policies.login_timeout, Connection._gave_up)
            self.put(frames.Login(self.token, self.device, self.kind, self._instance, self._attempts), now)

    def logged_in(self, patience: float, now: float) -> None:
        """Start the heartbeats. `patience`: the seconds after which the server counts a silent client as lost."""
        self.state = State.SYNCING
        self._since = now
        self._heartbeat = min(self.policies.heartbeat, patience / _PINGS)
        self._arm(now + self._heartbeat, Connection._beat)

    def refused(self, frame: frames.Refused, now: float) -> None:
        """End the connection. Reconnect later if the refusal allows it."""
        self.port.close()
        if frame.reconnect:
            self._reconnect(frame.code, now)
        else:
            self._end()
            self.port.emit(events.Ended(frame.code, frame.text))

    def disconnected(self, now: float) -> None:
        """Plan a reconnect, because the connection is lost or could not be opened."""
        if self.state not in (State.ENDED, State.OFFLINE):
            self._reconnect(None, now)

    def _connect(self, now: float) -> None:
        self.state = State.CONNECTING
        self._arm(now + self.policies.login_timeout, Connection._gave_up)
        self.port.connect()

    def _gave_up(self, now: float) -> None:
        self.port.close()
        self._reconnect(Code.LOGIN_TIMEOUT, now)

    def _reconnect(self, code: Code | None, now: float) -> None:
        """Plan the next attempt after an exponential backoff with full jitter.

        The wait is a uniform share of a ceiling that doubles with each failure. So clients that lost their server at
        the same time do not come back at the same time.
        """
        was_in = self.state in (State.SYNCING, State.ONLINE)
        if was_in and now - self._since >= self.policies.reconnect_max:
            # A short login does not reset the backoff: the server may end each login at once.
            self._failures = 0
        self.state = State.OFFLINE
        self.owner.lost()
        pause = self._draw() * self.policies.longest_pause(self._failures)
        self._failures += 1
        self._arm(now + pause, Connection._connect)
        self.port.emit(events.Disconnected(code))

    def _end(self) -> None:
        self.state = State.ENDED
        if self._timer:
            self._timer.cancel()
        self.owner.lost()

    def _beat(self, now: float) -> None:
        """Ping after one side was silent for a heartbeat. A server that is busy with storage still answers pings."""
        heartbeat = self._heartbeat
        due = min(self._sent_at, self.heard_at) + heartbeat
        if now - self.heard_at >= self.policies.heartbeat_timeout:
            self.port.close()
            self._reconnect(Code.HEARTBEAT, now)
            return
        if now >= due:
            self.put(frames.Ping(), now)
            due = now + heartbeat
        self._timer = self.timers.at(due, Connection._beat, self)

    def _arm(self, deadline: float, callback: Callable[[Connection, float], None]) -> None:
        """Replace the timer. `callback` is a plain function, because a bound method takes more memory."""
        if self._timer:
            self._timer.cancel()
        self._timer = self.timers.at(deadline, callback, self)
