"""Limits: no user, room or device gets more than the policies allow, and none has to wait without need.

A gateway measures by its own clock; one whose clock a fault has moved is believed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code, Message, Scene, conversation_id
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.rooms import Rooms
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    Asked,
    Crashed,
    GatewayForwarded,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    RouterSent,
    Said,
    Shed,
    Stored,
    Struck,
)
from imsim.faultsearch.model.reference import wish_of
from imsim.faultsearch.model.rules import is_of_a_stranger
from imsim.faultsearch.model.view import wish_to_send
from imsim.faultsearch.nodes import Instance

_READS = 16  # of a connection that may be under way
_READ_OPS = (frames.Sync.op, frames.History.op, frames.ReadCount.op)
_READ_ANSWERS = (frames.Page, frames.SyncDone, frames.HistoryPage, frames.ReadCounted)
_ASK_AGAIN = 1.0  # seconds after which a client with too many reads under way may ask again
_ROUNDING = 0.01  # of a token


class _Windows:
    """When something was let through, by key. Nothing else is kept: a limit holds if no window of time, of any length
    and up to now, has had more than the burst and what its length times the rate allows."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(self, key: tuple[str, ...], now: float) -> None:
        self._times[key].append(now)

    def left(self, key: tuple[str, ...], rate: float, burst: int, now: float) -> float:
        """How much more the fullest window may have; below 0 it has had too much."""
        times = self._times[key]
        counts = range(len(times), 0, -1)
        return burst - max(
            (count - rate * max(0.0, now - at) for count, at in zip(counts, times, strict=True)), default=0.0
        )

    def forget(self, *start: str) -> None:
        for key in [key for key in self._times if key[: len(start)] == start]:
            del self._times[key]


