"""Checks of what gateways and routers send to devices: its content, its repetitions and its size."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from imsim.core import events, frames, internal_frames
from imsim.core.model import ConversationState, Message, MessageType, Session, is_chatroom
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
from imsim.faultsearch.entries import (
    ClientReceived,
    Crashed,
    Event,
    GatewayForwarded,
    GatewayNotified,
    GatewayReceived,
    GatewaySent,
    Repeated,
    RouterReceived,
    RouterSent,
)
from imsim.faultsearch.evidence import Repeatable, number_of
from imsim.faultsearch.model.rules import comes_from_outside, leaves, wish_in

_LONGEST = 60.0  # seconds
_ROUNDING = 0.001


class Given(Check):
    """Checks that clients receive only stored messages that their users may see.

    The marks that gateways and routers receive become part of the model.
    """

    def begin(self) -> None:
        self._skipped: set[tuple[str, str, int]] = set()  # (instance, conversation, seq) as pages said

    def heard_delivered(self, entry: GatewayReceived[frames.Delivered]) -> None:
        self.model.heard.reach(entry.peer, entry.frame.conversation_id, entry.frame.seq)

    def heard_sync(self, entry: RouterReceived[Up[frames.Sync]]) -> None:
        for conversation, seq in entry.frame.frame.cursors.items():
            self.model.heard.reach(self.world.owners[entry.frame.session.connection], conversation, seq)

    def acknowledged(self, entry: GatewaySent[frames.Stored]) -> None:
        """Check that a message is stored when its sender receives the acknowledgement."""
        frame = entry.frame
        stored = self.model.by_key.get((frame.conversation_id, self.evidence.users[entry.peer], frame.id_client))
        if stored is None or stored.time != frame.time:
            is_right = False
        elif comes_from_outside(wish_in(stored), stored.to):
            is_right = (frame.id, frame.seq) == ("", 0)
        else:
            is_right = (frame.id, frame.seq) == (stored.id, stored.seq)
        if not is_right:
            text = f"{frame.id_client} was acknowledged as {frame.id}#{frame.seq}, but stored is {stored}"
            self.violated("acks_survive", text)

    def received(self, entry: GatewaySent[frames.Received]) -> None:
        if not entry.frame.seq and self.policies.ack != "after_receive":
            text = f"{entry.frame.id_client} of {entry.peer} was acknowledged as received, against the policy `ack`"
            self.violated("received_acks_follow_the_policy", text)

    def stored(self, entry: ClientReceived[frames.Stored]) -> None:
        if entry.frame.seq:
            self.model.given[entry.node][entry.frame.conversation_id].add(entry.frame.seq)

    def pushed(self, entry: ClientReceived[frames.Push]) -> None:
        self._given(entry.node, entry.frame.message)

    def paged(self, entry: ClientReceived[frames.Page | frames.SyncDone | frames.HistoryPage]) -> None:
        for message in entry.frame.messages:
            self._given(entry.node, message)

    def synced(self, entry: ClientReceived[frames.Page | frames.SyncDone]) -> None:
        """Check that the cursors in a page are of the user's own conversations."""
        user = self.evidence.users[entry.node]
        for conversation in entry.frame.cursors:
            if user not in self.model.stays.get(conversation, ()):
                self.violated("strangers_learn_nothing", f"{entry.node} was given a cursor of {conversation}")
        self._skipped.update((entry.node, one.conversation_id, one.seq) for one in entry.frame.skipped)

    def left_out(self, entry: Event[events.Skipped]) -> None:
        """Check that a device leaves out no more of a conversation than a page did."""
        name, event = entry.node, entry.event
        given = [seq for instance, id, seq in self._skipped if (instance, id) == (name, event.conversation_id)]
        if event.seq > max(given, default=0):
            self.violated("devices_claim_only_what_they_have", f"{name} left out {event}, which no page did")
        self.model.left_out.reach(name, event.conversation_id, event.seq)

    def _given(self, instance: str, message: Message) -> None:
        model, user, conversation = self.model, self.evidence.users[instance], message.conversation_id
        model.given[instance][conversation].add(message.seq)
        if is_chatroom(conversation):
            return  # `Rooms` checks these
        if not model.may_see(user, conversation, message.seq):
            self.violated("users_see_only_their_messages", f"{instance} was given {message.id}")
        if model.is_new_to(user, message):
            text = f"{instance} was given an edit of {message.id} made after its user had left"
            self.violated("users_see_only_their_messages", text)
        if message not in model.forms[conversation, message.seq]:
            self.violated("only_stored_messages_are_sent", f"{instance} was given {message}, which was never stored")


