"""The Server machine: a Gateway and a Router in one process, wired directly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames, storage
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.router.router import Router


class ServerPort(Protocol):
    """The actions that a Server needs from its shell. See `GatewayPort` and the router's port."""

    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def close(self, connection: int) -> None: ...

    def authenticate(self, connection: int, token: str) -> None: ...

    def store(self, request: storage.Request) -> None: ...

    def waited(self) -> float: ...

    def emit(self, event: events.ServerEvent) -> None: ...


class Server:
    """A gateway and a router in one process. `epoch` is the wall time, in seconds since 1970, at which `now` was 0.

    `reports_all` is that of `Gateway`.
    """

    def __init__(self, port: ServerPort, policies: Policies, epoch: float = 0.0, *, reports_all: bool = True) -> None:
        self._queue: deque[tuple[Callable[[Any, float], None], Any]] = deque()
        roles = _RolesPort(port, self._queue)
        roles.gateway = self._gateway = Gateway(roles, policies, epoch=epoch, reports_all=reports_all)
        roles.router = self._router = Router(roles, policies, epoch=epoch)

    def next_deadline(self) -> float | None:
        deadlines = (self._gateway.next_deadline(), self._router.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self._gateway.handle_timer(now)
        self._router.handle_timer(now)
        self._drain(now)

    def connected(self, connection: int, now: float) -> None:
        self._gateway.connected(connection, now)

    def disconnected(self, connection: int, now: float) -> None:
        self._gateway.disconnected(connection, now)
        self._drain(now)

    def receive(self, connection: int, frame: frames.FromClient, now: float) -> None:
        self._gateway.receive(connection, frame, now)
        self._drain(now)

    def refuse(self, connection: int, code: Code, text: str, now: float) -> None:
        self._gateway.refuse(connection, code, text)
        self._drain(now)

    def reject(self, connection: int, op: str, ref: str, number: int, text: str, now: float) -> None:
        self._gateway.reject(connection, op, ref, number, text, now)
        self._drain(now)

    def authenticated(
        self, connection: int, user: str | None, code: Code | None, now: float, issued_at: float = 0.0
    ) -> None:
        self._gateway.authenticated(connection, user, code, now, issued_at)
        self._drain(now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        self._router.stored(request, result, now)
        self._drain(now)

    def revoke(self, user: str, before: float, now: float) -> None:
        """End the user's sessions, and accept only tokens issued at `before` or later (seconds since 1970)."""
        self._router.receive(internal_frames.Revoke(user, before), now)
        self._drain(now)

    @property
    def delivery_times(self) -> deque[float]:
        """The times of the latest deliveries, see `Gateway.delivery_times`."""
        return self._gateway.delivery_times

    @property
    def repeated_sends(self) -> int:
        """The count of sends with resend = true, see `Gateway.repeated_sends`."""
        return self._gateway.repeated_sends

    def queued_pushes(self) -> Iterator[int]:
        """Yield counts of unacknowledged pushes, one for each connection."""
        return self._gateway.queued()

    def queued_requests(self) -> Iterator[int]:
        """Yield counts of frames that wait in the router, one for each conversation and each user in memory."""
        return self._router.queued()

    def shut_down(self, now: float) -> None:
        self._gateway.shut_down()
        self._drain(now)

    def _drain(self, now: float) -> None:
        queue = self._queue
        while queue:
            receive, frame = queue.popleft()
            receive(frame, now)


class _RolesPort:
    """The port of both roles. A frame between the roles waits in a queue, so neither role is ever re-entered."""

    gateway: Gateway
    router: Router

    def __init__(self, port: ServerPort, queue: deque[tuple[Callable[[Any, float], None], Any]]) -> None:
        self.send = port.send
        self.close = port.close
        self.authenticate = port.authenticate
        self.emit = port.emit
        self.waited = port.waited
        self._store = port.store
        self._queue = queue

    def store(self, name: str, request: storage.Request) -> None:
        self._store(request)

    def keep(self, frame: internal_frames.ToRouter) -> None:
        """Do nothing: only the simulation records which frames wait."""

    def charge(self, frame: internal_frames.ToRouter, kept: None, now: float) -> float:
        return now  # real service times need no model

    def wait(self, frame: internal_frames.ToRouter, now: float) -> float:
        return 0.0  # the gateway has refused the frames that waited too long

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        self._queue.append((self.router.receive, frame))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        self._queue.append((self.gateway.receive_from_router, frame))
