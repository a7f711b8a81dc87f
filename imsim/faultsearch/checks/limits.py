"""Checks of limits: no user, room or device gets more than the policies allow, and none waits without need.

The property tests of `Bucket` prove the bucket itself (tests/core/test_limits.py). These checks verify its use: for
everyone, with the rate of the policies, and once for each frame that passes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code, Message, Scene, is_chatroom
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import (
    Asked,
    Crashed,
    GatewayForwarded,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    RouterReceived,
    RouterSent,
    Said,
    Shed,
    Stored,
)
from imsim.faultsearch.model.reference import wish_of
from imsim.faultsearch.model.rules import is_of_a_stranger
from imsim.faultsearch.model.view import conversation_of, wish_to_send

_READS = 16  # the largest number of pending reads of a connection
_READ_OPS = (frames.Sync.op, frames.History.op, frames.ReadCount.op, frames.Group.op, frames.Friends.op)
_READ_ANSWERS = (
    frames.Page, frames.SyncDone, frames.HistoryPage, frames.ReadCounted, frames.GroupPage, frames.FriendsPage,
)  # fmt: skip
_ASK_AGAIN = 1.0  # seconds until a client with too many pending reads may ask again
_ROUNDING = 0.01  # tokens

Limit = tuple[float, int]  # rate, burst


class _Left(dict[tuple[str, ...], tuple[float, float]]):
    """The tokens left in the bucket of each key, and the time of that count."""

    def at(self, now: float, limit: Limit, *key: str) -> float:
        rate, burst = limit
        left, since = self.get(key, (burst, now))
        return min(burst, left + rate * max(0.0, now - since))

    def after(self, now: float, limit: Limit, *key: str) -> float:
        """Take a token, and return the number left; below 0 there were too few."""
        left = self.at(now, limit, *key) - 1
        self[key] = (left, max(now, self.get(key, (0.0, now))[1]))
        return left

    def forget(self, *start: str) -> None:
        for key in [key for key in self if key[: len(start)] == start]:
            del self[key]


class Limits(Check):
    """Checks rates and bursts, waits without need, and the number of pending reads of a connection.

    A gateway measures by its own clock.
    """

    def begin(self) -> None:
        policies = self.policies
        self._user: Limit = (policies.user_rate, policies.user_burst)
        self._group: Limit = (policies.group_rate, policies.group_burst)
        self._room: Limit = (policies.room_rate, policies.room_burst)
        self._passed = _Left()  # buckets of gateways, by gateway, kind, and user or instance
        self._budgets = _Left()  # by group and chatroom: tokens that its writer has taken, for stored messages or not
        self._written = _Left()  # the same for messages stored or sent in rooms, by the writer's own clock
        self._epochs: dict[str, int] = {}  # by group, the epoch of its writer
        self._reads: dict[int, list[float]] = defaultdict(list)  # by connection, the times of its pending reads
        self._current: dict[tuple[str, str], int] = {}  # (gateway, instance) -> its connection
        self._lost_after = policies.storage_timeout
        #: By conversation, sender and idClient: the sends that its writer got and did not refuse as busy.
        self._open_sends: Counter[tuple[str, str, str]] = Counter()

    # --- at gateways ---

    def crashed(self, entry: Crashed) -> None:
        self._passed.forget(entry.node)

    def attached(self, entry: GatewayNotified[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            instance = self.world.owners[entry.frame.connection]
            self._passed.forget(entry.node, "room", instance)
            self._current[entry.node, instance] = entry.frame.connection

    def answer_arrived(self, entry: GatewayNotified[internal_frames.Down]) -> None:
        frame = entry.frame.frame
        is_refusal = isinstance(frame, frames.Rejected) and frame.request in _READ_OPS
        if is_refusal or isinstance(frame, _READ_ANSWERS):
            for session in entry.frame.sessions:
                del self._reads[session.connection][:1]

    def detached(self, entry: GatewayForwarded[internal_frames.Detach]) -> None:
        self._reads.pop(entry.frame.session.connection, None)

    def pushed(self, entry: GatewaySent[frames.Push]) -> None:
        if is_chatroom(entry.frame.message.conversation_id) and self.policies.room_rate:
            self._let_through(entry, self._room, "room", entry.peer, entry.frame.message.id)

    def shed(self, entry: Shed) -> None:
        names = [name for name, instance in self.instances.items() if instance.key == entry.device]
        keys = [key for key in self._passed if key[:2] == (entry.node, "room") and key[2] in names]
        left = [self._passed.at(entry.at, self._room, *key) for key in keys]
        if not self.policies.room_rate or all(one >= 1 + _ROUNDING for one in left):
            text = f"{entry.message.id} was shed for {entry.device}, although its rate limit allowed it"
            self._wrong(entry.node, text)

    def forwarded(self, entry: GatewayForwarded[internal_frames.Up]) -> None:
        frame, session, policies = entry.frame.frame, entry.frame.session, self.policies
        user = session.user
        if isinstance(frame, frames.Typing):
            self._let_through(entry, (policies.typing_rate, policies.typing_burst), "typing", user, frame)
        # else the gateway's own, for a closed connection
        elif policies.user_rate and not (isinstance(frame, frames.Leave) and not frame.number):
            self._let_through(entry, self._user, _kind(frame.op), user, frame)
        if frame.op in _READ_OPS:
            reads = self._under_way(session.connection, entry.at)
            reads.append(entry.at)
            if len(reads) > _READS and entry.node not in self.evidence.skewed_clocks:
                self.violated("queues_are_bounded", f"{user}/{session.device} has {len(reads)} pending reads")

    def _let_through(self, entry: Any, limit: Limit, kind: str, whose: str, what: object) -> None:
        if self._passed.after(entry.at, limit, entry.node, kind, whose) < -_ROUNDING or not limit[0]:
            self._wrong(entry.node, f"{whose} exceeded its rate limit with {what}")

    def rejected(self, entry: GatewaySent[frames.Rejected]) -> None:
        """Check that the wait of a user is not too long, and has a cause: too many frames, or too many pending
        reads."""
        instance, frame = self.instances[entry.peer], entry.frame
        longest = max(self.policies.longest_wait, self.policies.reconnect_max)
        if frame.code == Code.BUSY and not 0 < frame.retry_after <= longest + 1e-6:
            self._wrong(entry.node, f"a busy server made {instance.name} wait {frame.retry_after} s")
        if frame.code != Code.RATE_LIMITED:
            return
        is_send = frame.request == frames.Send.op
        is_for_many = is_send and instance.sent[frame.ref]["scene"] in (Scene.GROUP, Scene.CHATROOM)
        rates = [self.policies.user_rate, self.policies.group_rate if is_for_many else 0.0]
        if is_send and not any(rate and 0 < frame.retry_after <= 1 / rate + 1e-6 for rate in rates):
            self._wrong("", f"{frame.ref} of {instance.name} has to wait {frame.retry_after} s, beyond 1/rate")
        if rates[1]:
            return  # its writer counts those: see `refused`
        connection = self._current.get((entry.node, instance.name), 0)
        has_many = frame.request in _READ_OPS and len(self._under_way(connection, entry.at)) >= _READS
        if has_many and frame.retry_after == _ASK_AGAIN:
            return
        left = self._passed.at(entry.at, self._user, entry.node, _kind(frame.request), instance.user)
        if not self.policies.user_rate or left >= 1 + _ROUNDING:
            self._wrong(entry.node, f"{instance.name} has to wait although its rate limit allowed this: {frame}")

    # --- at writers ---

    def arrived(self, entry: RouterReceived[Up[frames.Send]]) -> None:
        up = entry.frame
        self._open_sends[up.conversation_id, up.session.user, up.frame.id_client] += 1

    def asked(self, entry: Asked[storage.Append]) -> None:
        """Count a message of a group that its writer has accepted. Each writer starts with a whole burst.

        A message whose sends were all refused as busy must not be stored.
        """
        message, epoch = entry.request.message, entry.request.epoch
        if self._open_sends[message.conversation_id, message.sender, message.id_client] <= 0:
            self.violated("busy_refuses", f"{message.id} is stored, although every send of it was refused as busy")
        if self._epochs.get(message.conversation_id) != epoch:
            self._epochs[message.conversation_id] = epoch
            self._budgets.forget(message.conversation_id)
        if _is_counted(message):
            self._budgets.after(entry.at, self._group, message.conversation_id)

    def refused(self, entry: RouterSent[Down[frames.Rejected]]) -> None:
        """Check that a writer has only members wait, and only without a token left, by its own clock."""
        frame, session = entry.frame.frame, entry.frame.sessions[0]
        if frame.code == Code.BUSY:
            sent = self.instances[self.world.owners[session.connection]].sent[frame.ref]
            key = conversation_of(session.user, sent), session.user, frame.ref
            self._open_sends[key] -= 1
        if frame.code != Code.RATE_LIMITED:
            return
        sent = self.instances[self.world.owners[session.connection]].sent[frame.ref]
        if is_of_a_stranger(wish_to_send(session.user, sent)):
            self._wrong("", f"{frame.ref} of {session}, which is not a member, has to wait as members do")
        elif self._budgets.at(entry.at, self._group, conversation_of(session.user, sent)) >= 1 + _ROUNDING:
            self._wrong(entry.node, f"{frame.ref} of {session} has to wait although the rate limit allowed it")

    def appended(self, entry: Stored[storage.Append]) -> None:
        if _is_counted(entry.request.message) and isinstance(entry.result, storage.Appended):
            self._let_in(entry.request.message, str(entry.request.epoch))

    def said(self, entry: Said) -> None:
        """Count a chatroom message. A chatroom starts again when all have left it."""
        conversation = entry.message.conversation_id
        if len(self.evidence.rooms[conversation].remembered) == 1:
            self._written.forget(conversation)
            self._budgets.forget(conversation)
        self._budgets.after(entry.at, self._group, conversation)
        self._let_in(entry.message, "")

    def _let_in(self, message: Message, writer: str) -> None:
        """Check that a writer accepts no more than the limit allows, by its own clock."""
        rate = self.policies.group_rate
        left = self._written.after(message.time / 1000, self._group, message.conversation_id, writer)
        if rate and left < -_ROUNDING - 0.002 * rate:
            self._wrong("", f"{message.id} exceeded the rate limit of its conversation")

    def _wrong(self, clock: str, text: str) -> None:
        """Report a wrong limit, unless a fault changed the clock of the node `clock` that measured it ("": none
        did)."""
        if clock not in self.evidence.skewed_clocks:
            self.violated("limits_are_as_configured", text)

    def _under_way(self, connection: int, now: float) -> list[float]:
        """Return the times of the pending reads. The answers to older ones were lost."""
        reads = self._reads[connection] = [at for at in self._reads[connection] if at > now - self._lost_after]
        return reads


class Gateways(Check):
    """Checks that a gateway loses no send, and closes connections that are silent for too long."""

    def begin(self) -> None:
        self._open: dict[str, frames.Send] = {}  # gateway -> the send that it must pass on or refuse
        self._since: dict[tuple[str, int], float] = {}  # (gateway, connection) -> time of the login
        self._heard: dict[tuple[str, str], float] = {}  # (gateway, instance) -> time of the last frame

    def crashed(self, entry: Crashed) -> None:
        self._since = {key: since for key, since in self._since.items() if key[0] != entry.node}

    def attached(self, entry: GatewayNotified[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            self._since[entry.node, entry.frame.connection] = entry.at

    def reached(self, entry: GatewayReceived[Any]) -> None:
        self._heard[entry.node, entry.peer] = entry.at

    def came(self, entry: GatewayReceived[frames.Send]) -> None:
        if (lost := self._open.get(entry.node)) is not None:
            self.violated("gateways_lose_no_send", f"{lost.id_client} was lost at {entry.node}")
        self._open[entry.node] = entry.frame

    def forwarded(self, entry: GatewayForwarded[Up[frames.Send]]) -> None:
        if self._open.get(entry.node) is entry.frame.frame:
            del self._open[entry.node]

    def rejected(self, entry: GatewaySent[frames.Rejected]) -> None:
        open = self._open.get(entry.node)
        if entry.frame.request == frames.Send.op and open is not None and open.id_client == entry.frame.ref:
            del self._open[entry.node]

    def detached(self, entry: GatewayForwarded[internal_frames.Detach]) -> None:
        self._ended(entry.node, entry.frame.session.connection, entry.at)

    def finish(self) -> None:
        for gateway, connection in list(self._since):
            self._ended(gateway, connection, self.world.clock.now)

    def _ended(self, gateway: str, connection: int, now: float) -> None:
        instance = self.world.owners[connection]
        since = self._since.pop((gateway, connection), now)
        silence = now - max(since, self._heard.get((gateway, instance), 0.0))
        if silence > self.policies.heartbeat_timeout + 0.001 and gateway not in self.evidence.skewed_clocks:
            text = f"{instance} was kept by {gateway} although it was silent for {silence:.3f} s"
            self.violated("silent_connections_are_closed", text)


def _is_counted(message: Message) -> bool:
    return message.scene == Scene.GROUP and not is_of_a_stranger(wish_of(message))


def _kind(op: str) -> str:
    """Return the bucket in which this op counts."""
    kinds = {frames.Send.op: "messages", frames.Sync.op: "syncs", frames.Delivered.op: "marks"}
    return kinds.get(op, "requests")