def written_bytes(message: Message) -> int:
    """Return the number of bytes in a message that its users wrote."""
    file = json.dumps(message.file, ensure_ascii=False, separators=(",", ":")) if message.file is not None else ""
    return len(f"{message.content}{message.custom or ''}{file}".encode())


def fits(messages: Iterable[Message], most: int) -> bool:
    """Return whether a page may hold these messages.

    They must not exceed its bytes. One message alone may, along with empty ones.
    """
    sizes = [size for message in messages if (size := written_bytes(message))]
    return sum(sizes) <= most or len(sizes) == 1


class RouterStates(Check):
    """Checks the conversation states and pages that routers send.

    A router sends only states that storage held at some time, with a correct unread count, and never an older one than
    before to the same session. A router knows at least the part of a log that it has sent to any device of the user; a
    router that takes over finds as much in storage.

    A page of a sync keeps the limits on messages and bytes. A page that is not the last one is not empty, or the device
    would request it again without end.
    """

    def begin(self) -> None:
        self._versions: dict[tuple[Session, str], int] = {}  # (session, conversation) -> the latest version sent
        self._known: dict[tuple[str, str], set[int]] = defaultdict(set)  # (user, conversation) -> seqs sent to devices

    def pushed(self, entry: RouterSent[Down[frames.Push]]) -> None:
        self._knows(entry.frame.sessions, [entry.frame.frame.message])

    def sent(self, entry: RouterSent[Down[frames.State]]) -> None:
        for session in entry.frame.sessions:
            self._is_right(session, entry.frame.frame.state)

    def paged(self, entry: RouterSent[Down[frames.Page | frames.SyncDone]]) -> None:
        sessions, frame, messages = entry.frame.sessions, entry.frame.frame, entry.frame.frame.messages
        # Not counting the custom field of states: it is sent in its present form, and storage measured an earlier one.
        if len(messages) > self.policies.page or not fits(messages, self.policies.page_bytes):
            size = sum(map(written_bytes, messages))
            text = f"{sessions} received {len(messages)} messages with {size} bytes in one page"
            self.violated("pages_are_no_larger_than_configured", text)
        if type(frame) is frames.Page and not messages:
            self.violated("pages_are_not_empty", f"{sessions} received an empty page that is not the last one")
        self._knows(sessions, messages)
        for session in sessions:
            for state in frame.states:
                self._is_right(session, state)
            if type(frame) is frames.SyncDone and frame.version > self.model.versions.get(session.user, 0):
                self._wrong("only_stored_states_are_sent", session.user, f"the version {frame.version}")

    def _is_right(self, session: Session, state: ConversationState) -> None:
        key, user = (session, state.conversation_id), session.user
        if state.version < self._versions.get(key, 0):
            self._wrong("versions_grow", user, f"{state} after version {self._versions[key]}")
        self._versions[key] = state.version
        held = self.model.history.get((user, state.conversation_id, state.version))
        if held is None and state.version == 0:
            held = self.model.user_state("", state.conversation_id)
        if replace(state, unread=0) != held:
            self._wrong("only_stored_states_are_sent", user, f"{state}, but stored was {held}")
        least, most = self._unread(user, state)
        if not least <= state.unread <= most:
            self._wrong("unread_is_a_recount", user, f"{state}, whose unread count should be from {least} to {most}")

    def _knows(self, sessions: Iterable[Session], messages: list[Message]) -> None:
        for session in sessions:
            for message in messages:
                self._known[session.user, message.conversation_id].add(message.seq)

    def _unread(self, user: str, state: ConversationState) -> tuple[int, int]:
        """Return the smallest and the largest correct unread count of this state.

        The router may not yet know the entry that ended the user's stay, or a recall. The smallest count has only
        messages that the router is known to have.
        """
        model, conversation = self.model, state.conversation_id
        known, log = self._known[user, conversation], model.logs.get(conversation, [])
        ends = [entry.seq for entry in log if entry.seq in known and leaves(entry, user)]
        stay_start = model.stay_start(user, conversation)
        floor, least, most = max([state.read_seq, *ends]), 0, 0
        for message in log:
            if message.seq <= floor or message.sender == user or message.type == MessageType.NOTIFICATION:
                continue
            if not message.recalled or message.amended not in known:
                most += model.may_see(user, conversation, message.seq)
            if message.seq in known and stay_start and message.seq >= stay_start and not message.recalled:
                least += 1
        return least, most

    def _wrong(self, invariant: str, user: str, text: str) -> None:
        self.violated(invariant, f"{user} was sent {text}")


