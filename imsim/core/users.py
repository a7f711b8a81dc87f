"""The Users machine: each user's sessions and read marks, on the router node that owns the user.

It knows only users who are online. For the others everything follows from storage when they log in, so a message for
somebody who is away costs nothing here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from imsim.core import frames, storage
from imsim.core.model import Code, Message, Session
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers
from imsim.core.unread import Unread

_WAITING = 10_000  # frames that may wait for one user to be opened
_LOGINS_PER_OPENING = 1 << 20  # session epochs that one opening of a user may hand out


class Port(Protocol):
    def store(self, request: storage.Request) -> None:
        """Carry it out; answered by `stored(request, result, now)`."""

    def to_gateway(self, gateway: str, frame: frames.ToGateway) -> None: ...


class _Place:
    """Where a user stands in a conversation."""

    __slots__ = ("max_seq", "unread")

    def __init__(self, max_seq: int, unread: Unread) -> None:
        self.max_seq = max_seq
        self.unread = unread


class _User:
    __slots__ = ("epoch", "id", "places", "request", "revoked_before", "sessions", "timer", "waiting")

    def __init__(self, id: str) -> None:
        self.id = id
        self.epoch = 0  # of the latest session
        self.sessions: dict[str, Session] = {}  # by device
        self.revoked_before = 0.0  # tokens issued before this wall time are void
        self.places: dict[str, _Place] = {}  # by conversation
        self.request: storage.OpenUser | None = None
        self.waiting: deque[frames.ToUsers] = deque()
        self.timer: Timer | None = None


class Users:
    def __init__(self, port: Port, policies: Policies) -> None:
        self._port = port
        self._policies = policies
        self._timers = Timers()
        self._users: dict[str, _User] = {}

    def next_deadline(self) -> float | None:
        return self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        self._timers.handle(now)

    def receive(self, frame: frames.ToUsers, now: float) -> None:
        if type(frame) is frames.Deliver:
            self._deliver(frame)
            return
        if isinstance(frame, frames.Attach):
            user = self._users.get(frame.user)
            if user is None:
                user = self._users[frame.user] = _User(frame.user)
                user.request = storage.OpenUser(user.id)
                user.timer = self._timers.at(now + self._policies.storage_timeout, self._overdue, user)
                self._port.store(user.request)
        else:
            assert isinstance(frame, frames.Up | frames.Detach)
            user = self._users.get(frame.session.user)
            if user is None:
                return  # a frame of a session that a crash of this node has ended
        if user.request is None:
            self._handle(user, frame)
        elif len(user.waiting) < _WAITING:
            user.waiting.append(frame)
        elif isinstance(frame, frames.Attach):
            self._refuse(frame)

    def stored(self, request: storage.Request, result: storage.Result, now: float) -> None:
        if isinstance(request, storage.OpenUser):
            self._opened(request, result)
        elif isinstance(request, storage.SaveMark):
            if isinstance(result, storage.Saved):
                user = self._users.get(request.user)
                if user is not None and user.request is None:
                    self._move_mark(user, request.conversation_id, request.read_seq)
        elif isinstance(request, storage.Missed):
            self._send_page(request, result)

    def revoke(self, name: str, before: float) -> None:
        """End all sessions of a user; tokens issued before this wall time (seconds since 1970) open no new one."""
        self._port.store(storage.RevokeTokens(name, before))
        user = self._users.get(name)
        if user is not None:
            user.revoked_before = max(before, user.revoked_before)
            for session in list(user.sessions.values()):
                self._kick(user, session, Code.TOKEN_REVOKED)

    def gateway_lost(self, gateway: str) -> None:
        """The link to a gateway broke, which has therefore ended all connections of our users."""
        for user in list(self._users.values()):
            # An opening goes on: whoever waits for it on another gateway still wants it.
            user.waiting = deque(
                frame for frame in user.waiting if not (isinstance(frame, frames.Attach) and frame.gateway == gateway)
            )
            for session in list(user.sessions.values()):
                if session.gateway == gateway:
                    self._detach(user, session)

    def router_back(self) -> None:
        """The link to another router, which had broken, is there again: messages of its conversations may not have
        reached us meanwhile. All of them are in storage, so let the devices look there."""
        for user in self._users.values():
            self._to_all(user.sessions.values(), frames.Resync())

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _opened(self, request: storage.OpenUser, result: storage.Result) -> None:
        user = self._users.get(request.user)
        if user is None or user.request is not request:
            return  # the answer to a question that was given up
        if user.timer:
            user.timer.cancel()
        if not isinstance(result, storage.UserState):
            self._give_up(user)
            return
        user.request = None
        user.epoch = result.epoch * _LOGINS_PER_OPENING
        user.revoked_before = max(result.revoked_before, user.revoked_before)
        for mark in result.marks:
            unread = Unread(mark.read_seq, mark.unread_seqs)
            user.places[mark.conversation_id] = _Place(mark.max_seq, unread)
        while user.waiting:
            self._handle(user, user.waiting.popleft())

    def _overdue(self, user: _User, now: float) -> None:
        self._give_up(user)

    def _give_up(self, user: _User) -> None:
        del self._users[user.id]
        for frame in user.waiting:
            if isinstance(frame, frames.Attach):
                self._refuse(frame)

    def _refuse(self, frame: frames.Attach, code: Code = Code.UNAVAILABLE) -> None:
        self._port.to_gateway(frame.gateway, frames.Attached(frame.connection, None, code))

    def _handle(self, user: _User, frame: frames.ToUsers) -> None:
        if isinstance(frame, frames.Deliver):
            by_gateway: dict[str, list[Session]] = {}
            self._deliver_one(user, frame, by_gateway)
            self._push(frame, by_gateway)
        elif isinstance(frame, frames.Attach):
            self._attach(user, frame)
        elif user.sessions.get(frame.session.device) == frame.session:
            if isinstance(frame, frames.Detach):
                self._detach(user, frame.session)
            elif isinstance(frame.frame, frames.Read):
                self._read(user, frame.session, frame.frame)
            elif isinstance(frame.frame, frames.EndSession):
                self._end_session(user, frame.session, frame.frame)
            elif isinstance(frame.frame, frames.Sync):
                self._port.store(storage.Missed(frame.session, frame.frame.cursors, self._policies.page))

    def _attach(self, user: _User, frame: frames.Attach) -> None:
        if frame.issued_at < user.revoked_before:
            self._refuse(frame, Code.TOKEN_REVOKED)
            self._forget_if_idle(user)
            return
        slot = {"all": frame.device, "one_per_kind": frame.kind, "single": ""}[self._policies.sessions]
        for other in list(user.sessions.values()):
            if other.device == frame.device:
                self._kick(user, other, Code.REPLACED)
            elif other.slot == slot:
                self._kick(user, other, Code.KICKED)
        user.epoch += 1
        session = Session(user.id, frame.device, user.epoch, frame.gateway, frame.connection, slot)
        user.sessions[frame.device] = session
        self._port.to_gateway(frame.gateway, frames.Attached(frame.connection, session))

    def _kick(self, user: _User, session: Session, code: Code) -> None:
        del user.sessions[session.device]
        self._port.to_gateway(session.gateway, frames.Kick(session, code))

    def _end_session(self, user: _User, session: Session, frame: frames.EndSession) -> None:
        other = user.sessions.get(frame.device)
        if other is not None and other != session:
            self._kick(user, other, Code.KICKED)
        self._to_all((session,), frames.Done(frame.op, frame.device))

    def _detach(self, user: _User, session: Session) -> None:
        del user.sessions[session.device]
        self._forget_if_idle(user)

    def _forget_if_idle(self, user: _User) -> None:
        if not user.sessions and user.request is None and not user.waiting and user.id in self._users:
            del self._users[user.id]

    # --- delivery ---------------------------------------------------------------------------------------------------

    def _deliver(self, frame: frames.Deliver) -> None:
        by_gateway: dict[str, list[Session]] = {}
        users = self._users
        for name in frame.users:
            user = users.get(name)
            if user is None:
                continue
            if user.request is None:
                self._deliver_one(user, frame, by_gateway)
            elif len(user.waiting) < _WAITING:
                user.waiting.append(frame)  # past the bound, the device's login sync brings it
        self._push(frame, by_gateway)

    def _push(self, frame: frames.Deliver, by_gateway: dict[str, list[Session]]) -> None:
        if by_gateway:
            push = frames.Push(frame.message)
            for gateway, sessions in by_gateway.items():
                self._port.to_gateway(gateway, frames.Down(sessions, push))

    def _count(self, user: _User, message: Message) -> _Place:
        """Take note of a message of one of the user's conversations; again or after a later one does no harm."""
        place = user.places.get(message.conversation_id)
        if place is None:
            place = user.places[message.conversation_id] = _Place(0, Unread())
        place.max_seq = max(place.max_seq, message.seq)
        if message.countable and message.sender != user.id:
            place.unread.add(message.seq)
        return place

    def _deliver_one(self, user: _User, frame: frames.Deliver, by_gateway: dict[str, list[Session]]) -> None:
        message = frame.message
        place = self._count(user, message)
        own = message.sender == user.id
        if own and frame.shown > place.unread.read_seq:
            self._move_mark(user, message.conversation_id, min(frame.shown, place.max_seq))
        for session in user.sessions.values():
            if own and session.device == frame.origin.device:
                continue
            sessions = by_gateway.get(session.gateway)
            if sessions is None:
                by_gateway[session.gateway] = [session]
            else:
                sessions.append(session)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, user: _User, session: Session, frame: frames.Read) -> None:
        place = user.places.get(frame.conversation_id)
        if place is None:
            answer = frames.Rejected(frame.op, frame.conversation_id, Code.NO_CONVERSATION, "nothing to read there")
            self._port.to_gateway(session.gateway, frames.Down((session,), answer))
            return
        seq = min(frame.seq, place.max_seq)
        if seq > place.unread.read_seq:
            self._port.store(storage.SaveMark(user.id, frame.conversation_id, seq))

    def _move_mark(self, user: _User, conversation_id: str, seq: int) -> None:
        place = user.places[conversation_id]
        if place.unread.read(seq):
            self._to_all(user.sessions.values(), frames.Marked(_mark(conversation_id, place)))

    def _to_all(self, sessions: Iterable[Session], frame: frames.ToClient) -> None:
        for session in sessions:
            self._port.to_gateway(session.gateway, frames.Down((session,), frame))

    # --- login sync -------------------------------------------------------------------------------------------------

    def _send_page(self, request: storage.Missed, result: storage.Result) -> None:
        user = self._users.get(request.session.user)
        if user is None or user.sessions.get(request.session.device) != request.session:
            return
        answers: list[frames.ToClient] = []
        if isinstance(result, storage.MissedPage):
            # What no writer let out, because its append was never answered, is known from here only.
            for message in result.messages:
                self._count(user, message)
            answers.append(frames.Page(result.messages, result.cursors, result.more))
            if not result.more:
                marks = [_mark(conversation, place) for conversation, place in user.places.items()]
                answers.append(frames.SyncDone(marks))
        else:
            answers.append(frames.Rejected(frames.Sync.op, "", Code.UNAVAILABLE, "storage could not be read"))
        for answer in answers:
            self._to_all((request.session,), answer)


def _mark(conversation_id: str, place: _Place) -> frames.Mark:
    return frames.Mark(conversation_id, place.unread.read_seq, place.unread.count)
