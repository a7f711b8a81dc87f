"""The count of unread messages: one rule for the server's users and for the client's local view."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class SavedUnread:
    """An `Unread` as plain values. Its fields have the meaning of the attributes there."""

    read_seq: int
    floor: int
    bounds: list[int]
    removed: list[int]


class Unread:
    """A read mark and the unread seqs beyond it: the countable messages of others.

    The seqs are kept as ascending, disjoint ranges. So a group that a user never reads costs two numbers, and not one
    for each message.
    """

    __slots__ = ("_bounds", "_floor", "_removed", "read_seq")

    def __init__(self, read_seq: int = 0, seqs: Iterable[int] = (), ended: int = 0) -> None:
        self.read_seq = read_seq
        self._floor = read_seq if read_seq > ended else ended  # seqs up to here do not count
        #: For each range, its first seq and the seq after its last, all in ascending order. So a seq counts if the
        #: number of bounds up to it is odd.
        self._bounds: tuple[int, ...] = ()
        self._removed: set[int] | None = None  # beyond the floor; an `add` after the `remove` must not count them
        for seq in seqs:
            self.add(seq)

    def saved(self) -> SavedUnread:
        """Return everything that `restored` needs."""
        return SavedUnread(self.read_seq, self._floor, list(self._bounds), sorted(self._removed or ()))

    @classmethod
    def restored(cls, saved: SavedUnread) -> Unread:
        """Return the count that `saved` was made of."""
        unread = cls(saved.read_seq, ended=saved.floor)
        unread._bounds = tuple(saved.bounds)
        unread._removed = set(saved.removed) or None
        return unread

    @property
    def count(self) -> int:
        """The count of unread messages."""
        return sum(self._bounds[1::2]) - sum(self._bounds[::2])

    @property
    def ranges(self) -> list[list[int]]:
        """The unread seqs as ascending ranges [first, last]."""
        return [[first, after - 1] for first, after in zip(self._bounds[::2], self._bounds[1::2], strict=True)]

    def add(self, seq: int) -> None:
        """Count `seq` once, unless it has been read or removed. Seqs may arrive in any order."""
        if seq <= self._floor or (self._removed and seq in self._removed):
            return
        bounds = self._bounds
        if not bounds:
            self._bounds = (seq, seq + 1)
        elif bounds[-1] == seq:  # the next seq: the usual case
            self._bounds = (*bounds[:-1], seq + 1)
        elif not bisect_right(bounds, seq) % 2:
            self._flip(seq)

    def add_range(self, first: int, last: int) -> None:
        """Count each seq from `first` to `last`, as `add` does."""
        first = max(first, self._floor + 1)
        if first > last:
            return
        bounds, after = self._bounds, last + 1
        at, end = bisect_left(bounds, first), bisect_right(bounds, after)
        begin, finish = () if at % 2 else (first,), () if end % 2 else (after,)
        self._bounds = (*bounds[:at], *begin, *finish, *bounds[end:])
        for seq in self._removed or ():
            if first <= seq <= last:
                self._flip(seq)

    def remove(self, seq: int) -> None:
        """Do not count `seq`, now or later."""
        if seq > self._floor:
            self._removed = self._removed or set()
            self._removed.add(seq)
        if bisect_right(self._bounds, seq) % 2:
            self._flip(seq)

    def read(self, seq: int) -> bool:
        """Move the read mark to `seq` and return True. If the mark is not below `seq`, do nothing and return False."""
        if seq <= self.read_seq:
            return False
        self.read_seq = seq
        self.end(seq)
        return True

    def end(self, seq: int) -> None:
        """Stop counting the messages up to `seq`, read or not, because the user's membership ended there."""
        if seq <= self._floor:
            return
        self._floor = seq
        if self._removed:
            self._removed = {removed for removed in self._removed if removed > seq} or None
        bounds, cut = self._bounds, seq + 1
        at = bisect_right(bounds, cut)
        self._bounds = (cut, *bounds[at:]) if at % 2 else bounds[at:]

    def _flip(self, seq: int) -> None:
        """Count `seq` if it did not count, and the reverse.

        Both change the bounds `seq` and `seq + 1` in the same way: remove the bound if it exists, otherwise insert it.
        """
        for bound in (seq, seq + 1):
            at = bisect_left(self._bounds, bound)
            end = at + (self._bounds[at : at + 1] == (bound,))
            self._bounds = (*self._bounds[:at], *((bound,) if end == at else ()), *self._bounds[end:])
