"""A router's node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import is_chatroom
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.users import Users
from imsim.scenario.actor import intent_of
from imsim.sim.clock import Clock
from imsim.sim.link import Hop
from imsim.sim.nodes.node import ServerNode
from imsim.sim.nodes.work import Work
from imsim.sim.placement import owner_of

#: Called with what was stored, and when.
Report = Callable[[events.Committed, float], None]

_Asked = tuple[Conversations | Users, storage.Request]
_LOST = storage.Failed("the storage is lost")


class RouterNode(ServerNode):
    """Holds the conversations and the users that it owns."""

    __slots__ = (
        "_asked_at_once",
        "_epoch",
        "_gateways",
        "_local",
        "_lost_storages",
        "_owner",
        "_policies",
        "_report",
        "_routers",
        "_storage_owner",
        "_storages",
        "_tracks_requests",
        "_unanswered",
        "_users",
        "chatrooms",
        "conversations",
        "users",
    )

    tier = "router"

    def __init__(
        self,
        index: int,
        clock: Clock,
        work: Work,
        policies: Policies,
        epoch: float,
        users: Mapping[str, int],
        owner: Callable[[str], int],
        storage_owner: Callable[[str], int],
        report: Report,
        *,
        tracks_requests: bool,
    ) -> None:
        """`epoch`: wall time at which the clock was 0. `users`: the number of each. `owner`, `storage_owner`: the
        number of the router, and of the storage, that owns a conversation or a user. `tracks_requests`: where links can
        break, so that requests to a storage that is lost fail."""
        super().__init__(index, clock, work)
        self._policies = policies
        self._epoch = epoch
        self._users = users
        self._owner = owner
        self._storage_owner = storage_owner
        self._report = report
        self._tracks_requests = tracks_requests
        self._local: deque[tuple[internal_frames.ToUsers, Any]] = deque()  # with what `work` keeps of each
        self._asked_at_once: list[storage.Request] | None = None
        #: What each storage was asked and has not answered, by the request's identity.
        self._unanswered: list[dict[int, _Asked]] | None = None
        self._lost_storages: set[int] = set()
        self.conversations: Conversations | None = None
        self.chatrooms: Chatrooms | None = None
        self.users: Users | None = None
        self.wire({}, (), ())
        self.start()

    def wire(self, gateways: Mapping[str, Hop], routers: Sequence[Hop], storages: Sequence[Hop]) -> None:
        """Gateways by name, the others by number."""
        self._gateways = gateways
        self._routers = routers
        self._storages = storages
        if self._tracks_requests:
            self._unanswered = [{} for _ in storages]

    def start(self) -> None:
        super().start()
        self.conversations = Conversations(self, self._policies, self._epoch)
        self.chatrooms = Chatrooms(self, self._policies, self._epoch)
        self.users = Users(self, self._policies)
        self._timers = (self.conversations.timers, self.users.timers)

    def warm_up(
        self, conversation_id: str, founders: tuple[str, ...], execute: Callable[[storage.Request], storage.Result]
    ) -> None:
        """Have a conversation open, as it would be had the service run for a while; `execute`: storage's answers, at no
        cost."""
        assert self.conversations is not None
        self._asked_at_once = []
        self.conversations.open(conversation_id, self.now, founders)
        asked, self._asked_at_once = self._asked_at_once, None
        for request in asked:
            self.conversations.stored(request, execute(request), self.now)

    def crash(self) -> None:
        super().crash()
        self.conversations = self.chatrooms = self.users = None
        self._timers = ()
        self._local.clear()
        for unanswered in self._unanswered or ():
            unanswered.clear()

    def forget(self) -> None:
        for timers in self._timers:
            timers.clear()
        self.crash()
        self.wire({}, (), ())

    def restart(self) -> None:
        super().restart()
        assert self.users is not None
        self.now = self.clock.now
        self.users.restarted(self.now)
        self.arm()

    def peer_lost(self, peer: ServerNode) -> None:
        if peer.tier == "storage":
            self._storage_lost(peer.index)
        elif peer.tier == "gateway" and self.users is not None and self.chatrooms is not None:
            self.now = self.clock.now
            self.users.gateway_lost(peer.name, self.now)
            self.chatrooms.gateway_lost(peer.name)
            self._drain()
            self.arm()

    def peer_back(self, peer: ServerNode) -> None:
        if peer.tier == "storage":
            self._lost_storages.discard(peer.index)
        elif peer.tier == "router" and self.users is not None:
            self.now = self.clock.now
            self.users.router_back(self.now)
            self._drain()
            self.arm()

    def _storage_lost(self, index: int) -> None:
        """What it has not answered has failed, and all else fails at once until it is back."""
        assert self._unanswered is not None
        self._lost_storages.add(index)
        unanswered, self._unanswered[index] = self._unanswered[index], {}
        for asker, request in unanswered.values():
            self._answered(asker, request, _LOST)

    def revoke(self, user: str) -> None:
        if self.users is not None:
            self.now = self.clock.now
            self.users.revoke(user, self._epoch + self.now, self.now)
            self.arm()

    def handle_timer(self, now: float) -> None:
        if self.conversations is not None and self.users is not None:
            self.conversations.handle_timer(now)
            self.users.handle_timer(now)
            self._drain()

    def receive(self, frame: internal_frames.Up | internal_frames.ToUsers) -> None:
        if self.conversations is None or self.chatrooms is None or self.users is None:
            return
        now = self.clock.now
        if type(frame) is internal_frames.Up and frame.conversation_id:
            request = frame.frame
            intent = intent_of(request.id_client) if type(request) is frames.Send else None
            done = self.work.done(now, request.op, frame.conversation_id, intent, 0, request)
            if done is None:
                return  # no room: the frame vanishes
            self.now = done
            machine = self.chatrooms if is_chatroom(frame.conversation_id) else self.conversations
            machine.receive(frame, self.now)
        else:
            self._to_users(frame, now)
        if self._local:
            self._drain()
        self.arm()

    def _to_users(self, frame: internal_frames.ToUsers, now: float) -> None:
        assert self.users is not None
        if type(frame) is internal_frames.Deliver and self.work.takes(frame.op):
            message = frame.message
            numbers = [self._users[user] for user in frame.users]
            intent = intent_of(message.id_client)
            done = self.work.done_for_each(now, frame.op, message.conversation_id, intent, numbers, frame)
        else:
            done = self.work.done(now, frame.op, None, None, 0, frame)
        if done is None:
            return
        self.now = done
        self.users.receive(frame, self.now)

    def _drain(self) -> None:
        """What the conversations had for users of this same router, once they are done."""
        while self._local:
            frame, kept = self._local.popleft()
            self.work.resume(kept)
            self._to_users(frame, self.now)

    def stored(self, answer: tuple[Conversations | Users, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if self._unanswered is not None:
            unanswered = self._unanswered[self._storage_owner(owner_of(request))]
            if unanswered.pop(id(request), None) is None:
                return  # an answer to what has failed since, or was asked before a crash
        self._answered(machine, request, result)

    def _answered(self, machine: Conversations | Users, request: storage.Request, result: storage.Result) -> None:
        if machine is self.conversations or machine is self.users:  # else it has died since it asked
            self.now = self.clock.now
            machine.stored(request, result, self.now)
            if self._local:
                self._drain()
            self.arm()

    def _fail(self, asked: _Asked) -> None:
        self._answered(*asked, _LOST)

    # --- the port of both machines ---

    def store(self, request: storage.Request) -> None:
        if self._asked_at_once is not None:
            self._asked_at_once.append(request)
            return
        asker = self.users if isinstance(request, storage.USERS_REQUESTS) else self.conversations
        index = self._storage_owner(owner_of(request))
        assert asker is not None
        if self._unanswered is not None:
            if index in self._lost_storages:
                self.clock.call_at(self.now, self._fail, (asker, request))  # a machine is never re-entered
                return
            self._unanswered[index][id(request)] = (asker, request)
        carry, receive = self._storages[index]
        carry(self.now, receive, (self.index, asker, request))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        carry, receive = self._gateways[gateway]
        carry(self.now, receive, frame)

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        if len(self._routers) == 1:
            self._to_router(0, frame)
            return
        parts: dict[int, list[str]] = {}
        for user in frame.users:
            parts.setdefault(self._owner(user), []).append(user)
        for index, users in parts.items():
            self._to_router(index, frame if len(users) == len(frame.users) else replace(frame, users=users))

    def to_user(self, user: str, frame: internal_frames.ToUsers) -> None:
        self._to_router(self._owner(user), frame)

    def _to_router(self, index: int, frame: internal_frames.ToUsers) -> None:
        if index == self.index:
            self._local.append((frame, self.work.keep(self.now, frame)))
        else:
            carry, receive = self._routers[index]
            carry(self.now, receive, frame)

    def emit(self, event: events.Committed) -> None:
        self._report(event, self.now)
