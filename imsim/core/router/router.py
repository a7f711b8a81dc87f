"""The Router machine: Conversations, Users and Chatrooms, and the frames between them.

A router owns the conversations and users that `placement` gives it. Whatever reaches it is an internal frame. What it
sends to a router, itself included, leaves through its port: a shell can charge for it, and a bus can carry it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from imsim.core import events, internal_frames, storage
from imsim.core.internal_frames import ToRouter, Up
from imsim.core.model import is_chatroom
from imsim.core.placement import SINGLE, Placement
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.users import Users
from imsim.core.timers import Timers


class RouterPort(Protocol):
    def store(self, request: storage.Request) -> None:
        """Carry it out; answered by `stored(request, result, now)`."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_router(self, router: str, frame: internal_frames.ToRouter) -> None:
        """To a router, which may be this one: then it is received once the present call has returned."""

    def emit(self, event: events.Committed) -> None: ...


class Router:
    """`epoch` is the wall time in seconds since 1970 at which this node's `now` was 0."""

    def __init__(self, port: RouterPort, policies: Policies, placement: Placement = SINGLE, epoch: float = 0.0) -> None:
        parts = _PartsPort(port, placement)
        self._conversations = Conversations(parts, policies, epoch)
        self._chatrooms = Chatrooms(parts, policies, epoch)
        self._users = Users(parts, policies)

    @property
    def timers(self) -> tuple[Timers, ...]:
        """What `next_deadline` is about, for a shell that has no time to ask after each call."""
        return self._conversations.timers, self._users.timers

    def next_deadline(self) -> float | None:
        one, other = self._conversations.next_deadline(), self._users.next_deadline()
        return one if other is None or (one is not None and one < other) else other

    def handle_timer(self, now: float) -> None:
        self._conversations.handle_timer(now)
        self._users.handle_timer(now)

    def receive(self, frame: internal_frames.ToRouter, now: float) -> None:
        if type(frame) is Up and frame.conversation_id:
            if is_chatroom(frame.conversation_id):
                self._chatrooms.receive(frame, now)
            else:
                self._conversations.receive(frame, now)
        else:
            self._users.receive(frame, now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        """The answer to `port.store`."""
        if isinstance(request, storage.USERS_REQUESTS):
            self._users.stored(request, result, now)
        else:
            self._conversations.stored(request, result, now)

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Have a conversation ready for what will come; every conversation is opened at its first use anyway."""
        self._conversations.open(conversation_id, now, founders)

    def gateway_lost(self, gateway: str, now: float) -> None:
        """The link to a gateway broke, which has therefore ended the connections of all sessions."""
        self._users.gateway_lost(gateway, now)
        self._chatrooms.gateway_lost(gateway)

    def router_back(self, now: float) -> None:
        """The link to another router, which had broken, works again."""
        self._users.router_back(now)

    def restarted(self, now: float) -> None:
        """This router takes the position of one that died."""
        self._users.restarted(now)


class _PartsPort:
    """The port of a router's parts: it addresses what they send to users."""

    __slots__ = ("_placement", "_to_router", "emit", "store", "to_gateway")

    def __init__(self, port: RouterPort, placement: Placement) -> None:
        self._placement = placement
        self._to_router = port.to_router
        self.store = port.store
        self.to_gateway = port.to_gateway
        self.emit = port.emit

    def to_user(self, user: str, frame: ToRouter) -> None:
        self._to_router(self._placement.owner(user), frame)

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        for router, users in self._placement.split(frame.users):
            self._to_router(router, frame if len(users) == len(frame.users) else replace(frame, users=users))
