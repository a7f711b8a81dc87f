"""The Router machine: Conversations, Users and Chatrooms, the frames between them, and what they ask of storages.

A router owns the conversations and users that `placement` gives it. Whatever reaches it is an internal frame. Those
that it sends to itself wait until the present call has dealt with the one before. What it is asked, and what it asks,
is all that a shell carries; how long a frame keeps the router busy, the shell says (`charge`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from imsim.core import events, internal_frames, storage
from imsim.core.internal_frames import ToRouter, Up
from imsim.core.model import is_chatroom
from imsim.core.placement import SINGLE, SINGLE_STORAGE, Placement
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.storages import Storages
from imsim.core.router.users import Users
from imsim.core.timers import Timers

_LOST = storage.Failed("the storage is lost")


class RouterPort(Protocol):
    def store(self, name: str, request: storage.Request) -> None:
        """Have the storage of this name carry it out; answered by `stored(request, result, now)`, unless the storage
        is reported to be lost."""

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_router(self, router: str, frame: ToRouter) -> None:
        """To another router."""

    def keep(self, frame: ToRouter) -> Any:
        """The router has a frame for itself, which waits. Returns what `charge` is to be given with it."""

    def charge(self, frame: ToRouter, kept: Any, now: float) -> float | None:
        """The router takes up a frame. Returns when it will be done with it, which is then the time of all that it does
        about it; None if the frame is lost, for want of room. `kept`: None if the frame came from elsewhere."""

    def emit(self, event: events.Committed) -> None: ...


class Router:
    """`placement` and `storages` decide which router, and which storage, owns a conversation or a user. `epoch` is the
    wall time in seconds since 1970 at which this node's `now` was 0."""

    def __init__(
        self,
        port: RouterPort,
        policies: Policies,
        name: str = SINGLE.nodes[0],
        placement: Placement = SINGLE,
        storages: Placement = SINGLE_STORAGE,
        epoch: float = 0.0,
        timers: Timers | None = None,
    ) -> None:
        """`timers`: what its deadlines stand in; some of its own, if they are not given."""
        self._charge = port.charge
        self._own: deque[tuple[ToRouter, Any]] = deque()  # frames for itself, with what the shell keeps of each
        self._storages = Storages(port, storages)
        parts = _PartsPort(port, name, placement, self._own, self._storages.ask)
        self._timers = timers or Timers()
        self._conversations = Conversations(parts, policies, epoch, self._timers)
        self._chatrooms = Chatrooms(parts, policies, epoch)
        self._users = Users(parts, policies, self._timers)
        self._answered = {
            kind: (answered, part)
            for part in (self._conversations, self._users)
            for kind, answered in part.answered.items()
        }

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)
        self._run(now)

    def receive(self, frame: ToRouter, now: float) -> None:
        self._own.append((frame, None))
        self._run(now)

    def _run(self, now: float) -> None:
        """Deal with what this router has sent to itself, and with what cannot be stored."""
        own, refused = self._own, self._storages.refused
        while True:
            if refused:
                self._timers.at(now, self._fail, tuple(refused))
                refused.clear()
            if not own:
                return
            frame, kept = own.popleft()
            done = self._charge(frame, kept, now)
            if done is None:
                continue
            now = done
            if type(frame) is not Up or not frame.conversation_id:
                self._users.receive(frame, now)
            elif is_chatroom(frame.conversation_id):
                self._chatrooms.receive(frame, now)
            else:
                self._conversations.receive(frame, now)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        """The answer to `port.store`."""
        if self._storages.is_answered(request):
            answered, part = self._answered[type(request)]
            answered(part, request, result, now)
            self._run(now)

    def _fail(self, requests: tuple[storage.Request, ...], now: float) -> None:
        for request in requests:
            self.stored(request, _LOST, now)

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Have a conversation ready for what will come; every conversation is opened at its first use anyway."""
        self._conversations.open(conversation_id, now, founders)
        self._run(now)

    def gateway_lost(self, gateway: str, now: float) -> None:
        """The link to a gateway broke, which has therefore ended the connections of all sessions."""
        self._users.gateway_lost(gateway, now)
        self._chatrooms.gateway_lost(gateway)
        self._run(now)

    def router_back(self, now: float) -> None:
        """The link to another router, which had broken, works again."""
        self._users.router_back(now)
        self._run(now)

    def storage_lost(self, name: str, now: float) -> None:
        """The link to a storage broke: what that has not answered has failed, and so does all else at once until the
        storage is back."""
        self._fail(tuple(self._storages.lost(name)), now)

    def storage_back(self, name: str) -> None:
        """The link to the storage works again."""
        self._storages.back(name)

    def restarted(self, now: float) -> None:
        """This router takes the position of one that died."""
        self._users.restarted(now)
        self._run(now)


class _PartsPort:
    """The port of a router's parts: it addresses what they send to users."""

    __slots__ = ("_keep", "_name", "_own", "_placement", "_to_router", "emit", "store", "to_gateway")

    def __init__(
        self,
        port: RouterPort,
        name: str,
        placement: Placement,
        own: deque[tuple[ToRouter, Any]],
        store: Callable[[storage.Request], None],
    ) -> None:
        """`name`: of this router; `own`: what it has for itself."""
        self._name = name
        self._own = own
        self._placement = placement
        self._keep = port.keep
        self._to_router = port.to_router
        self.store = store
        self.to_gateway = port.to_gateway
        self.emit = port.emit

    def to_user(self, user: str, frame: ToRouter) -> None:
        router = self._placement.owner(user)
        if router == self._name:
            self._own.append((frame, self._keep(frame)))
        else:
            self._to_router(router, frame)

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        for router, users in self._placement.split(frame.users):
            part = frame if len(users) == len(frame.users) else replace(frame, users=users)
            if router == self._name:
                self._own.append((part, self._keep(part)))
            else:
                self._to_router(router, part)
