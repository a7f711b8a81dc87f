"""The order in which a device shows a conversation: each message once, by seq, whatever comes twice or too early."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

from imsim.core.empty import NO_DICT
from imsim.core.model import Message, Route

_AHEAD = 1_000  # messages held back behind a gap; more are not kept, and come again


class Taken(Enum):
    """What becomes of a message that arrived."""

    SHOW = auto()  # now; then what `following` yields
    REPEATED = auto()  # it was here before
    AHEAD = auto()  # held back: something before it is missing


class Inbox:
    """`next_seq` is the lowest seq that has not been shown."""

    __slots__ = ("_ahead", "_complete", "_own", "next_seq")

    def __init__(self) -> None:
        self.next_seq = 1
        self._ahead: dict[int, tuple[Message, Route, float]] = NO_DICT  # and when it came
        self._complete = 0  # up to here nothing is missing that this device may see
        self._own: dict[int, float] = NO_DICT  # seqs from next_seq on that this device's own sends have got, and when

    @property
    def cursor(self) -> int:
        """Everything up to this seq has been seen: what a sync starts from."""
        return self.next_seq - 1

    @property
    def held_since(self) -> float | None:
        """When the first of the messages held back came; None if there is none."""
        if not self._ahead and not self._own:
            return None
        ahead, own = min(self._ahead, default=0), min(self._own, default=0)
        if ahead and not (own and own < ahead):
            return self._ahead[ahead][2]
        return self._own.get(own)

    def take(self, message: Message, route: Route, now: float) -> Taken:
        seq = message.seq
        if seq == self.next_seq:
            self.next_seq = seq + 1
            return Taken.SHOW
        if seq < self.next_seq or seq in self._ahead or seq in self._own:
            return Taken.REPEATED
        if len(self._ahead) >= _AHEAD and seq < (furthest := max(self._ahead)):
            del self._ahead[furthest]  # or what is fetched to fill the gap would find no room, and be fetched for ever
        if len(self._ahead) < _AHEAD:
            self._ahead = self._ahead or {}
            self._ahead[seq] = (message, route, now)
        return Taken.AHEAD

    def following(self) -> Iterator[tuple[Message, Route]]:
        """What can be shown now because what was missing before it is not missing any more."""
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
        """Whether nothing is held back: then `following` yields nothing, as nearly always."""
        return not self._ahead and not self._own and self._complete < self.next_seq

    def take_own(self, seq: int, now: float) -> None:
        """A message that this device sent, and so shows, got this seq."""
        if seq == self.next_seq:
            self.next_seq = seq + 1
        elif seq > self.next_seq:
            self._own = self._own or {}
            self._own.setdefault(seq, now)
            self._ahead.pop(seq, None)

    def complete_to(self, seq: int) -> None:
        """Everything up to `seq` that this device may see has been brought: `following` passes what is not there."""
        self._complete = max(self._complete, seq)

    def gap(self, head: int) -> tuple[int, int]:
        """The first and the last seq of what is missing before the first message held back, or else up to `head`."""
        held = min((*self._ahead, *self._own), default=None)
        return self.next_seq, head if held is None else held - 1
