"""What a gateway sends to one session unasked: messages, conversation states, and notices that there is something new.

Each is sent again, with backoff, until the device has acknowledged it; but for a chatroom's messages, which go once, or
not at all where the connection gets too many.
"""

from __future__ import annotations

from typing import Protocol

from imsim.core import events, frames
from imsim.core.empty import NO_DICT
from imsim.core.limits import Bucket
from imsim.core.model import Scene, Session
from imsim.core.policies import Policies
from imsim.core.timers import Timer, Timers

_CHATROOM = Scene.CHATROOM  # asked for with every push
_LONGEST_TIMEOUT = 60.0  # seconds; what is repeated backs off up to this

_Latest = frames.State | frames.Notify | frames.Resync
_Repeated = frames.Push | _Latest


class PushesPort(Protocol):
    def send(self, connection: int, frame: frames.ToClient) -> None: ...

    def emit(self, event: events.Pushed | events.Shed) -> None: ...


class _Push:
    """One that the device has not acknowledged yet."""

    __slots__ = ("attempts", "frame", "number", "timer", "wait")

    def __init__(self, frame: _Repeated, number: int, wait: float) -> None:
        self.frame = frame
        self.number = number  # a message's seq, a state's version, a resync's number
        self.attempts = 1
        self.wait = wait
        self.timer: Timer | None = None


class Pushes:
    """Those of one session, which is the latest of its connection.

    What pushes something says whether there was room for it: beyond `send_queue` unacknowledged ones there is none,
    which is to be the connection's end."""

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
        #: By op and conversation, where a new one makes those before it needless.
        self._latest: dict[tuple[str, str], _Push] = NO_DICT
        self._resyncs = 0  # how many it was sent
        self._room_bucket: Bucket | None = None  # what it is sent of chatrooms, where there is a limit
        self.count = 0  # of those that are unacknowledged

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
        self._port.emit(events.Pushed(self._session, message, 1))
        self._port.send(self._session.connection, frame)
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
        for pushes in (*self._by_conversation.values(), self._latest.values()):
            for push in pushes:
                if push.timer:
                    push.timer.cancel()

    def _sheds(self, now: float) -> bool:
        """Whether the device gets too much of chatrooms for one message more."""
        if not self._policies.room_rate:
            return False
        if self._room_bucket is None:
            self._room_bucket = Bucket(self._policies.room_rate, self._policies.room_burst, now)
        return self._room_bucket.take(now) > 0

    def _push_latest(self, frame: _Latest, conversation: str, number: int, now: float) -> bool:
        """It says all that one with a lower number says, so that one need not arrive any more."""
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
        """Have it sent again, and again; None if too much is unacknowledged already."""
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
