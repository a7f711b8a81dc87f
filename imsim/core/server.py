"""A whole server in one process: a gateway, the conversations, the chatrooms and the users, wired directly.

It is a machine like those that it holds: give it a port, tell it things, carry out what it notes. The simulation does
not use it, since there the roles stand on nodes of their own with links between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames, storage
from imsim.core.gateway.gateway import Gateway
from imsim.core.model import Code, is_chatroom
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.users import Users


class Port(Protocol):
    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def close(self, connection: int) -> None: ...

    def authenticate(self, connection: int, token: str) -> None: ...

    def store(self, request: storage.Request) -> None: ...

    def emit(self, event: events.ServerEvent) -> None: ...


class Node:
    """`epoch`: wall time in seconds since 1970 at which `now` was 0."""

    def __init__(self, port: Port, policies: Policies, epoch: float = 0.0) -> None:
        self._queue: deque[tuple[Callable[[Any, float], None], Any]] = deque()
        wires = _Wires(port, self._queue)
        self._gateway = Gateway(wires, policies, epoch=epoch)
        self._conversations = Conversations(wires, policies, epoch)
        self._chatrooms = Chatrooms(wires, policies, epoch)
        self._users = Users(wires, policies)
        wires.gateway, wires.conversations = self._gateway, self._conversations
        wires.chatrooms, wires.users = self._chatrooms, self._users

    def next_deadline(self) -> float | None:
        deadlines = [
            deadline
            for machine in (self._gateway, self._conversations, self._users)
            if (deadline := machine.next_deadline()) is not None
        ]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        for machine in (self._gateway, self._conversations, self._users):
            machine.handle_timer(now)
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
        if isinstance(request, storage.USERS_REQUESTS):
            self._users.stored(request, result, now)
        else:
            self._conversations.stored(request, result, now)
        self._drain(now)

    def revoke(self, user: str, before: float, now: float) -> None:
        self._users.revoke(user, before, now)
        self._drain(now)

    def shut_down(self, now: float) -> None:
        self._gateway.shut_down()
        self._drain(now)

    def _drain(self, now: float) -> None:
        queue = self._queue
        while queue:
            receive, frame = queue.popleft()
            receive(frame, now)


class _Wires:
    """The ports of the three roles: what one tells another waits in a queue, so that none is ever re-entered."""

    gateway: Gateway
    conversations: Conversations
    chatrooms: Chatrooms
    users: Users

    def __init__(self, port: Port, queue: deque[tuple[Callable[[Any, float], None], Any]]) -> None:
        self.send = port.send
        self.close = port.close
        self.authenticate = port.authenticate
        self.store = port.store
        self.emit = port.emit
        self._queue = queue

    def to_conversation(self, frame: internal_frames.Up) -> None:
        machine = self.chatrooms if is_chatroom(frame.conversation_id) else self.conversations
        self._queue.append((machine.receive, frame))

    def to_user(self, user: str, frame: internal_frames.ToUsers) -> None:
        self._queue.append((self.users.receive, frame))

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        self._queue.append((self.users.receive, frame))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        self._queue.append((self.gateway.receive_from_router, frame))