class Limits(Check):
    """Rates and bursts are kept, and nobody waits without need; a gateway loses no send, holds no more reads of a
    connection under way than it may, and no connection that is silent for too long."""

    def begin(self) -> None:
        self._owners = self.world.owners
        self._open: dict[str, frames.Send] = {}  # gateway -> the send that it has to pass on or to refuse
        self._passed = _Windows()
        self._budgets = _Windows()  # by group and chatroom: what its writer has taken, stored or not, and when
        self._epochs: dict[str, int] = {}  # by group, that of its writer
        self._believed: set[str] = set()  # gateways with a clock that runs otherwise
        self._sessions: dict[tuple[str, int], float] = {}  # (gateway, connection) -> logged in since
        self._current: dict[tuple[str, str], int] = {}  # (gateway, instance) -> its connection
        self._heard: dict[tuple[str, str], float] = {}  # (gateway, instance) -> when last
        self._reads: dict[int, list[float]] = defaultdict(list)  # by connection, when those under way were asked for

    @on(Struck)
    def struck(self, entry: Struck) -> None:
        if entry.kind == "clock":
            self._believed.add(entry.node)

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        self._passed.forget(entry.node)
        for key in [key for key in self._sessions if key[0] == entry.node]:
            del self._sessions[key]

    # --- what reaches a gateway ---

    @on(GatewayReceived)
    def reached_gateway(self, entry: GatewayReceived[Any]) -> None:
        self._heard[entry.node, entry.peer] = entry.at
        if type(entry.frame) is frames.Send:
            self._lost(entry.node)
            self._open[entry.node] = entry.frame

    @on(GatewayNotified, internal_frames.Attached)
    def attached(self, entry: GatewayNotified[internal_frames.Attached]) -> None:
        if entry.frame.session is not None:
            gateway, connection = entry.node, entry.frame.connection
            self._sessions[gateway, connection] = entry.at
            self._current[gateway, self._owners[connection]] = connection
            self._passed.forget(gateway, "room", self._owners[connection])

    @on(GatewayNotified, internal_frames.Down)
    def came_down(self, entry: GatewayNotified[internal_frames.Down]) -> None:
        if _answers_a_read(entry.frame.frame):
            for session in entry.frame.sessions:
                del self._reads[session.connection][:1]

    # --- what leaves it ---

    @on(GatewaySent, frames.Push)
    def pushed(self, entry: GatewaySent[frames.Push]) -> None:
        policies, message = self.policies, entry.frame.message
        if message.scene == Scene.CHATROOM and policies.room_rate:
            key = (entry.node, "room", entry.peer)
            if self._is_over(entry.node, key, policies.room_rate, policies.room_burst, entry.at):
                self.violated("limits_are_as_configured", f"{message.id} was too much for {entry.peer}")

    @on(Shed)
    def shed(self, entry: Shed) -> None:
        gateway, rate, burst = entry.node, self.policies.room_rate, self.policies.room_burst
        here = [name for (at, name) in self._current if at == gateway and self.instances[name].key == entry.device]
        left = [self._passed.left((gateway, "room", name), rate, burst, entry.at) for name in here]
        if not rate or (gateway not in self._believed and all(one >= 1 + _ROUNDING for one in left)):
            text = f"{entry.message.id} was shed for {entry.device}, which might have had it"
            self.violated("limits_are_as_configured", text)

    @on(GatewayForwarded, internal_frames.Up)
    def forwarded(self, entry: GatewayForwarded[internal_frames.Up]) -> None:
        gateway, up, now, policies = entry.node, entry.frame, entry.at, self.policies
        frame, user = up.frame, up.session.user
        if self._open.get(gateway) is frame:
            del self._open[gateway]
        if type(frame) is frames.Typing:
            key, rate, burst = (gateway, "hints", user), policies.typing_rate, policies.typing_burst
            if not rate or self._is_over(gateway, key, rate, burst, now):
                self.violated("limits_are_as_configured", f"{user} was typing too often: {frame}")
            return
        if type(frame) is frames.Leave and not frame.number:
            return  # of the gateway itself: the connection is gone
        if policies.user_rate:
            key = (gateway, _kind(frame.op), user)
            if self._is_over(gateway, key, policies.user_rate, policies.user_burst, now):
                self.violated("limits_are_as_configured", f"{frame.ref or user} came too soon: {frame.op} of {user}")
        if frame.op in _READ_OPS:
            reads = self._under_way(up.session.connection, now)
            reads.append(now)
            if len(reads) > _READS and gateway not in self._believed:
                self.violated("queues_are_bounded", f"{user}/{up.session.device} has {len(reads)} reads under way")

    @on(GatewayForwarded, internal_frames.Detach)
    def detached(self, entry: GatewayForwarded[internal_frames.Detach]) -> None:
        session = entry.frame.session
        self._silent(entry.node, session.connection, entry.at)
        self._sessions.pop((entry.node, session.connection), None)
        self._reads.pop(session.connection, None)

    def finish(self) -> None:
        for gateway, connection in list(self._sessions):
            self._silent(gateway, connection, self.world.clock.now)

    def _under_way(self, connection: int, now: float) -> list[float]:
        """An answer to what was asked too long ago was lost."""
        reads = self._reads[connection]
        reads[:] = [at for at in reads if at > now - self.policies.storage_timeout]
        return reads

    def _is_over(self, gateway: str, key: tuple[str, ...], rate: float, burst: int, now: float) -> bool:
        self._passed.add(key, now)
        return self._passed.left(key, rate, burst, now) < -_ROUNDING and gateway not in self._believed

    def _silent(self, gateway: str, connection: int, now: float) -> None:
        since = self._sessions.get((gateway, connection), now)
        silence = now - max(since, self._heard.get((gateway, self._owners[connection]), 0.0))
        if silence > self.policies.heartbeat_timeout + 0.001 and gateway not in self._believed:
            text = f"{self._owners[connection]} was held by {gateway} though silent for {silence:.3f} s"
            self.violated("silent_connections_are_closed", text)

    # --- refusals ---

    @on(GatewaySent, frames.Rejected)
    def rejected(self, entry: GatewaySent[frames.Rejected]) -> None:
        gateway, instance, frame = entry.node, self.instances[entry.peer], entry.frame
        if frame.request == frames.Send.op:
            open = self._open.get(gateway)
            if open is not None and open.id_client == frame.ref:
                del self._open[gateway]
        if frame.code == Code.RATE_LIMITED:
            if frame.request == frames.Send.op:
                self._has_to_wait(instance, frame)
            self._needlessly(gateway, instance, frame, entry.at)

    def _lost(self, gateway: str) -> None:
        if (lost := self._open.pop(gateway, None)) is not None:
            self.violated("gateways_lose_no_send", f"{lost.id_client} went no further than {gateway}")

    def _has_to_wait(self, instance: Instance, frame: frames.Rejected) -> None:
        rates = [self.policies.user_rate]
        if instance.sent[frame.ref]["scene"] in (Scene.GROUP, Scene.CHATROOM):
            rates.append(self.policies.group_rate)
        if not any(rate and 0 < frame.retry_after <= 1 / rate + 1e-6 for rate in rates):
            self.violated(
                "limits_are_as_configured", f"{frame.ref} of {instance.name} was to wait {frame.retry_after} s"
            )

    def _needlessly(self, gateway: str, instance: Instance, frame: frames.Rejected, now: float) -> None:
        """Whether there was no cause: not too often, as its gateway has counted, and not too many reads under way."""
        policies = self.policies
        if gateway in self._believed:
            return
        is_send = frame.request == frames.Send.op
        if is_send and policies.group_rate and instance.sent[frame.ref]["scene"] in (Scene.GROUP, Scene.CHATROOM):
            return  # which its writer counts: see `refused`
        connection = self._current.get((gateway, instance.name), 0)
        reads = self._under_way(connection, now) if frame.request in _READ_OPS else []
        if len(reads) >= _READS and frame.retry_after == _ASK_AGAIN:
            return
        rate, burst = policies.user_rate, policies.user_burst
        key = (gateway, _kind(frame.request), instance.user)
        if not rate or self._passed.left(key, rate, burst, now) >= 1 + _ROUNDING:
            self.violated("limits_are_as_configured", f"{instance.name} was to wait, and might have asked: {frame}")

    # --- writers ---

    @on(Asked, storage.Append)
    def asked(self, entry: Asked[storage.Append]) -> None:
        """A writer of a group has let this in, and storage may. Each writer begins with its whole burst."""
        message, epoch = entry.request.message, entry.request.epoch
        if self._epochs.get(message.conversation_id) != epoch:
            self._epochs[message.conversation_id] = epoch
            self._budgets.forget(message.conversation_id)
        if message.scene == Scene.GROUP and not is_of_a_stranger(wish_of(message)):
            self._budgets.add((message.conversation_id,), entry.at)

    @on(RouterSent, internal_frames.Down, frames.Rejected)
    def refused(self, entry: RouterSent[internal_frames.Down]) -> None:
        """A writer has somebody wait: a member, and there was nothing left; by its own clock, too."""
        frame, session = entry.frame.frame, entry.frame.sessions[0]
        assert isinstance(frame, frames.Rejected)
        if frame.code != Code.RATE_LIMITED:
            return
        sent = self.instances[self._owners[session.connection]].sent[frame.ref]
        key = (conversation_id(sent["scene"], session.user, sent["to"]),)
        rate, burst = self.policies.group_rate, self.policies.group_burst
        if is_of_a_stranger(wish_to_send(session.user, sent)):
            self.violated("limits_are_as_configured", f"{frame.ref} of {session}, no member, was to wait as members do")
        elif entry.node not in self._believed and self._budgets.left(key, rate, burst, entry.at) >= 1 + _ROUNDING:
            self.violated("limits_are_as_configured", f"{frame.ref} of {session} was to wait, and might have been said")

    @on(Stored, storage.Append)
    def appended(self, entry: Stored[storage.Append]) -> None:
        """A writer of a group lets in of its members, by its own clock, what the limit allows, and no more."""
        message = entry.request.message
        is_counted = message.scene == Scene.GROUP and not is_of_a_stranger(wish_of(message))
        if is_counted and isinstance(entry.result, storage.Appended):
            self._let_in(message, str(entry.request.epoch))

    @on(Said)
    def said(self, entry: Said) -> None:
        """So does a chatroom, which begins again when all have left it."""
        message = entry.message
        if self.other(Rooms).is_first:
            self._passed.forget(message.conversation_id)
            self._budgets.forget(message.conversation_id)
        self._budgets.add((message.conversation_id,), entry.at)
        self._let_in(message, "")

    def _let_in(self, message: Message, writer: str) -> None:
        rate, key, at = self.policies.group_rate, (message.conversation_id, writer), message.time / 1000
        if rate:
            self._passed.add(key, at)
            if self._passed.left(key, rate, self.policies.group_burst, at) < -_ROUNDING - 0.002 * rate:
                self.violated("limits_are_as_configured", f"{message.id} came too soon")


def _kind(op: str) -> str:
    """What is counted with what."""
    kinds = {frames.Send.op: "messages", frames.Sync.op: "syncs", frames.Delivered.op: "marks"}
    return kinds.get(op, "requests")


def _answers_a_read(frame: frames.ToClient) -> bool:
    return isinstance(frame, _READ_ANSWERS) or (type(frame) is frames.Rejected and frame.request in _READ_OPS)
