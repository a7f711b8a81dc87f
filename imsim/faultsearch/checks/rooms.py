"""Checks of chatrooms: who is in them, who receives which messages, and what they keep."""

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
    """Checks chatrooms.

    Only devices in a chatroom receive its messages, each once. A recall or an edit applies for everyone who enters
    later. The answer to a send is about that send. The number of users in a room is right and within its limit.
    """

    def begin(self) -> None:
        self._rooms = self.evidence.rooms
        self._inside: set[Place] = set()  # as gateways see it
        #: The last `enter` or `leave` of a device since its login: as it was sent, and as it arrived at the gateway.
        self._last_sent: dict[Place, Door] = {}
        self._last_came: dict[Place, Door] = {}
        #: All that arrived, in order, except each `leave` that was answered.
        self._asked: dict[Place, list[Door]] = defaultdict(list)
        self._refused: set[Place] = set()  # where an `enter` was refused permanently
        self._sent: set[tuple[str, str]] = set()  # (instance, message id)
        self._recent: dict[tuple[Any, str], int] = {}  # (session, room) -> the number of recent messages requested

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
        """Note that a device is outside, if no `enter` arrived after the `leave` that is answered.

        That is the first unanswered `leave` of this number: a delayed `enter` may have arrived between it and its
        repetition.
        """
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
                text = f"{entry.frame.id_client} on {entry.peer} received the answer for {said}"
                self.violated("room_acks_match_their_messages", text)

    def pushed(self, entry: GatewaySent[frames.Push]) -> None:
        instance, message = entry.peer, entry.frame.message
        if is_chatroom(message.conversation_id):
            if (instance, message.to) not in self._inside:
                text = f"{message.id} was sent to {instance}, which is not in the room"
                self.violated("rooms_send_only_to_devices_inside", text)
            if (instance, message.id) in self._sent:
                self.violated("room_messages_are_sent_once", f"{message.id} was sent to {instance} again")
            if self._rooms[message.conversation_id].said.get(message.seq) != message:
                text = f"{message.id} was sent to {instance}, but the room has no such message"
                self.violated("room_messages_are_sent_once", text)
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
                text = f"{session} was refused by {frame.ref}, which has the users {users}"
                self.violated("room_sizes_are_right", text)

    def sent_out(self, entry: RouterSent[Down[frames.Push]]) -> None:
        message = entry.frame.frame.message
        if is_chatroom(message.conversation_id):
            for session in {*entry.frame.sessions} - self._rooms[message.conversation_id].present:
                text = f"{message.id} was sent to {session}, which is not in the room"
                self.violated("rooms_send_only_to_devices_inside", text)

    def let_in(self, entry: RouterSent[Down[frames.Entered]]) -> None:
        """Check that a router sends a device that enters the latest messages, as many as requested."""
        session, frame = entry.frame.sessions[0], entry.frame.frame
        room, shown = self._rooms[conversation_id(Scene.CHATROOM, "", frame.name)], list(frame.messages)
        there = [room.now[seq] for seq in sorted(room.remembered)]
        count = max(0, min(self._recent.get((session, frame.name), 0), self.policies.room_recent))
        if not self._is_latest_of(shown, there, count):
            text = f"{session} requested {count} and received {frame}, of {[message.id for message in there]}"
            self.violated("rooms_send_recent_messages", text)
        room.present.add(session)
        if frame.users != len(room.users) or frame.users > self.policies.room_size:
            text = f"{frame.name} reported {frame.users} users to {session}, not {sorted(room.users)}"
            self.violated("room_sizes_are_right", text)

    def _is_latest_of(self, shown: list[Message], there: list[Message], count: int) -> bool:
        before, most = there[: len(there) - len(shown)], self.policies.page_bytes
        if [*before, *shown] != there or len(shown) > count or not fits(shown, most):
            return False
        # else the next one did not fit
        return not before or len(shown) == count or not fits([before[-1], *shown], most)

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
            text = f"{message.id} repeats {message.id_client} of {message.sender}"
            self.violated("room_messages_are_sent_once", text)
        if message.seq <= room.latest:
            self.violated("room_seqs_grow", f"{message.id} was sent after seq {room.latest}")
        outcome = room.add(message, self.model.rules)
        is_too_long = len(message.content.encode()) > self.policies.content_bytes
        if reasons := sorted(outcome.reasons | ({"too_large"} if is_too_long else set())):
            self.violated("only_allowed_room_messages_are_accepted", f"{message.id} of {message.sender}: {reasons}")

    # --- at quiescence and at the end ---

    def rests(self, entry: Rested) -> None:
        """Check that exactly the devices whose users want to be in a room are there, with their present connection."""
        inside = {name.partition(":")[2] for name, room in self._rooms.items() if _is_in(room, entry.connection)}
        for name in sorted(inside.symmetric_difference(entry.rooms)):
            # Left out: a network that reorders frames may have swapped an `enter` and a `leave`; and a refused device
            # may have sent `enter` twice, and the second was accepted after another device had left.
            place = (entry.node, name)
            is_turned = self._last_sent.get(place) != self._last_came.get(place)
            if not is_turned and not (name in inside and place in self._refused):
                text = f"{entry.node} is {'' if name in inside else 'not '}in the room {name}, against its user's wish"
                self.violated("rooms_hold_the_devices_that_entered", text)

    def finish(self) -> None:
        for name, room in self._rooms.items():
            self.has_connections(room.present, name)


def _is_in(room: Room, connection: int) -> bool:
    return any(session.connection == connection for session in room.present)
