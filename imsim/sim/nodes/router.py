"""A router's node."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from imsim.core import events, frames, internal_frames, storage
from imsim.core.model import is_chatroom
from imsim.core.router.chatrooms import Chatrooms
from imsim.core.router.conversations import Conversations
from imsim.core.router.users import Users
from imsim.scenario.actor import intent_of
from imsim.sim.nodes.machines import Machines

if TYPE_CHECKING:
    from imsim.sim.world import World

_Asked = tuple[Conversations | Users, storage.Request]
_LOST = storage.Failed("the storage is lost")


class RouterNode(Machines):
    """Holds the conversations and the users that hash to it."""

    __slots__ = (
        "_asked_at_once",
        "_gateway_links",
        "_local",
        "_lost_storages",
        "_router_links",
        "_storage_links",
        "_unanswered",
        "chatrooms",
        "conversations",
        "index",
        "users",
        "work",
    )

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world)
        topology = world.scenario.topology
        self.index = index
        self.work = world.new_work(topology.router, "router", index)
        self._gateway_links = world.backend_links(("router", index), "gateway", topology.gateways)
        self._router_links = world.backend_links(("router", index), "router", topology.routers)
        self._storage_links = world.backend_links(("router", index), "storage", topology.storages)
        self._local: deque[internal_frames.ToUsers] = deque()
        self._asked_at_once: list[storage.Request] | None = None
        #: What each storage was asked and has not answered, by the request's identity; only where links can break.
        self._unanswered: list[dict[int, _Asked]] | None = None
        if world.faults.cuts_links:
            self._unanswered = [{} for _ in self._storage_links]
        self._lost_storages: set[int] = set()
        self.conversations: Conversations | None = None
        self.chatrooms: Chatrooms | None = None
        self.users: Users | None = None
        self.start()

    def start(self) -> None:
        self.conversations = Conversations(self, self.world.policies, self.world.epoch)
        self.chatrooms = Chatrooms(self, self.world.policies, self.world.epoch)
        self.users = Users(self, self.world.policies)
        self._timers = (self.conversations.timers, self.users.timers)

    def warm_up(self, conversation_id: str, founders: tuple[str, ...]) -> None:
        """Have a conversation open, as it would be had the service run for a while; free of charge."""
        assert self.conversations is not None
        self._asked_at_once = []
        self.conversations.open(conversation_id, self.now, founders)
        asked, self._asked_at_once = self._asked_at_once, None
        for request in asked:
            self.conversations.stored(request, self.world.storage.execute(request), self.now)

    def crash(self) -> None:
        """Everything in memory is gone, answers from storage included."""
        self.conversations = self.chatrooms = self.users = None
        self._timers = ()
        self._local.clear()
        for unanswered in self._unanswered or ():
            unanswered.clear()
        self.work.forget(self.clock.now)

    def forget(self) -> None:
        for timers in self._timers:
            timers.clear()
        self.crash()

    def start_anew(self) -> None:
        self.start()
        assert self.users is not None
        self.now = self.clock.now
        self.users.restarted(self.now)
        self.arm()

    def gateway_lost(self, gateway: str) -> None:
        """The link to it broke."""
        if self.users is not None and self.chatrooms is not None:
            self.now = self.clock.now
            self.users.gateway_lost(gateway, self.now)
            self.chatrooms.gateway_lost(gateway)
            self._drain()
            self.arm()

    def router_back(self) -> None:
        """The link to another router is there again."""
        if self.users is not None:
            self.now = self.clock.now
            self.users.router_back(self.now)
            self._drain()
            self.arm()

    def storage_lost(self, index: int) -> None:
        """The link to it broke: what it has not answered has failed, and all else fails at once until it is back."""
        assert self._unanswered is not None
        self._lost_storages.add(index)
        unanswered, self._unanswered[index] = self._unanswered[index], {}
        for asker, request in unanswered.values():
            self._answered(asker, request, _LOST)

    def storage_back(self, index: int) -> None:
        self._lost_storages.discard(index)

    def revoke(self, user: str) -> None:
        if self.users is not None:
            self.now = self.clock.now
            self.users.revoke(user, self.world.epoch + self.now, self.now)
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
        self._drain()
        self.arm()

    def _to_users(self, frame: internal_frames.ToUsers, now: float) -> None:
        assert self.users is not None
        if type(frame) is internal_frames.Deliver and self.work.takes(frame.op):
            message = frame.message
            numbers = [self.world.user_number(user) for user in frame.users]
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
            self._to_users(self._local.popleft(), self.now)

    def stored(self, answer: tuple[Conversations | Users, storage.Request, storage.Result]) -> None:
        machine, request, result = answer
        if self._unanswered is not None:
            unanswered = self._unanswered[self.world.storage_for(request).index]
            if unanswered.pop(id(request), None) is None:
                return  # an answer to what has failed since, or was asked before a crash
        self._answered(machine, request, result)

    def _answered(self, machine: Conversations | Users, request: storage.Request, result: storage.Result) -> None:
        if machine is self.conversations or machine is self.users:  # else it has died since it asked
            self.now = self.clock.now
            machine.stored(request, result, self.now)
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
        node = self.world.storage_for(request)
        if self._unanswered is not None:
            if node.index in self._lost_storages:
                self.clock.call_at(self.now, self._fail, (asker, request))  # a machine is never re-entered
                return
            assert asker is not None
            self._unanswered[node.index][id(request)] = (asker, request)
        self._storage_links[node.index].carry(self.now, node.receive, (self, asker, request))

    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None:
        index = int(gateway[1:])
        self._gateway_links[index].carry(self.now, self.world.gateways[index].from_router, frame)

    def to_users(self, frame: internal_frames.Deliver | internal_frames.Opened) -> None:
        for index, users in self.world.by_router(frame.users):
            part = frame if len(users) == len(frame.users) else replace(frame, users=users)
            if index == self.index:
                self._local.append(part)
            else:
                self._router_links[index].carry(self.now, self.world.routers[index].receive, part)

    def to_user(self, user: str, frame: internal_frames.ToUsers) -> None:
        router = self.world.router_of(user)
        if router is self:
            self._local.append(frame)
        else:
            self._router_links[router.index].carry(self.now, router.receive, frame)

    def emit(self, event: events.Committed) -> None:
        self.world.observer.committed(event, self.now)
