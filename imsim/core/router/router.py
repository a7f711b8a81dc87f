"""The Router machine: Conversations, Users and Chatrooms, the frames between them, and their requests to storages.

A router owns the conversations and users that `placement` gives it. It receives internal frames. A frame that it sends
to itself waits until the frame before it is handled. The shell carries frames to other nodes and requests to storages,
and its `charge` decides how long a frame keeps the router busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from imsim.core import events, frames, internal_frames, storage
from imsim.core.internal_frames import ToRouter, Up
from imsim.core.model import Code, is_chatroom
from imsim.core.placement import SINGLE, SINGLE_STORAGE, Placement
from imsim.core.policies import Policies
from imsim.core.router import answers
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.storages import Storages
from imsim.core.router.users import Users
from imsim.core.timers import Timers

_LOST = storage.Failed("the link to the storage is broken")


class RouterPort(Protocol):
    """The services that a shell gives a router."""

    def store(self, name: str, request: storage.Request) -> None:
        """Have the storage of this name carry out the request.

        The shell answers with `stored(request, result, now)`, or reports with `storage_lost` that the link broke.
        """

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def to_router(self, router: str, frame: ToRouter) -> None:
        """Send the frame to another router."""

    def keep(self, frame: ToRouter) -> Any:
        """Note that the router has queued a frame for itself. Returns an object that `charge` gets with the frame."""

    def charge(self, frame: ToRouter, kept: Any, now: float) -> float | None:
        """Return the time at which the router is done with this frame; None if a full queue drops the frame.

        That time is the `now` of everything that the router does with the frame. `kept` is the result of `keep`, or
        None for a frame from another node.
        """

    def wait(self, frame: ToRouter, now: float) -> float:
        """Return how long a frame that arrives at `now` must wait for the router, in seconds."""

    def emit(self, event: events.Committed) -> None: ...


class Router:
    """The state of one router node.

    `placement` and `storages` decide which router, and which storage, owns a conversation or a user. `epoch` is the
    wall time in seconds since 1970 at which this node's `now` was 0.
    """

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
        """`timers`: the timers that hold its deadlines; by default its own."""
        self._charge = port.charge
        self._wait = port.wait
        self._longest_wait = policies.longest_wait
        self._own: deque[tuple[ToRouter, Any]] = (
            deque()
        )  # frames that this router sends to itself, each with what `port.keep` returned for it
        self._storages = Storages(port, storages, policies.storage_timeout)
        self._parts = parts = _PartsPort(port, name, placement, self._own, self._storages)
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
        """Return the time of the next timer, or None if there is none."""
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        """Run the timers that are due at `now`."""
        self._timers.handle(now)
        self._run(now)

    def receive(self, frame: ToRouter, now: float) -> None:
        """Handle a frame from another node, and the frames for this router that follow from it."""
        self._own.append((frame, None))
        self._run(now)

    def _run(self, now: float) -> None:
        """Handle the frames that this router has sent to itself, and the requests that storage cannot carry out."""
        own, refused = self._own, self._storages.refused
        while True:
            if refused:
                self._timers.at(now, self._fail, tuple(refused))
                refused.clear()
            if not own:
                return
            frame, kept = own.popleft()
            if type(frame) is Up and type(frame.frame) is frames.Send and self._wait(frame, now) > self._longest_wait:
                answers.reject(self._parts, frame, Code.BUSY, "")
                continue
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
        """Handle the answer to a request of `port.store`."""
        if self._storages.is_answered(request):
            answered, part = self._answered[type(request)]
            answered(part, request, result, now)
            self._run(now)

    def _fail(self, requests: tuple[storage.Request, ...], now: float) -> None:
        for request in requests:
            self.stored(request, _LOST, now)

    def queued(self) -> Iterator[int]:
        """Yield counts of frames that wait in this router. Their sum is the length of its queues."""
        yield from self._conversations.queued()
        yield from self._users.queued()

    def open(self, conversation_id: str, now: float, founders: tuple[str, ...] | None = None) -> None:
        """Open a conversation in advance. Otherwise its first request opens it."""
        self._conversations.open(conversation_id, now, founders)
        self._run(now)

    def gateway_lost(self, gateway: str, now: float) -> None:
        """Remove the sessions of a gateway. The link to it broke, so it has ended all their connections."""
        self._users.gateway_lost(gateway, now)
        self._chatrooms.gateway_lost(gateway)
        self._run(now)

    def router_back(self, now: float) -> None:
        """Handle the news that a broken link to another router works again."""
        self._users.router_back(now)
        self._run(now)

    def storage_lost(self, name: str, now: float) -> None:
        """Handle a broken link to a storage. Its unanswered requests fail, and so do new ones until `storage_back`."""
        self._fail(tuple(self._storages.lost(name)), now)

    def storage_back(self, name: str) -> None:
        """Note that the link to the storage works again."""
        self._storages.back(name)

    def restarted(self, now: float) -> None:
        """Note that this router takes the position of one that crashed."""
        self._users.restarted(now)
        self._run(now)


class _PartsPort:
    """The port of Conversations, Users and Chatrooms. It finds the router of each user that they send a frame to."""

    __slots__ = (
        "_keep", "_name", "_own", "_placement", "_to_router", "append", "emit", "storage_wait", "store", "to_gateway",
    )  # fmt: skip

    def __init__(
        self,
        port: RouterPort,
        name: str,
        placement: Placement,
        own: deque[tuple[ToRouter, Any]],
        storages: Storages,
    ) -> None:
        """`name` is that of this router. `own` is its queue of frames for itself."""
        self._name = name
        self._own = own
        self._placement = placement
        self._keep = port.keep
        self._to_router = port.to_router
        self.store = storages.ask
        self.append = storages.append
        self.storage_wait = storages.wait
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
