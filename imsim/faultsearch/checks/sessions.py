"""Checks of sessions: the reasons for their ends, what they receive unrequested, and how soon they are answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

from imsim.core import events, frames, internal_frames
from imsim.core.model import Code, Session, is_chatroom, p2p_id, p2p_members
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import (
    ClientReceived,
    ClientSent,
    Crashed,
    Event,
    GatewayLost,
    Present,
    Revoked,
    RouterReceived,
    RouterSent,
    Started,
    Struck,
)
from imsim.faultsearch.model.rules import event_of
from imsim.faultsearch.nodes import Instance

Answer = frames.Page | frames.SyncDone | frames.Stored | frames.Rejected
Unasked = frames.Push | frames.Notify | frames.State | frames.Resync | frames.Presence | frames.IsTyping

_SLOW = ("storage_slow", "storage_stall", "storage_fails", "storage_late")
_TURNS = 20  # requests to storage, one after the other, that an answer may depend on
_LEAST = 1.0  # seconds


class Logins(Check):
    """Checks that the server ends a session permanently only for a reason, and that the device then waits.

    The device must not log in again before its application has it do so.
    """

    def begin(self) -> None:
        self._asked: dict[str, tuple[int, float]] = {}  # instance -> (moment, time of its token) of its last login
        self._ended: set[str] = set()  # instances
        self._refused: set[str] = set()  # instances whose token a fault refused
        # By user, each with the number of trace entries read:
        self._arrived: dict[str, list[tuple[int, internal_frames.Attach]]] = defaultdict(list)
        self._ends: dict[str, list[tuple[int, str]]] = defaultdict(list)  # the device to end
        # the time before which tokens are revoked
        self._revoked: dict[str, list[tuple[int, float]]] = defaultdict(list)

    @property
    def _moment(self) -> int:
        assert self.evidence.moment is not None
        return self.evidence.moment

    def asked(self, entry: ClientSent[frames.Login]) -> None:
        self._asked[entry.node] = (self._moment, float(entry.frame.token.split("@")[1]))
        if entry.node in self._ended:
            self.violated("ended_clients_do_not_log_in_again", f"{entry.node} logged in by itself after it was ended")

    def arrived(self, entry: RouterReceived[internal_frames.Attach]) -> None:
        self._arrived[entry.frame.user].append((self._moment, entry.frame))

    def asked_to_end(self, entry: RouterReceived[Up[frames.EndSession]]) -> None:
        self._ends[entry.frame.session.user].append((self._moment, entry.frame.frame.device))

    def revoked(self, entry: Revoked) -> None:
        self._revoked[entry.node].append((self._moment, entry.before))

    def token_refused(self, entry: Struck) -> None:
        if entry.kind == "token_refused":
            self._refused.add(entry.node)

    def started(self, entry: Started) -> None:
        self._ended.discard(entry.node)

    def ended(self, entry: Event[events.Ended]) -> None:
        self._ended.add(entry.node)
        if not self._has_reason(self.instances[entry.node], entry.event.code):
            text = f"{entry.node} was ended without a reason: {entry.event.code} {entry.event.text}"
            self.violated("sessions_end_for_a_reason", text)

    def _has_reason(self, instance: Instance, code: Code) -> bool:
        user, (since, issued) = instance.user, self._asked[instance.name]
        logins = [attach for at, attach in self._arrived[user] if at > since]
        if code in (Code.BAD_TOKEN, Code.TOKEN_EXPIRED):
            return instance.name in self._refused
        if code == Code.TOKEN_REVOKED:
            return any(at > since or issued < before for at, before in self._revoked[user])
        if code == Code.REPLACED:
            same = [attach.connection for attach in logins if attach.device == instance.device]
            return any(self.world.owners[connection] != instance.name for connection in same)
        slot, others = self.world.case.slot, {one.device for one in logins} - {instance.device}
        return code == Code.KICKED and (
            any(at > since and device == instance.device for at, device in self._ends[user])
            or any(slot(f"{user}/{device}") == slot(instance.key) for device in others)
        )


class Presence(Check):
    """Checks presence, typing, and other frames that devices do not request.

    Nothing is sent to a session that has ended, as far as the user's router knows; and no message to the session that
    sent it.

    Users receive presence only if the policy allows it, only if it is true, and only of friends. Across a block, nobody
    learns that the other user is online or typing. A router knows a block, or the end of a friendship, once it has sent
    it to a device of the user. At quiescence, the last presence that each device received is true.
    """

    def begin(self) -> None:
        #: (conversation, sender, idClient) -> the sessions that sent it, and whether they marked it as a repetition
        self._asked: dict[tuple[str, str, str], list[tuple[Session, bool]]] = defaultdict(list)
        # (user, conversation) -> (version, blocked) as it was sent
        self._blocked: dict[tuple[str, str], tuple[int, bool]] = {}
        self._parted: set[tuple[str, str, int]] = set()  # (user, conversation, seq) of ends of friendships, as sent
        self._seen: dict[str, dict[str, bool]] = defaultdict(dict)  # instance -> friend -> online, since its login

    def asked(self, entry: RouterReceived[Up[frames.Send]]) -> None:
        up = entry.frame
        self._asked[up.conversation_id, up.session.user, up.frame.id_client].append((up.session, up.frame.resend))

    def unasked(self, entry: RouterSent[Down[Unasked]]) -> None:
        down, frame = entry.frame, entry.frame.frame
        if isinstance(frame, frames.Push) and is_chatroom(frame.message.conversation_id):
            return  # `Rooms` checks these
        for session in down.sessions:
            if session not in self.evidence.sessions[session.user]:
                text = f"{session} was sent {frame} after its end"
                self.violated("ended_sessions_receive_nothing", text)

    def pushed(self, entry: RouterSent[Down[frames.Push]]) -> None:
        message, sessions = entry.frame.frame.message, entry.frame.sessions
        asked = self._asked[message.conversation_id, message.sender, message.id_client]
        if len(asked) == 1 and not asked[0][1] and asked[0][0] in sessions:
            self.violated("senders_get_no_echo", f"{message.id} was sent to {asked[0][0]}, which had sent it")
        if event_of(message) == "friend_delete":
            self._parted.update((session.user, message.conversation_id, message.seq) for session in sessions)

    def state_sent(self, entry: RouterSent[Down[frames.State]]) -> None:
        state = entry.frame.frame.state
        for session in entry.frame.sessions:
            key = (session.user, state.conversation_id)
            self._blocked[key] = max(self._blocked.get(key, (0, False)), (state.version, state.blocked))

    def down(self, entry: RouterSent[Down[frames.IsTyping | frames.Presence]]) -> None:
        frame = entry.frame.frame
        for user in (session.user for session in entry.frame.sessions):
            other = frame.user if isinstance(frame, frames.Presence) else _other(frame.conversation_id, user)
            self._check(user, other, frame)

    def updated(self, entry: RouterSent[internal_frames.PresenceUpdate]) -> None:
        update = entry.frame
        if isinstance(update.frame, frames.IsTyping):
            self._check(_other(update.frame.conversation_id, update.user), update.user, update.frame)
        elif update.frame is not None:
            self._updated(update.frame.user, update.user, update.frame)
        if update.asked_by is not None:
            self._updated(update.asked_by.user, update.user, None)

    def _updated(self, source: str, user: str, frame: frames.Presence | None) -> None:
        """Check what the router of one user sends to that of another. None: it asks whether the other is online."""
        self._check(source, user, frame)
        conversation = p2p_id(source, user)
        states, log = self.model.states.get(conversation, []), self.model.logs.get(conversation, [])
        if not any(state.friends for state in states):
            self.violated("presence_is_sent_to_friends_only", f"{user} was never a friend of {source}: {frame}")
        elif not states[-1].friends:
            last = max((entry.seq for entry in log if event_of(entry) == "friend_delete"), default=0)
            if (source, conversation, last) in self._parted:
                text = f"{user} is no longer a friend of {source}: {frame}"
                self.violated("presence_is_sent_to_friends_only", text)
        if (frame is None or frame.online) and not self.evidence.sessions[source]:
            self.violated("presence_is_true", f"{user} was notified that {source} is online")

    def _check(self, user: str, other: str, frame: frames.IsTyping | frames.Presence | None) -> None:
        """Check a frame that a router sends on behalf of a user, or to a user."""
        if self.policies.presence != "friends" and not isinstance(frame, frames.IsTyping):
            text = f"{user} and {other} receive each other's presence: {frame}"
            self.violated("presence_is_sent_to_friends_only", text)
        if isinstance(frame, frames.Presence) and not frame.online:
            return  # a blocked user receives that, too
        conversation = p2p_id(user, other)
        _, blocked = self._blocked.get((user, conversation), (0, False))
        if blocked and self.model.user_state(user, conversation).blocked:
            self.violated("blocks_hide_presence_and_typing", f"{user} has blocked {other}: {frame}")

    def logged_in(self, entry: ClientReceived[frames.LoggedIn]) -> None:
        self._seen[entry.node].clear()

    def heard(self, entry: ClientReceived[frames.Presence]) -> None:
        self._seen[entry.node][entry.frame.user] = entry.frame.online

    def present(self, entry: Present) -> None:
        there = {name: self.evidence.users[name] for name in entry.instances}
        for instance, user in there.items():
            for friend in self.model.friends_of(user):
                if self._seen[instance].get(friend, False) != (friend in there.values()):
                    online = sorted({*there.values()})
                    text = f"{instance} has the presence {self._seen[instance]}, but online are {online}"
                    self.violated("friends_receive_presence", text)


def _other(conversation: str, user: str) -> str:
    """Return the other user of a p2p conversation."""
    return next((one for one in p2p_members(conversation) or () if one != user), "")


class Answers(Check):
    """Checks that a router answers logins, syncs and sends soon while storage is fast and does not fail.

    A request that waits for storage must continue when storage has answered.
    """

    def begin(self) -> None:
        case = self.world.case
        self._is_slow = any(fault.kind in _SLOW for fault in case.faults)
        self._patience = _LEAST + 2 * _TURNS * (case.storage_latency + case.backend_latency) * 1.5
        #: By router, the unanswered requests: (time, gateway, frame).
        self._open: dict[str, dict[Hashable, tuple[float, str, Any]]] = defaultdict(dict)

    def logs_in(self, entry: RouterReceived[internal_frames.Attach]) -> None:
        self._asked(entry, entry.frame.connection, entry.frame.gateway)

    def asks(self, entry: RouterReceived[Up[frames.Sync | frames.Send]]) -> None:
        up = entry.frame
        has_ended = up.session not in self.evidence.sessions[up.session.user]  # it need not be answered then
        if not is_chatroom(up.conversation_id) and not has_ended:
            what = up.frame.id_client if isinstance(up.frame, frames.Send) else frames.Sync.op
            self._asked(entry, (up.session, what), up.session.gateway)

    def _asked(self, entry: RouterReceived[Any], key: Hashable, gateway: str) -> None:
        if not self._is_slow:
            self._open[entry.node].setdefault(key, (entry.at, gateway, entry.frame))

    def logged_in(self, entry: RouterSent[internal_frames.Attached]) -> None:
        self._answered(entry, entry.frame.connection)

    def answered(self, entry: RouterSent[Down[Answer]]) -> None:
        frame, what = entry.frame.frame, frames.Sync.op
        if isinstance(frame, frames.Stored):
            what = frame.id_client
        elif isinstance(frame, frames.Rejected) and frame.request == frames.Send.op:
            what = frame.ref
        for session in entry.frame.sessions:
            self._answered(entry, (session, what))

    def _answered(self, entry: RouterSent[Any], key: Hashable) -> None:
        if (asked := self._open[entry.node].pop(key, None)) is not None:
            self._late(entry.node, entry.at, *asked)

    def ended(self, entry: RouterReceived[internal_frames.Detach] | RouterSent[internal_frames.Kick]) -> None:
        self._forget(lambda gateway, what: getattr(what, "session", None) == entry.frame.session)

    def crashed(self, entry: Crashed) -> None:
        self._open.pop(entry.node, None)

    def gateway_lost(self, entry: GatewayLost) -> None:
        self._forget(lambda gateway, what: gateway == entry.peer)

    def _forget(self, is_over: Callable[[str, Any], bool]) -> None:
        for asked in self._open.values():
            for key in [key for key, (_, gateway, what) in asked.items() if is_over(gateway, what)]:
                del asked[key]

    def finish(self) -> None:
        for router, asked in self._open.items():
            for one in asked.values():
                self._late(router, self.world.clock.now, *one)

    def _late(self, router: str, now: float, since: float, gateway: str, what: Any) -> None:
        if now - since > self._patience:
            text = f"{router} did not answer {what} for {now - since:.3f} s"
            self.violated("routers_answer_soon", text)
