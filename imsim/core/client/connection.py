"""A device's connection to the service: opened, logged in, kept alive, and opened again after a loss."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from imsim.core import events, frames
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_PINGS = 2  # how often to ping, at least, within the time after which the server gives up


class ClientPort(Protocol):
    def connect(self) -> None:
        """Open a connection; answered by `connected(now)` or `disconnected(now)`."""

    def send(self, frame: frames.FromClient) -> None: ...

    def close(self) -> None:
        """End the connection; `disconnected` need not follow."""

    def emit(self, event: events.ClientEvent) -> None: ...


class State(StrEnum):
    OFFLINE = "offline"  # not started, or waiting to connect again
    CONNECTING = "connecting"
    LOGGING_IN = "logging_in"
    SYNCING = "syncing"
    ONLINE = "online"
    ENDED = "ended"  # refused for good, or stopped


class Owner(Protocol):
    def lost(self) -> None:
        """There was a connection, or an attempt, and is none any more."""

    def gave_up(self, now: float) -> None:
        """A send has failed for want of an answer; it may be stored all the same."""


class Connection:
    """`draw()` gives a uniform number in [0, 1), for the jitter of reconnects and to name this instance. The other
    parts of the client reach through it what they share: `owner`, `port`, `policies` and `timers`."""

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
        "owner",
        "policies",
        "port",
        "state",
        "timers",
        "token",
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
        self._failures = 0  # connections in a row that did not last
        self._since = 0.0  # when the latest login was
        self._timer: Timer | None = None  # of the reconnect, of the login, or of the heartbeat
        self._sent_at = 0.0
        self.heard_at = 0.0  # when something came from the server
        self._heartbeat = policies.heartbeat  # seconds of silence after which to ping

    def start(self, now: float) -> None:
        if self.state in (State.OFFLINE, State.ENDED):
            self._connect(now)

    def stop(self) -> None:
        self.port.close()
        self._end()

    def forget(self) -> None:
        """It is over, and holds nothing of others any more, which hold it."""
        self.timers.clear()
        self._timer = None
        del self.owner, self.port

    def put(self, frame: frames.FromClient, now: float) -> None:
        self._sent_at = now
        self.port.send(frame)

    def connected(self, now: float) -> None:
        """The connection that `port.connect` asked for is open."""
        if self.state == State.CONNECTING:
            self.state = State.LOGGING_IN
            self.heard_at = now
            self._attempts += 1
            self._arm(now + self.policies.login_timeout, Connection._gave_up)
            self.put(frames.Login(self.token, self.device, self.kind, self._instance, self._attempts), now)

    def logged_in(self, patience: float, now: float) -> None:
        """`patience`: seconds of silence after which the server takes this side for lost."""
        self.state = State.SYNCING
        self._since = now
        self._heartbeat = min(self.policies.heartbeat, patience / _PINGS)
        self._arm(now + self._heartbeat, Connection._beat)

    def refused(self, frame: frames.Refused, now: float) -> None:
        self.port.close()
        if frame.reconnect:
            self._reconnect(frame.code, now)
        else:
            self._end()
            self.port.emit(events.Ended(frame.code, frame.text))

    def disconnected(self, now: float) -> None:
        """The connection is lost, or could not be opened."""
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
        """Try again later, with full jitter: a uniform share of an exponentially growing wait, so that a crowd that
        lost its server together does not come back together."""
        was_in = self.state in (State.SYNCING, State.ONLINE)
        if was_in and now - self._since >= self.policies.reconnect_max:
            self._failures = (
                0  # else a server that ends all whom it lets in would have them back at once, again and again
            )
        self.state = State.OFFLINE
        self.owner.lost()
        ceiling = min(self.policies.reconnect_max, self.policies.reconnect_min * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._arm(now + self._draw() * ceiling, Connection._connect)
        self.port.emit(events.Disconnected(code))

    def _end(self) -> None:
        self.state = State.ENDED
        if self._timer:
            self._timer.cancel()
        self.owner.lost()

    def _beat(self, now: float) -> None:
        """Ping once one side has been silent for a heartbeat: a server busy with storage answers that at least."""
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
        """`callback`: a plain function, as a bound method would take more memory than the timer."""
        if self._timer:
            self._timer.cancel()
        self._timer = self.timers.at(deadline, callback, self)