What = tuple[str, str, int]  # op, conversation, seq of a message (0: only the latest of its op and conversation counts)


@dataclass(slots=True)
class _Sent:
    """A sent frame. `number`: its number, if only the latest counts. `since`: None once it need not be repeated."""

    number: int
    wait: float
    since: float | None


class Repetitions(Check):
    """Checks that a gateway repeats each push, state, notice and resync with the backoff of the policies.

    It repeats a frame until the device acknowledges it or the connection ends, and no longer.
    """

    def begin(self) -> None:
        self._sent: dict[tuple[str, str], dict[What, _Sent]] = {}  # by gateway and instance

    def sent(self, entry: GatewaySent[Repeatable]) -> None:
        conversation, number = number_of(entry.frame)
        if is_chatroom(conversation):
            return  # sent once, without acknowledgement
        what = (entry.frame.op, conversation, number if isinstance(entry.frame, frames.Push) else 0)
        all_sent, policies = self._sent.setdefault((entry.node, entry.peer), {}), self.policies
        last = all_sent.get(what)
        if last is not None:
            self._is_late(entry.node, entry.peer, what, last, entry.at)
        if last is None or last.number != number:
            all_sent[what] = _Sent(number, policies.push_timeout, entry.at)
        else:
            last.wait, last.since = min(last.wait * policies.push_backoff, _LONGEST), entry.at

    def acknowledged(self, entry: GatewayReceived[frames.Delivered | frames.StateAck | frames.Sync]) -> None:
        frame = entry.frame
        if isinstance(frame, frames.Sync):
            covered = {(frames.Resync.op, ""): frame.resync}
        elif isinstance(frame, frames.StateAck):
            covered = {(frames.State.op, frame.conversation_id): frame.version}
        else:
            covered = {(op, frame.conversation_id): frame.seq for op in (frames.Push.op, frames.Notify.op)}
        self._done(entry.node, entry.peer, entry.at, covered)

    def repeated(self, entry: Repeated) -> None:
        text = f"{entry.message.id} was sent to {entry.device} again, although it was acknowledged"
        self.violated("acknowledged_frames_are_not_repeated", text)

    def logged_in(self, entry: GatewaySent[frames.LoggedIn]) -> None:
        self._sent.pop((entry.node, entry.peer), None)

    def refused(self, entry: GatewaySent[frames.Refused]) -> None:
        self._done(entry.node, entry.peer, entry.at)

    def ended(self, entry: GatewayForwarded[internal_frames.Detach] | GatewayNotified[internal_frames.Kick]) -> None:
        self._done(entry.node, self.world.owners[entry.frame.session.connection], entry.at)

    def crashed(self, entry: Crashed) -> None:
        self._sent = {key: sent for key, sent in self._sent.items() if key[0] != entry.node}

    def finish(self) -> None:
        for gateway, instance in self._sent:
            self._done(gateway, instance, self.world.clock.now)

    def _done(self, gateway: str, instance: str, now: float, covered: dict[tuple[str, str], int] | None = None) -> None:
        """Note that frames need not be repeated: those up to the numbers in `covered`, by op and conversation (None:
        all)."""
        for what, sent in self._sent.get((gateway, instance), {}).items():
            if covered is None or sent.number <= covered.get(what[:2], -1):
                self._is_late(gateway, instance, what, sent, now)
                sent.since = None

    def _is_late(self, gateway: str, instance: str, what: What, sent: _Sent, now: float) -> None:
        is_late = sent.since is not None and now - sent.since > sent.wait + _ROUNDING
        if is_late and gateway not in self.evidence.skewed_clocks:
            text = (
                f"{instance} was not sent {what[0]} {what[1]}#{sent.number} again by {gateway} in time, at {now:.3f} s"
            )
            self.violated("unacknowledged_frames_are_repeated", text)
