"""Counting unread messages: one rule, used by the server for a user and by the client for its local view."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class Unread:
    """A read mark and the countable seqs of others beyond it, kept as ascending, disjoint ranges: a group that nobody
    reads costs one pair of numbers, not one for each message."""

    __slots__ = ("_bounds", "_floor", "_removed", "read_seq")

    def __init__(self, read_seq: int = 0, seqs: Iterable[int] = (), ended: int = 0) -> None:
        self.read_seq = read_seq
        self._floor = read_seq if read_seq > ended else ended  # nothing up to here counts
        #: Of each range its first seq and the seq after its last, all in one ascending list: a seq counts where an odd
        #: number of bounds is not beyond it.
        self._bounds: tuple[int, ...] = ()
        self._removed: set[int] | None = None  # beyond the mark; whoever counts one of them later does not know better
        for seq in seqs:
            self.add(seq)

    @property
    def count(self) -> int:
        return sum(self._bounds[1::2]) - sum(self._bounds[::2])

    def add(self, seq: int) -> None:
        """Count `seq`, once, unless it has been read already, or removed. Any order."""
        if seq <= self._floor or (self._removed and seq in self._removed):
            return
        bounds = self._bounds
        if not bounds:
            self._bounds = (seq, seq + 1)
        elif bounds[-1] == seq:  # the next one, as nearly always
            self._bounds = (*bounds[:-1], seq + 1)
        elif not bisect_right(bounds, seq) % 2:
            self._flip(seq)

    def remove(self, seq: int) -> None:
        """It does not count, now or later."""
        if seq > self._floor:
            self._removed = self._removed or set()
            self._removed.add(seq)
        if bisect_right(self._bounds, seq) % 2:
            self._flip(seq)

    def read(self, seq: int) -> bool:
        """Move the mark to `seq`; False, and nothing happens, if it stands there already or beyond."""
        if seq <= self.read_seq:
            return False
        self.read_seq = seq
        self.end(seq)
        return True

    def end(self, seq: int) -> None:
        """The user has been no member since `seq`: what was said until then does not count, read or not."""
        if seq <= self._floor:
            return
        self._floor = seq
        if self._removed:
            self._removed = {removed for removed in self._removed if removed > seq} or None
        bounds, cut = self._bounds, seq + 1
        at = bisect_right(bounds, cut)
        self._bounds = (cut, *bounds[at:]) if at % 2 else bounds[at:]

    def _flip(self, seq: int) -> None:
        """Count `seq` where it was not counted, and the reverse. Both swap the same two bounds: one that is there goes,
        one that is not comes."""
        for bound in (seq, seq + 1):
            at = bisect_left(self._bounds, bound)
            end = at + (self._bounds[at : at + 1] == (bound,))
            self._bounds = (*self._bounds[:at], *((bound,) if end == at else ()), *self._bounds[end:])
