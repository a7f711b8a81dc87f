"""Those who watch that nobody gets more than the policies allow, and that nobody is told to wait who need not.

What a gateway measures, it measures by its own clock; one whose clock a fault has moved is believed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from imsim.core import frames, internal_frames, storage
from imsim.core.model import Code, Message, Scene, Session, conversation_id, is_chatroom
from imsim.core.policies import Policies
from imsim.faultsearch.model.reference import wish_of
from imsim.faultsearch.model.rules import is_of_a_stranger
from imsim.faultsearch.model.view import wish_to_send

if TYPE_CHECKING:
    from imsim.faultsearch.checks.ongoing import Found
    from imsim.faultsearch.nodes import Instance
    from imsim.faultsearch.world import World

_READS = 16  # of a connection that may be under way
_READ_OPS = (frames.Sync.op, frames.History.op, frames.ReadCount.op)
_READ_ANSWERS = (frames.Page, frames.SyncDone, frames.HistoryPage, frames.ReadCounted)
_ASK_AGAIN = 1.0  # seconds after which who has too many under way may ask again
_ROUNDING = 0.01  # of a token


def written_in(message: Message) -> int:
    """How many bytes its users wrote in it."""
    file = json.dumps(message.file, ensure_ascii=False, separators=(",", ":")) if message.file is not None else ""
    return len(f"{message.content}{message.custom or ''}{file}".encode())


def fits(sizes: Iterable[int], most: int) -> bool:
    """Whether a page may hold what has so many bytes each: no more than its bytes, but for one that alone has more; and
    what has nothing."""
    sizes = [size for size in sizes if size]
    return sum(sizes) <= most or len(sizes) == 1


class Pages:
    """A page of a sync has no more messages and bytes than it may have; and one after which there is more has
    something, or it would be asked for again for ever."""

    def __init__(self, policies: Policies, found: Found) -> None:
        self._page = policies.page
        self._page_bytes = policies.page_bytes
        self._found = found

    def told(self, down: internal_frames.Down) -> None:
        frame = down.frame
        if not isinstance(frame, frames.Page | frames.SyncDone):
            return
        sizes = [written_in(message) for message in frame.messages]
        # Not what users wrote to places: these are told as they are by now, and storage had weighed them as they were.
        if len(frame.messages) > self._page or not fits(sizes, self._page_bytes):
            text = f"{down.sessions} got {len(frame.messages)} messages with {sum(sizes)} bytes in one page"
            self._found.append(("pages_are_no_larger_than_was_set", text))
        if type(frame) is frames.Page and not sizes:
            self._found.append(("pages_are_not_empty", f"{down.sessions} got nothing, and was to ask for more"))


class _Buckets:
    """What flows into each, at what rate, up to a burst; and what was taken, which may be more than there was."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, ...], tuple[float, float]] = {}  # tokens, and when

    def left(self, key: tuple[str, ...], rate: float, burst: int, now: float) -> float:
        tokens, at = self._buckets.get(key, (float(burst), now))
        return min(burst, tokens + max(0.0, now - at) * rate)

    def take(self, key: tuple[str, ...], rate: float, burst: int, now: float) -> float:
        """Returns what is left; below 0 there was nothing to be taken."""
        left = self.left(key, rate, burst, now) - 1
        self._buckets[key] = (left, now)
        return left

    def forget(self, *start: str) -> None:
        for key in [key for key in self._buckets if key[: len(start)] == start]:
            del self._buckets[key]


