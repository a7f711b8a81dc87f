"""The Chatrooms machine: the chatrooms of one router node, and the sessions that are in each.

A room exists while at least one session is in it. Nothing is stored or repeated. Each session in the room gets a
message once, without acknowledgement. Under load the gateways shed messages, and count them. A room remembers its
latest messages in memory: for repeated sends, for recalls and edits, and for sessions that enter.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import Protocol

from imsim.core import changes, events, frames, internal_frames
from imsim.core.limits import Bucket
from imsim.core.model import Code, Message, Session
from imsim.core.policies import Policies
from imsim.core.router import answers, rules
from imsim.core.router.rules import amendments
from imsim.core.router.rules.decision import RuleViolation, requested_change
from imsim.core.sizes import Room, body_bytes

_REMEMBERED = 1_000  # messages of a room that are recognized if they are sent again, and can be recalled or edited


class ChatroomsPort(Protocol):
    def to_gateway(self, gateway: str, frame: internal_frames.ToGateway) -> None: ...

    def emit(self, event: events.Committed) -> None: ...


class _Room:
    """A chatroom with its sessions and its latest messages."""

    def __init__(self, id: str, next_seq: int) -> None:
        self.id = id
        self.next_seq = next_seq
        self.sessions: dict[str, dict[Session, None]] = {}  # by gateway
        self.users: dict[str, int] = {}  # user -> number of the user's sessions in the room
        self.messages: dict[int, Message] = {}  # the latest, by seq; recalls and edits are applied
        self.seqs: dict[tuple[str, str], int] = {}  # (sender, idClient) -> seq, of these messages
        self.bucket: Bucket | None = None


class Chatrooms:
    """The chatrooms that one router node owns.

    `epoch` is the wall time in seconds since 1970 at which this node's `now` was 0.
    """

    def __init__(self, port: ChatroomsPort, policies: Policies, epoch: float = 0.0) -> None:
        self._port = port
        self._policies = policies
        self._epoch = epoch
        self._rooms: dict[str, _Room] = {}
        self._latest = 0  # the highest seq in all rooms so far

    def receive(self, up: internal_frames.Up, now: float) -> None:
        """Handle a request of a session: to enter a room, to leave it or to send to it."""
        frame = up.frame
        if isinstance(frame, frames.Enter):
            self._enter(up, frame, now)
        elif isinstance(frame, frames.Leave):
            self._leave(up.session, up.conversation_id)
            answers.done(self._port, up)
        elif isinstance(frame, frames.Send):
            self._send(up, frame, now)

    def gateway_lost(self, gateway: str) -> None:
        """Remove the sessions of a gateway. The link to it broke, so it has ended all their connections."""
        for room in list(self._rooms.values()):
            for session in list(room.sessions.get(gateway, ())):
                self._leave(session, room.id)

    def _enter(self, up: internal_frames.Up, frame: frames.Enter, now: float) -> None:
        session, room = up.session, self._rooms.get(up.conversation_id)
        if room is None:
            # The first seq is the time in microseconds, so a room that was lost in a crash does not use a seq again.
            # `_latest` does the same for a room that closes and opens again within a microsecond.
            next_seq = max(int((self._epoch + now) * 1e6), self._latest) + 1
            room = self._rooms[up.conversation_id] = _Room(up.conversation_id, next_seq)
            if self._policies.group_rate:
                room.bucket = Bucket(self._policies.group_rate, self._policies.group_burst, now)
        here = room.sessions.setdefault(session.gateway, {})
        if session not in here:
            if len(room.users) >= self._policies.room_size and session.user not in room.users:
                text = f"the room is full (at most {self._policies.room_size} users)"
                answers.reject(self._port, up, Code.TOO_LARGE, text)
                self._remove_if_empty(room, session.gateway)
                return
            here[session] = None
            room.users[session.user] = room.users.get(session.user, 0) + 1
        count = max(0, min(frame.recent, self._policies.room_recent))
        space = Room(self._policies.page_bytes)
        latest = islice(reversed(room.messages.values()), count)
        recent = list(takewhile(lambda message: space.takes(body_bytes(message)), latest))[::-1]
        answers.send(self._port, up.session, frames.Entered(frame.name, len(room.users), recent, frame.number))

    def _leave(self, session: Session, id: str) -> None:
        room = self._rooms.get(id)
        if room is None or session not in room.sessions.get(session.gateway, ()):
            return
        del room.sessions[session.gateway][session]
        room.users[session.user] -= 1
        if not room.users[session.user]:
            del room.users[session.user]
        self._remove_if_empty(room, session.gateway)

    def _remove_if_empty(self, room: _Room, gateway: str) -> None:
        """Forget the gateway if the room has no session there, and the room if it has no session at all."""
        if not room.sessions.get(gateway):
            room.sessions.pop(gateway, None)
        if not room.sessions:
            del self._rooms[room.id]

    def _send(self, up: internal_frames.Up, frame: frames.Send, now: float) -> None:
        session, room = up.session, self._rooms.get(up.conversation_id)
        if room is None or session not in room.sessions.get(session.gateway, ()):
            answers.reject(self._port, up, Code.NOT_MEMBER, "to: you are not in this room; enter it first")
            return
        seq = room.seqs.get((session.user, frame.id_client))
        if seq is None:
            try:
                amended = self._amended(room, session, frame, now)
            except RuleViolation as refused:
                answers.reject(self._port, up, refused.code, refused.text)
                return
            if room.bucket is not None and (wait := room.bucket.take(now)):
                text = f"more than {self._policies.group_rate:g} messages a second in this room"
                answers.reject(self._port, up, Code.RATE_LIMITED, text, wait)
                return
            if amended is not None:
                room.messages[amended.seq] = amended
                if amended.recalled:  # the edits contain the text too, so they are recalled with it
                    edits = [one for one in room.messages.values() if changes.edits(one, amended.seq)]
                    room.messages.update((one.seq, changes.recalled(one, amended.amended)) for one in edits)
            seq = self._commit(room, session, frame, now)
        elif not room.messages[seq].came_from(frame):
            answers.reject(self._port, up, Code.CONFLICT, "idClient: already used for another message")
            return
        answers.send(self._port, up.session, frames.Received(frame.id_client, seq))

    def _amended(self, room: _Room, session: Session, frame: frames.Send, now: float) -> Message | None:
        """Return the message that the frame recalls or edits, as it is afterwards; None for any other frame.

        A room allows no other change, because it has neither an owner nor admins. Raises: RuleViolation.
        """
        change = requested_change(frame, session.user, room.id, room.next_seq, int((self._epoch + now) * 1000))
        if change is None or change.event not in rules.RULED:
            return None
        if change.event not in changes.AMENDMENTS:
            raise RuleViolation(Code.BAD_REQUEST, f"file.event: {change.event} does not apply to a chatroom")
        target = room.messages.get(amendments.target_seq(change))
        if target is None:
            raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: none of the room's latest messages has this seq")
        return rules.amend(change, target, 0, self._policies).amended

    def _commit(self, room: _Room, session: Session, frame: frames.Send, now: float) -> int:
        """Give the message a seq and send it to all other sessions in the room. Returns the seq."""
        seq, time = room.next_seq, int((self._epoch + now) * 1000)
        room.next_seq += 1
        self._latest = max(self._latest, seq)
        message = Message(
            room.id, seq, f"{room.id}:{seq}", frame.id_client, frame.scene, frame.type, session.user, frame.to, time,
            frame.content, frame.file, frame.custom,
        )  # fmt: skip
        self._remember(room, message)
        self._port.emit(events.Committed(message))
        push = frames.Push(message)
        for gateway, sessions in room.sessions.items():
            others = [one for one in sessions if one != session]
            if others:
                self._port.to_gateway(gateway, internal_frames.Down(others, push))
        return seq

    def _remember(self, room: _Room, message: Message) -> None:
        room.messages[message.seq] = message
        room.seqs[message.sender, message.id_client] = message.seq
        if len(room.messages) > max(_REMEMBERED, self._policies.room_recent):
            oldest = room.messages.pop(next(iter(room.messages)))
            del room.seqs[oldest.sender, oldest.id_client]
