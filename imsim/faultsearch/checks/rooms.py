"""Chatrooms: who is in them, who hears what, and what there is to be heard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imsim.core import frames, internal_frames
from imsim.core.model import Code, Message, Scene, Session, conversation_id, is_chatroom
from imsim.faultsearch.checks.check import Check
from imsim.faultsearch.checks.pages import fits, written_in
from imsim.faultsearch.dispatch import on
from imsim.faultsearch.entries import (
    ClientSent,
    Crashed,
    GatewayLost,
    GatewayReceived,
    GatewaySent,
    Rested,
    RouterReceived,
    RouterSent,
    Said,
)
from imsim.faultsearch.model.reference import same_words, wish_of
from imsim.faultsearch.model.rules import amended, is_change, judge_in_room
from imsim.faultsearch.model.view import wish_to_send


class Rooms(Check):
    """A chatroom is heard only by those who are in it, and nothing of it comes again; a recall or an edit holds for
    everyone who comes later; a send is answered for what was said by it; and there are as many users in it as it says
    and may hold."""

    def begin(self) -> None:
        self.spoken: dict[str, Message] = {}  # by id, as it was said
        self.is_first = False  # whether what was said last is the first since its room began
        self._now: dict[str, dict[int, Message]] = defaultdict(dict)  # by room and seq, as it is by now
        self._remembered: dict[str, set[int]] = defaultdict(set)  # seqs, by room, since its router lives
        self._inside: set[tuple[str, str]] = set()  # (instance, room) of those who may hear it, as gateways see it
        #: (instance, room) -> the last `enter` or `leave` since its login: that it has sent, that came to its gateway
        self._last_sent: dict[tuple[str, str], frames.Enter | frames.Leave] = {}
        self._last_came: dict[tuple[str, str], frames.Enter | frames.Leave] = {}
        #: The same, all that came, in order, except each `leave` that has had its answer.
        self._asked: dict[tuple[str, str], list[frames.Enter | frames.Leave]] = defaultdict(list)
        self._refused: set[tuple[str, str]] = set()  # (instance, room) where an `enter` was refused for good
        self._sent: set[tuple[str, str]] = set()  # (instance, id)
        self._latest: dict[str, int] = {}  # by room, the highest seq
        self.present: dict[str, set[Session]] = defaultdict(set)  # by room, who is in it, as its router sees it
        self._recent: dict[tuple[Session, str], int] = {}  # how much of the latest was asked for

    @on(ClientSent, frames.Enter | frames.Leave)
    def asks(self, entry: ClientSent[frames.Enter | frames.Leave]) -> None:
        self._last_sent[entry.node, entry.frame.name] = entry.frame

    @on(ClientSent, frames.Login)
    def logs_in(self, entry: ClientSent[frames.Login]) -> None:
        self._last_sent = {one: last for one, last in self._last_sent.items() if one[0] != entry.node}

    @on(GatewayReceived, frames.Enter | frames.Leave)
    def asked(self, entry: GatewayReceived[frames.Enter | frames.Leave]) -> None:
        instance, frame = entry.peer, entry.frame
        if isinstance(frame, frames.Enter):
            self._inside.add((instance, frame.name))
        self._last_came[instance, frame.name] = frame
        self._asked[instance, frame.name].append(frame)

    @on(GatewayReceived, frames.Login)
    def logged_in(self, entry: GatewayReceived[frames.Login]) -> None:
        instance = entry.peer
        self._inside = {one for one in self._inside if one[0] != instance}
        for one in [one for one in self._last_came if one[0] == instance]:
            del self._last_came[one], self._asked[one]
        self._refused = {one for one in self._refused if one[0] != instance}

    @on(GatewaySent, frames.Done)
    def done(self, entry: GatewaySent[frames.Done]) -> None:
        instance, frame = entry.peer, entry.frame
        is_left = frame.request == frames.Leave.op
        if is_left and self._is_outside_since(self._asked[instance, frame.ref], frame.number):
            self._inside.discard((instance, frame.ref))

    @on(GatewaySent, frames.Rejected)
    def rejected(self, entry: GatewaySent[frames.Rejected]) -> None:
        if entry.frame.request == frames.Enter.op and not entry.frame.code.retryable:
            self._refused.add((entry.peer, entry.frame.ref))

    @on(GatewaySent, frames.Received)
    def received(self, entry: GatewaySent[frames.Received]) -> None:
        instance, frame = entry.peer, entry.frame
        if frame.seq:
            sent = self.instances[instance].sent[frame.id_client]
            room = conversation_id(sent["scene"], "", sent["to"])
            said = self.spoken[f"{room}:{frame.seq}"]
            if said.id_client != frame.id_client or not (self._now[room][frame.seq].amended or same_words(said, sent)):
                text = f"{frame.id_client} on {instance} was answered for {said}"
                self.violated("rooms_answer_for_what_was_said", text)

    @on(GatewaySent, frames.Push)
    def pushed(self, entry: GatewaySent[frames.Push]) -> None:
        instance, message = entry.peer, entry.frame.message
        if is_chatroom(message.conversation_id):
            if (instance, message.to) not in self._inside:
                self.violated("rooms_are_for_those_inside", f"{message.id} went to {instance}")
            if (instance, message.id) in self._sent:
                self.violated("rooms_say_it_once", f"{message.id} went to {instance} again")
            if self.spoken.get(message.id) != message:
                self.violated("rooms_say_it_once", f"{message.id} went to {instance} and was never said so")
            self._sent.add((instance, message.id))

    @staticmethod
    def _is_outside_since(asked: list[frames.Enter | frames.Leave], number: int) -> bool:
        """Whether no `enter` came to the gateway after the `leave` of this number that is answered now: the first that
        has had no answer, for an `enter` that was held up may have come before its repetition."""
        at = next((n for n, one in enumerate(asked) if isinstance(one, frames.Leave) and one.number == number), None)
        if at is None:
            return False
        del asked[at]
        return not any(isinstance(one, frames.Enter) for one in asked[at:])

    # --- at the room's router ---

    @on(RouterReceived, internal_frames.Up, frames.Enter)
    def enters(self, entry: RouterReceived[internal_frames.Up]) -> None:
        frame: Any = entry.frame.frame
        self._recent[entry.frame.session, frame.name] = frame.recent

    @on(RouterReceived, internal_frames.Up, frames.Leave)
    def leaves(self, entry: RouterReceived[internal_frames.Up]) -> None:
        self._leave(entry.frame.conversation_id, {entry.frame.session})

    @on(RouterSent, internal_frames.Down, frames.Rejected)
    def kept_out(self, entry: RouterSent[internal_frames.Down]) -> None:
        session, frame = entry.frame.sessions[0], entry.frame.frame
        assert isinstance(frame, frames.Rejected)
        if frame.request == frames.Enter.op and frame.code == Code.TOO_LARGE:
            users = self._users(conversation_id(Scene.CHATROOM, "", frame.ref))
            if len(users) < self.policies.room_size or session.user in users:
                self.violated("rooms_hold_as_many_as_they_may", f"{session} was kept out of {frame.ref}: {users}")

    @on(RouterSent, internal_frames.Down, frames.Push)
    def sent_out(self, entry: RouterSent[internal_frames.Down]) -> None:
        frame: Any = entry.frame.frame
        if is_chatroom(frame.message.conversation_id):
            for session in {*entry.frame.sessions} - self.present[frame.message.conversation_id]:
                self.violated("rooms_are_for_those_inside", f"{frame.message.id} was for {session}")

    def _leave(self, room: str, sessions: set[Session]) -> None:
        """A room that all have left is gone, with what was said in it."""
        self.present[room] -= sessions
        if not self.present[room]:
            self._remembered[room].clear()

    @on(RouterSent, internal_frames.Down, frames.Entered)
    def let_in(self, entry: RouterSent[internal_frames.Down]) -> None:
        """A router lets somebody in: what it shows is what there is, the latest of it, as much as was asked for."""
        session, frame = entry.frame.sessions[0], entry.frame.frame
        assert isinstance(frame, frames.Entered)
        room = conversation_id(Scene.CHATROOM, "", frame.name)
        there = self._remembered[room]
        for message in frame.messages:
            if message != self._now[room].get(message.seq):
                self.violated("rooms_show_what_is_left", f"{message.id} was shown as {message}")
        count = max(0, min(self._recent.get((session, frame.name), 0), self.policies.room_recent))
        before, latest = sorted(there), list[int]()
        for _ in frame.messages:
            latest[:0] = [before.pop()] if before else []
        sizes = [written_in(message) for message in frame.messages]
        is_fit = len(frame.messages) <= count and fits(sizes, self.policies.page_bytes)
        if before and len(sizes) < count:  # else there was no room for the one before them
            is_fit &= not fits([written_in(self._now[room][before[-1]]), *sizes], self.policies.page_bytes)
        if [message.seq for message in frame.messages] != latest or not is_fit:
            self.violated("rooms_show_what_is_left", f"{session} asked for {count} and was shown {frame}, not {latest}")
        self.present[room].add(session)
        users = self._users(room)
        if frame.users != len(users) or frame.users > self.policies.room_size:
            text = f"{frame.name} had {frame.users} users by {session}: {sorted(users)}"
            self.violated("rooms_hold_as_many_as_they_may", text)

    def _users(self, room: str) -> set[str]:
        return {session.user for session in self.present[room]}

    @on(Crashed)
    def crashed(self, entry: Crashed) -> None:
        """A router has lost its rooms. Where they begin again they count from what the time is there."""
        owns = self._owned_by(entry.node)
        self._latest = {room: seq for room, seq in self._latest.items() if not owns(room)}
        kept = {room: seqs for room, seqs in self._remembered.items() if not owns(room)}
        self._remembered = defaultdict(set, kept)
        for room, present in self.present.items():
            if owns(room):
                self._leave(room, set(present))

    @on(GatewayLost)
    def gateway_lost(self, entry: GatewayLost) -> None:
        owns = self._owned_by(entry.node)
        for room, present in self.present.items():
            if owns(room):
                self._leave(room, {one for one in present if one.gateway == entry.peer})

    def _owned_by(self, router: str) -> Callable[[str], bool]:
        return lambda room: self.world.router_of(room).name == router

    def finish(self) -> None:
        for room, sessions in self.present.items():
            for session in sorted(sessions):
                if session.connection not in self.world.gateways[session.gateway].connections:
                    text = f"{session.user}/{session.device} is {room} without a connection, as {session}"
                    self.violated("sessions_end_with_their_connections", text)

    # --- at quiescence ---

    @on(Rested)
    def rests(self, entry: Rested) -> None:
        """The devices whose users want to be in a room are there, by their present connection; and no others."""
        instance, wished, connection = entry.node, entry.rooms, entry.connection
        inside = {
            room.partition(":")[2]
            for room, present in self.present.items()
            if any(session.connection == connection for session in present)
        }
        for room in sorted(inside.symmetric_difference(wished)):
            # Left out: a network that lets frames overtake each other may have turned an `enter` and a `leave` round;
            # and a device that was refused may have asked twice, and was let in by the second, as another had gone.
            is_turned = self._last_sent.get((instance, room)) != self._last_came.get((instance, room))
            if not is_turned and not (room in inside and (instance, room) in self._refused):
                text = f"{instance} is {'' if room in inside else 'not '}in the room {room}, and wants it otherwise"
                self.violated("rooms_hold_who_wants_to_be_there", text)

    # --- what is said ---

    def refusals(self, user: str, room: str, sent: Mapping[str, Any]) -> set[str]:
        """The codes with which this send may have been refused by now."""
        wish, codes = wish_to_send(user, dict(sent)), set()
        if is_change(wish):
            codes.add("bad_request")  # the room need not remember it, nor be the one that it was
            target = self._now[room].get(wish.data.get("seq", 0))
            for time in (0, 1 << 60) if target else ():
                codes |= judge_in_room(replace(wish, time=time), target, self.model.rules).reasons
        for said in self.spoken.values():
            if (said.conversation_id, said.sender, said.id_client) == (room, user, sent["id"]):
                codes |= set() if same_words(said, sent) else {"conflict"}
        return codes

    @on(Said)
    def said(self, entry: Said) -> None:
        message = entry.message
        self.spoken[message.id] = message
        room, wish = message.conversation_id, wish_of(message)
        there = self._now[room]
        outcome = judge_in_room(wish, there.get(wish.data.get("seq", 0)), self.model.rules)
        if outcome.reasons:
            self.violated(
                "only_what_is_allowed_is_said", f"{message.id} of {message.sender}: {sorted(outcome.reasons)}"
            )
        if len(message.content.encode()) > self.policies.content_bytes:
            self.violated("only_what_is_allowed_is_said", f"{message.id} of {message.sender} is too long")
        if outcome.amended is not None:
            there.update((one.seq, one) for one in amended(list(there.values()), outcome.amended, message.seq))
        remembered = (there[seq] for seq in self._remembered[room])
        if any((one.sender, one.id_client) == (message.sender, message.id_client) for one in remembered):
            self.violated("rooms_say_it_once", f"{message.id} says {message.id_client} of {message.sender} again")
        there[message.seq] = message
        self.is_first = not self._remembered[room]
        self._remembered[room].add(message.seq)
        if message.seq <= self._latest.get(room, 0):
            self.violated("rooms_count_upwards", f"{message.id} came after {self._latest[room]}")
        self._latest[room] = message.seq