class Limits:
    """Who is told to wait has to, and nobody gets by who would have to; no send is swallowed; and gateways hold neither
    more reads of a connection under way than they may, nor a connection that is silent for too long."""

    def __init__(self, world: World, instances: dict[str, Instance], found: Found) -> None:
        self._policies = world.case.policies
        self._instances = instances
        self._found = found
        self._owners = world.owners
        self._open: dict[str, frames.Send] = {}  # gateway -> the send that it has to do something with
        self._buckets = _Buckets()
        self._budgets = _Buckets()  # by group and chatroom, with what its writer has taken, stored or not, and when
        self._epochs: dict[str, int] = {}  # by group, that of its writer
        self._believed: set[str] = set()  # gateways with a clock that runs otherwise
        self._sessions: dict[tuple[str, int], float] = {}  # (gateway, connection) -> logged in since
        self._current: dict[tuple[str, str], int] = {}  # (gateway, instance) -> its connection
        self._heard: dict[tuple[str, str], float] = {}  # (gateway, instance) -> when last
        self._reads: dict[int, list[float]] = defaultdict(list)  # by connection, when those under way were asked for

    # --- what befalls gateways ---

    def clock_moved(self, gateway: str) -> None:
        self._believed.add(gateway)

    def crashed(self, gateway: str) -> None:
        self._buckets.forget(gateway)
        for key in [key for key in self._sessions if key[0] == gateway]:
            del self._sessions[key]

    # --- what comes to them ---

    def reached_gateway(self, gateway: str, instance: str, frame: frames.FromClient, now: float) -> None:
        self._heard[gateway, instance] = now
        if type(frame) is frames.Send:
            self._swallowed(gateway)
            self._open[gateway] = frame

    def came_down(self, gateway: str, frame: internal_frames.ToGateway, now: float) -> None:
        if type(frame) is internal_frames.Attached and frame.session is not None:
            self._sessions[gateway, frame.connection] = now
            self._current[gateway, self._owners[frame.connection]] = frame.connection
            self._buckets.forget(gateway, "room", self._owners[frame.connection])
        elif type(frame) is internal_frames.Down and _answers_a_read(frame.frame):
            for session in frame.sessions:
                del self._reads[session.connection][:1]

    # --- what leaves them ---

    def left_gateway(self, gateway: str, peer: str, thing: object, now: float) -> None:
        if type(thing) is internal_frames.Up:
            self._passed_on(gateway, thing, now)
        elif type(thing) is frames.Rejected:
            self._rejected(gateway, self._instances[peer], thing, now)
        elif type(thing) is internal_frames.Detach:
            self._ended(gateway, thing.session, now)
        elif type(thing) is frames.Push and is_chatroom(thing.message.conversation_id):
            policies = self._policies
            key = (gateway, "room", peer)
            if policies.room_rate and self._is_over(gateway, key, policies.room_rate, policies.room_burst, now):
                self._tell("limits_are_what_was_set", f"{thing.message.id} was too much for {peer}")

    def shed(self, gateway: str, device: str, message: Message, now: float) -> None:
        policies = self._policies
        here = [name for (at, name) in self._current if at == gateway and self._instances[name].key == device]
        rate, burst = policies.room_rate, policies.room_burst
        left = [self._buckets.left((gateway, "room", name), rate, burst, now) for name in here]
        if not rate or (gateway not in self._believed and all(one >= 1 + _ROUNDING for one in left)):
            self._tell("limits_are_what_was_set", f"{message.id} was shed for {device}, who might have had it")

    def over(self, now: float) -> None:
        """The run has ended."""
        for gateway, connection in list(self._sessions):
            self._silent(gateway, connection, now)

    def _passed_on(self, gateway: str, up: internal_frames.Up, now: float) -> None:
        frame, user, policies = up.frame, up.session.user, self._policies
        if self._open.get(gateway) is frame:
            del self._open[gateway]
        if type(frame) is frames.Typing:
            key = (gateway, "hints", user)
            if not policies.typing_rate or self._is_over(
                gateway, key, policies.typing_rate, policies.typing_burst, now
            ):
                self._tell("limits_are_what_was_set", f"{user} hinted too often: {frame}")
            return
        if type(frame) is frames.Leave and not frame.number:
            return  # the gateway itself: the connection is gone
        if policies.user_rate:
            key = (gateway, _kind(frame.op), user)
            if self._is_over(gateway, key, policies.user_rate, policies.user_burst, now):
                self._tell("limits_are_what_was_set", f"{frame.ref or user} came too soon: {frame.op} of {user}")
        if frame.op in _READ_OPS:
            reads = self._under_way(up.session.connection, now)
            reads.append(now)
            if len(reads) > _READS and gateway not in self._believed:
                self._tell("queues_are_bounded", f"{user}/{up.session.device} has {len(reads)} reads under way")

    def _under_way(self, connection: int, now: float) -> list[float]:
        """An answer to what was asked too long ago was lost."""
        reads = self._reads[connection]
        reads[:] = [at for at in reads if at > now - self._policies.storage_timeout]
        return reads

    def _is_over(self, gateway: str, key: tuple[str, ...], rate: float, burst: int, now: float) -> bool:
        return self._buckets.take(key, rate, burst, now) < -_ROUNDING and gateway not in self._believed

    def _ended(self, gateway: str, session: Session, now: float) -> None:
        self._silent(gateway, session.connection, now)
        self._sessions.pop((gateway, session.connection), None)
        self._reads.pop(session.connection, None)

    def _silent(self, gateway: str, connection: int, now: float) -> None:
        since = self._sessions.get((gateway, connection), now)
        silence = now - max(since, self._heard.get((gateway, self._owners[connection]), 0.0))
        if silence > self._policies.heartbeat_timeout + 0.001 and gateway not in self._believed:
            text = f"{self._owners[connection]} was held by {gateway} though silent for {silence:.3f} s"
            self._tell("nobody_silent_is_held", text)

    # --- refusals ---

    def _rejected(self, gateway: str, instance: Instance, frame: frames.Rejected, now: float) -> None:
        if frame.request == frames.Send.op:
            open = self._open.get(gateway)
            if open is not None and open.id_client == frame.ref:
                del self._open[gateway]
        if frame.code == Code.RATE_LIMITED:
            if frame.request == frames.Send.op:
                self._told_to_wait(instance, frame)
            self._needlessly(gateway, instance, frame, now)

    def _swallowed(self, gateway: str) -> None:
        if (swallowed := self._open.pop(gateway, None)) is not None:
            self._tell("no_send_is_swallowed", f"{swallowed.id_client} went no further than {gateway}")

    def _told_to_wait(self, instance: Instance, frame: frames.Rejected) -> None:
        policies = self._policies
        rates = [policies.user_rate]
        if instance.sent[frame.ref]["scene"] in (Scene.GROUP, Scene.CHATROOM):
            rates.append(policies.group_rate)
        if not any(rate and 0 < frame.retry_after <= 1 / rate + 1e-6 for rate in rates):
            self._tell("limits_are_what_was_set", f"{frame.ref} of {instance.name} was to wait {frame.retry_after} s")

    def _needlessly(self, gateway: str, instance: Instance, frame: frames.Rejected, now: float) -> None:
        """Whether there was no cause: not too often, as its gateway has counted, and not too many reads under way."""
        policies, is_send = self._policies, frame.request == frames.Send.op
        if gateway in self._believed:
            return
        if is_send and policies.group_rate and instance.sent[frame.ref]["scene"] in (Scene.GROUP, Scene.CHATROOM):
            return  # which its writer counts: see `told`
        connection = self._current.get((gateway, instance.name), 0)
        reads = self._under_way(connection, now) if frame.request in _READ_OPS else []
        if len(reads) >= _READS and frame.retry_after == _ASK_AGAIN:
            return
        rate, burst = policies.user_rate, policies.user_burst
        key = (gateway, _kind(frame.request), instance.user)
        if not rate or self._buckets.left(key, rate, burst, now) >= 1 + _ROUNDING:
            self._tell("limits_are_what_was_set", f"{instance.name} was to wait, and might have asked: {frame}")

    # --- writers ---

    def asked(self, request: storage.Append, now: float) -> None:
        """A writer of a group has let this in, and storage may. Each writer begins with a full bucket."""
        message = request.message
        if self._epochs.get(message.conversation_id) != request.epoch:
            self._epochs[message.conversation_id] = request.epoch
            self._budgets.forget(message.conversation_id)
        if message.scene == Scene.GROUP and not is_of_a_stranger(wish_of(message)):
            self._spend(message.conversation_id, now)

    def _spend(self, conversation: str, now: float) -> None:
        self._budgets.take((conversation,), self._policies.group_rate, self._policies.group_burst, now)

    def told(self, router: str, down: internal_frames.Down, now: float) -> None:
        """A writer has somebody wait: a member, and there was nothing left; by its own clock, too."""
        frame, session = down.frame, down.sessions[0]
        if not isinstance(frame, frames.Rejected) or frame.code != Code.RATE_LIMITED:
            return
        sent = self._instances[self._owners[session.connection]].sent[frame.ref]
        key = (conversation_id(sent["scene"], session.user, sent["to"]),)
        left = self._budgets.left(key, self._policies.group_rate, self._policies.group_burst, now)
        if is_of_a_stranger(wish_to_send(session.user, sent)):
            self._tell("limits_are_what_was_set", f"{frame.ref} of {session}, no member, was to wait as members are")
        elif left >= 1 + _ROUNDING and router not in self._believed:
            self._tell("limits_are_what_was_set", f"{frame.ref} of {session} was to wait, and might have been said")

    def appended(self, request: storage.Append) -> None:
        """A writer of a group lets in of its members what flows into its bucket, by its own clock, and no more."""
        message = request.message
        if message.scene == Scene.GROUP and not is_of_a_stranger(wish_of(message)):
            self._let_in(message, str(request.epoch))

    def said(self, message: Message, now: float, *, is_first: bool) -> None:
        """So does a chatroom. `is_first`: that is said in it since it began anew, as nobody was there any more."""
        if is_first:
            self._buckets.forget(message.conversation_id)
            self._budgets.forget(message.conversation_id)
        self._spend(message.conversation_id, now)
        self._let_in(message, "")

    def _let_in(self, message: Message, writer: str) -> None:
        policies, key = self._policies, (message.conversation_id, writer)
        if policies.group_rate:
            left = self._buckets.take(key, policies.group_rate, policies.group_burst, message.time / 1000)
            if left < -_ROUNDING - 0.002 * policies.group_rate:
                self._tell("limits_are_what_was_set", f"{message.id} came too soon")

    def _tell(self, invariant: str, text: str) -> None:
        self._found.append((invariant, text))


def _kind(op: str) -> str:
    """What is counted with what."""
    kinds = {frames.Send.op: "messages", frames.Sync.op: "syncs", frames.Delivered.op: "marks"}
    return kinds.get(op, "requests")


def _answers_a_read(frame: frames.ToClient) -> bool:
    return isinstance(frame, _READ_ANSWERS) or (type(frame) is frames.Rejected and frame.request in _READ_OPS)
