"""Chatrooms: who is in them, who hears what, and what there is to be heard."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from imsim.core import frames
from imsim.core.model import Code, Message, Scene, conversation_id, is_chatroom
from imsim.faultsearch.checks.deliveries import fits
from imsim.faultsearch.checks.facts import Check
from imsim.faultsearch.dispatch import Down, Up
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
from imsim.faultsearch.model.reference import same_words
from imsim.faultsearch.model.rooms import Room

Place = tuple[str, str]  # instance, name of a chatroom
Door = frames.Enter | frames.Leave


class Rooms(Check):
    """A chatroom is heard only by those who are in it, and nothing of it comes again; a recall or an edit holds for
    everyone who comes later; a send is answered for what was said by it; and there are as many users in it as it says
    and may hold."""

    def begin(self) -> None:
        self._rooms = self.evidence.rooms
        self._inside: set[Place] = set()  # of those who may hear it, as gateways see it
        #: The last `enter` or `leave` since its login: that it has sent, that came to its gateway.
        self._last_sent: dict[Place, Door] = {}
        self._last_came: dict[Place, Door] = {}
        #: The same, all that came, in order, except each `leave` that has had its answer.
        self._asked: dict[Place, list[Door]] = defaultdict(list)
        self._refused: set[Place] = set()  # where an `enter` was refused for good
        self._sent: set[tuple[str, str]] = set()  # (instance, id)
        self._recent: dict[tuple[Any, str], int] = {}  # (session, room) -> how much of the latest was asked for

    # --- at gateways ---

    def asks(self, entry: ClientSent[Door]) -> None:
        self._last_sent[entry.node, entry.frame.name] = entry.frame

    def logs_in(self, entry: ClientSent[frames.Login]) -> None:
        self._last_sent = {one: last for one, last in self._last_sent.items() if one[0] != entry.node}

    def asked(self, entry: GatewayReceived[Door]) -> None:
        place, frame = (entry.peer, entry.frame.name), entry.frame
        if isinstance(frame, frames.Enter):
            self._inside.add(place)
        self._last_came[place] = frame
        self._asked[place].append(frame)

    def logged_in(self, entry: GatewayReceived[frames.Login]) -> None:
        for place in [place for place in self._last_came if place[0] == entry.peer]:
            del self._last_came[place], self._asked[place]
        self._inside = {place for place in self._inside if place[0] != entry.peer}
        self._refused = {place for place in self._refused if place[0] != entry.peer}

    def done(self, entry: GatewaySent[frames.Done]) -> None:
        """A device is outside if no `enter` came after the `leave` that is answered: the first of this number that has
        had no answer, for an `enter` that was held up may have come before its repetition."""
        place, frame = (entry.peer, entry.frame.ref), entry.frame
        if frame.request != frames.Leave.op:
            return
        asked = self._asked[place]
        for at, one in enumerate(asked):
            if isinstance(one, frames.Leave) and one.number == frame.number:
                del asked[at]
                if not any(isinstance(later, frames.Enter) for later in asked[at:]):
                    self._inside.discard(place)
                return

    def rejected(self, entry: GatewaySent[frames.Rejected]) -> None:
        if entry.frame.request == frames.Enter.op and not entry.frame.code.retryable:
            self._refused.add((entry.peer, entry.frame.ref))

    def received(self, entry: GatewaySent[frames.Received]) -> None:
        if seq := entry.frame.seq:
            sent = self.instances[entry.peer].sent[entry.frame.id_client]
            room = self._rooms[conversation_id(sent["scene"], "", sent["to"])]
            said = room.said[seq]
            if said.id_client != entry.frame.id_client or not (room.now[seq].amended or same_words(said, sent)):
                text = f"{entry.frame.id_client} on {entry.peer} was answered for {said}"
                self.violated("rooms_answer_for_what_was_said", text)

    def pushed(self, entry: GatewaySent[frames.Push]) -> None:
        instance, message = entry.peer, entry.frame.message
        if is_chatroom(message.conversation_id):
            if (instance, message.to) not in self._inside:
                self.violated("rooms_are_for_those_inside", f"{message.id} went to {instance}")
            if (instance, message.id) in self._sent:
                self.violated("rooms_say_it_once", f"{message.id} went to {instance} again")
            if self._rooms[message.conversation_id].said.get(message.seq) != message:
                self.violated("rooms_say_it_once", f"{message.id} went to {instance} and was never said so")
            self._sent.add((instance, message.id))

    # --- at the room's router ---

    def enters(self, entry: RouterReceived[Up[frames.Enter]]) -> None:
        self._recent[entry.frame.session, entry.frame.frame.name] = entry.frame.frame.recent

    def leaves(self, entry: RouterReceived[Up[frames.Leave]]) -> None:
        self._rooms[entry.frame.conversation_id].leave([entry.frame.session])

    def kept_out(self, entry: RouterSent[Down[frames.Rejected]]) -> None:
        session, frame = entry.frame.sessions[0], entry.frame.frame
        if frame.request == frames.Enter.op and frame.code == Code.TOO_LARGE:
            users = self._rooms[conversation_id(Scene.CHATROOM, "", frame.ref)].users
            if len(users) < self.policies.room_size or session.user in users:
                self.violated("rooms_hold_as_many_as_they_may", f"{session} was kept out of {frame.ref}: {users}")

    def sent_out(self, entry: RouterSent[Down[frames.Push]]) -> None:
        message = entry.frame.frame.message
        if is_chatroom(message.conversation_id):
            for session in {*entry.frame.sessions} - self._rooms[message.conversation_id].present:
                self.violated("rooms_are_for_those_inside", f"{message.id} was for {session}")

    def let_in(self, entry: RouterSent[Down[frames.Entered]]) -> None:
        """A router lets somebody in: what it shows is what there is, the latest of it, as much as was asked for."""
        session, frame = entry.frame.sessions[0], entry.frame.frame
        room, shown = self._rooms[conversation_id(Scene.CHATROOM, "", frame.name)], list(frame.messages)
        there = [room.now[seq] for seq in sorted(room.remembered)]
        count = max(0, min(self._recent.get((session, frame.name), 0), self.policies.room_recent))
        if not self._is_latest_of(shown, there, count):
            text = f"{session} asked for {count} and was shown {frame}, of {[message.id for message in there]}"
            self.violated("rooms_show_what_is_left", text)
        room.present.add(session)
        if frame.users != len(room.users) or frame.users > self.policies.room_size:
            text = f"{frame.name} had {frame.users} users by {session}: {sorted(room.users)}"
            self.violated("rooms_hold_as_many_as_they_may", text)

    def _is_latest_of(self, shown: list[Message], there: list[Message], count: int) -> bool:
        before, most = there[: len(there) - len(shown)], self.policies.page_bytes
        if [*before, *shown] != there or len(shown) > count or not fits(shown, most):
            return False
        return not before or len(shown) == count or not fits([before[-1], *shown], most)  # which had no room any more

    def crashed(self, entry: Crashed) -> None:
        for name, room in self._rooms.items():
            if self.evidence.is_owner(entry.node, name):
                room.crash()

    def gateway_lost(self, entry: GatewayLost) -> None:
        for name, room in self._rooms.items():
            if self.evidence.is_owner(entry.node, name):
                room.leave([one for one in room.present if one.gateway == entry.peer])

    def said(self, entry: Said) -> None:
        message, room = entry.message, self._rooms[entry.message.conversation_id]
        if room.remembers(message.sender, message.id_client):
            self.violated("rooms_say_it_once", f"{message.id} says {message.id_client} of {message.sender} again")
        if message.seq <= room.latest:
            self.violated("rooms_count_upwards", f"{message.id} came after {room.latest}")
        outcome = room.add(message, self.model.rules)
        is_too_long = len(message.content.encode()) > self.policies.content_bytes
        if reasons := sorted(outcome.reasons | ({"too_large"} if is_too_long else set())):
            self.violated("only_what_is_allowed_is_said", f"{message.id} of {message.sender}: {reasons}")

    # --- in the end ---

    def rests(self, entry: Rested) -> None:
        """The devices whose users want to be in a room are there, by their present connection; and no others."""
        inside = {name.partition(":")[2] for name, room in self._rooms.items() if _is_in(room, entry.connection)}
        for name in sorted(inside.symmetric_difference(entry.rooms)):
            # Left out: a network that lets frames overtake each other may have turned an `enter` and a `leave` round;
            # and a device that was refused may have asked twice, and was let in by the second, as another had gone.
            place = (entry.node, name)
            is_turned = self._last_sent.get(place) != self._last_came.get(place)
            if not is_turned and not (name in inside and place in self._refused):
                text = f"{entry.node} is {'' if name in inside else 'not '}in the room {name}, and wants it otherwise"
                self.violated("rooms_hold_who_wants_to_be_there", text)

    def finish(self) -> None:
        for name, room in self._rooms.items():
            self.has_connections(room.present, name)


def _is_in(room: Room, connection: int) -> bool:
    return any(session.connection == connection for session in room.present)
