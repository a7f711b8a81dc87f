"""Counting unread messages: one rule, used by the server for a user and by the client for its local view."""

from __future__ import annotations

from collections.abc import Iterable


class Unread:
    """A read mark and the countable seqs of others beyond it, kept as ascending, disjoint ranges: a group that nobody
    reads costs one pair of numbers, not one for each message."""

    __slots__ = ("_floor", "_ranges", "_removed", "count", "read_seq")

    def __init__(self, read_seq: int = 0, seqs: Iterable[int] = (), ended: int = 0) -> None:
        self.read_seq = read_seq
        self.count = 0
        self._floor = read_seq if read_seq > ended else ended  # nothing up to here counts
        self._ranges: list[list[int]] = []
        self._removed: set[int] | None = None  # beyond the mark; whoever counts one of them later does not know better
        for seq in seqs:
            self.add(seq)

    def add(self, seq: int) -> None:
        """Count `seq`, once, unless it has been read already, or removed. Any order."""
        if seq <= self._floor or (self._removed and seq in self._removed):
            return
        ranges = self._ranges
        at = len(ranges)
        while at and ranges[at - 1][0] > seq:
            at -= 1
        if at and seq <= ranges[at - 1][1]:
            return
        self.count += 1
        joins_left = at > 0 and ranges[at - 1][1] == seq - 1
        joins_right = at < len(ranges) and ranges[at][0] == seq + 1
        if joins_left and joins_right:
            ranges[at - 1][1] = ranges.pop(at)[1]
        elif joins_left:
            ranges[at - 1][1] = seq
        elif joins_right:
            ranges[at][0] = seq
        else:
            ranges.insert(at, [seq, seq])

    def remove(self, seq: int) -> None:
        """It does not count, now or later."""
        if seq > self._floor:
            self._removed = self._removed or set()
            self._removed.add(seq)
        for at, (first, last) in enumerate(self._ranges):
            if first <= seq <= last:
                self.count -= 1
                self._ranges[at : at + 1] = [part for part in ([first, seq - 1], [seq + 1, last]) if part[0] <= part[1]]
                return

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
        ranges = self._ranges
        while ranges and ranges[0][1] <= seq:
            first, last = ranges.pop(0)
            self.count -= last - first + 1
        if ranges and ranges[0][0] <= seq:
            self.count -= seq - ranges[0][0] + 1
            ranges[0][0] = seq + 1
