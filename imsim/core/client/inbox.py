"""The inbox of a conversation: it shows each message once and in the order of seqs, for any order of arrival."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from imsim.core.empty import NO_DICT
from imsim.core.model import Message, Route

_AHEAD = 1_000  # the most messages held back behind a gap; the server sends the others again


class Taken(Enum):
    """The result of taking a message that arrived."""

    SHOW = auto()  # show it now, then the messages of `following`
    REPEATED = auto()  # it arrived before
    AHEAD = auto()  # it is held back, because a message before it is missing


class Inbox:
    """The order of one conversation on one device. `next_seq` is the lowest seq that has not been shown."""

    __slots__ = ("_ahead", "_complete", "_own", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 1
        self._ahead: dict[int, tuple[Message, Route, float]] = NO_DICT  # messages held back, with their arrival times
        self._complete = 0  # up to this seq, the device has everything that it may see
        self._own: dict[int, float] = NO_DICT  # seqs of this device's own sends from next_seq on, with their times

    @property
    def cursor(self) -> int:
        """The seq up to which the device has everything. A sync starts from here."""
        return self.next_seq - 1

    @property
    def held_since(self) -> float | None:
        """The arrival time of the held-back message with the lowest seq, or None if no message is held back."""
        if not self._ahead and not self._own:
            return None
        ahead, own = min(self._ahead, default=0), min(self._own, default=0)
        if ahead and not (own and own < ahead):
            return self._ahead[ahead][2]
        return self._own.get(own)

    def take(self, message: Message, route: Route, now: float) -> Taken:
        """Take a message that arrived, and return whether to show it."""
        seq = message.seq
        if seq == self.next_seq:
            self.next_seq = seq + 1
            return Taken.SHOW
        if seq < self.next_seq or seq in self._ahead or seq in self._own:
            return Taken.REPEATED
        if len(self._ahead) >= _AHEAD and seq < (furthest := max(self._ahead)):
            del self._ahead[furthest]  # make room for messages that fill the gap, or they would be fetched forever
        if len(self._ahead) < _AHEAD:
            self._ahead = self._ahead or {}
            self._ahead[seq] = (message, route, now)
        return Taken.AHEAD

    def following(self) -> Iterator[tuple[Message, Route]]:
        """Yield the held-back messages that can be shown now, and move `next_seq` past them."""
        while True:
            seq = self.next_seq
            if seq in self._own:
                del self._own[seq]
                self.next_seq = seq + 1
            elif seq in self._ahead:
                self.next_seq = seq + 1
                message, route, _ = self._ahead.pop(seq)
                yield message, route
            elif seq <= self._complete:
                held = min((*self._ahead, *self._own), default=self._complete + 1)
                self.next_seq = min(held, self._complete + 1)
            else:
                return

    @property
    def is_caught_up(self) -> bool:
        """Whether `following` would yield nothing because no message is held back. This is the usual case."""
        return not self._ahead and not self._own and self._complete < self.next_seq

    def take_own(self, seq: int, now: float) -> None:
        """Note the seq of a message that this device sent, and so shows already."""
        if seq == self.next_seq:
            self.next_seq = seq + 1
        elif seq > self.next_seq:
            self._own = self._own or {}
            self._own.setdefault(seq, now)
            self._ahead.pop(seq, None)

    def complete_to(self, seq: int) -> None:
        """Note that the device has everything up to `seq` that it may see. `following` skips the absent seqs."""
        self._complete = max(self._complete, seq)

    def gap(self, head: int) -> tuple[int, int]:
        """Return the first and the last missing seq before the first held-back message, or else up to `head`."""
        held = min((*self._ahead, *self._own), default=None)
        return self.next_seq, head if held is None else held - 1
