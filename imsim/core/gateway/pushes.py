"""The pushes of a gateway to one session: messages, conversation states, notices of new messages, and resyncs.

A push is repeated with backoff until the device acknowledges it. A chatroom's message is sent only once, or not at all
if the connection receives too many.
"""

from __future__ import annotations

from typing import Protocol

from imsim.core import events, frames
from imsim.core.empty import NO_DICT
from imsim.core.limits import Bucket
from imsim.core.model import Scene, Session
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_CHATROOM = Scene.CHATROOM  # faster than an attribute of the enumeration
_LONGEST_TIMEOUT = 60.0  # the upper limit of the backoff, in seconds

_Latest = frames.State | frames.Notify | frames.Resync
_Repeated = frames.Push | _Latest


class PushesPort(Protocol):
    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def emit(self, event: events.Pushed | events.Shed) -> None: ...


class _Push:
    """A push that the device has not acknowledged yet."""

    __slots__ = ("attempts", "frame", "number", "timer", "wait")

    def __init__(self, frame: _Repeated, number: int, wait: float) -> None:
        self.frame = frame
        self.number = number  # the seq of a message or notice, the version of a state, the number of a resync
        self.attempts = 1
        self.wait = wait
        self.timer: Timer | None = None


class Pushes:
    """The pushes of one session.

    The methods that push return whether the queue had room. It holds `send_queue` unacknowledged pushes. If it is full,
    the gateway must end the connection.
    """

    __slots__ = (
        "_by_conversation",
        "_latest",
        "_policies",
        "_port",
        "_resyncs",
        "_room_bucket",
        "_session",
        "_timers",
        "count",
    )

    def __init__(self, port: PushesPort, policies: Policies, timers: Timers, session: Session) -> None:
        self._port = port
        self._policies = policies
        self._timers = timers
        self._session = session
        self._by_conversation: dict[str, list[_Push]] = NO_DICT  # messages, in seq order
        #: The latest push by op and conversation, for those where a new push replaces the one before it.
        self._latest: dict[tuple[str, str], _Push] = NO_DICT
        self._resyncs = 0  # the count of resyncs so far
        self._room_bucket: Bucket | None = None  # the rate limit of chatroom messages, if there is one
        self.count = 0  # the count of unacknowledged pushes

    def push(self, frame: frames.Push, now: float) -> bool:
        message = frame.message
        if message.scene == _CHATROOM:
            if self._sheds(now):
                self._port.emit(events.Shed(self._session, message))
                return True
        elif (push := self._until_acknowledged(frame, message.seq, now)) is None:
            return False
        elif (pushes := self._by_conversation.get(message.conversation_id)) is not None:
            pushes.append(push)
        else:
            self._by_conversation = self._by_conversation or {}
            self._by_conversation[message.conversation_id] = [push]
        port, session = self._port, self._session
        port.emit(events.Pushed(session, message, 1))
        port.send(session.connection, frame)
        return True

    def state(self, frame: frames.State, now: float) -> bool:
        return self._push_latest(frame, frame.state.conversation_id, frame.state.version, now)

    def notify(self, frame: frames.Notify, now: float) -> bool:
        return self._push_latest(frame, frame.conversation_id, frame.seq, now)

    def resync(self, frame: frames.Resync, now: float) -> bool:
        self._resyncs += 1
        return self._push_latest(frames.Resync(self._resyncs), "", self._resyncs, now)

    def delivered(self, conversation: str, seq: int) -> None:
        pushes = self._by_conversation.get(conversation)
        if pushes is not None:
            while pushes and pushes[0].number <= seq:
                self._acknowledged(pushes.pop(0))
            if not pushes:
                del self._by_conversation[conversation]
                self._by_conversation = self._by_conversation or NO_DICT
        if self._latest:
            self._latest_acknowledged((frames.Notify.op, conversation), seq)

    def state_acked(self, conversation: str, version: int) -> None:
        self._latest_acknowledged((frames.State.op, conversation), version)

    def resynced(self, number: int) -> None:
        self._latest_acknowledged((frames.Resync.op, ""), number)

    def end(self) -> None:
        """Stop all timers, because the connection has ended."""
        for pushes in (*self._by_conversation.values(), self._latest.values()):
            for push in pushes:
                if push.timer:
                    push.timer.cancel()

    def _sheds(self, now: float) -> bool:
        """Return whether one more chatroom message would exceed the rate limit of the connection."""
        if not self._policies.room_rate:
            return False
        if self._room_bucket is None:
            self._room_bucket = Bucket(self._policies.room_rate, self._policies.room_burst, now)
        return self._room_bucket.take(now) > 0

    def _push_latest(self, frame: _Latest, conversation: str, number: int, now: float) -> bool:
        """Push a frame that replaces the frames of the same op and conversation with lower numbers."""
        key = (frame.op, conversation)
        other = self._latest.get(key)
        if other is not None:
            if other.number >= number:
                return True
            self._acknowledged(self._latest.pop(key))
        push = self._until_acknowledged(frame, number, now)
        if push is None:
            return False
        self._latest = self._latest or {}
        self._latest[key] = push
        self._port.send(self._session.connection, frame)
        return True

    def _until_acknowledged(self, frame: _Repeated, number: int, now: float) -> _Push | None:
        """Start to repeat the frame until its acknowledgement. Return None if the queue is full."""
        if self.count >= self._policies.send_queue:
            return None
        self.count += 1
        push = _Push(frame, number, self._policies.push_timeout)
        push.timer = self._timers.at(now + push.wait, self._overdue, push)
        return push

    def _overdue(self, push: _Push, now: float) -> None:
        push.attempts += 1
        push.wait = min(push.wait * self._policies.push_backoff, _LONGEST_TIMEOUT)
        push.timer = self._timers.at(now + push.wait, self._overdue, push)
        frame = push.frame
        if type(frame) is frames.Push:
            self._port.emit(events.Pushed(self._session, frame.message, push.attempts))
        self._port.send(self._session.connection, frame)

    def _latest_acknowledged(self, key: tuple[str, str], number: int) -> None:
        push = self._latest.get(key)
        if push is not None and push.number <= number:
            self._acknowledged(self._latest.pop(key))

    def _acknowledged(self, push: _Push) -> None:
        self.count -= 1
        if push.timer:
            push.timer.cancel()
