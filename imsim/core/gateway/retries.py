"""The times at which refused clients should send again, so that they do not all come back at the same time."""

from __future__ import annotations

from math import inf

_WINDOW = 1.0  # seconds over which accepted sends are counted
_SPARSE = 2.0  # retries are this many times rarer than accepted sends, so that refusals cost the server little
_LONGEST_GAP = 0.1  # seconds between two retries, if hardly any send is accepted


class RetrySlots:
    """A schedule of retries for clients whose sends a busy server has refused.

    Each client gets a time of its own, after that of the client before it. The distance follows from the rate at which
    sends were accepted lately. So the more clients are refused, the longer each of them waits. `first` and `last` bound
    the wait in seconds. When the schedule is full, it starts from its beginning.
    """

    __slots__ = ("_count", "_first", "_gap", "_last", "_latest", "_since")

    def __init__(self, first: float, last: float) -> None:
        self._first = first
        self._last = max(first, last)
        self._latest = -inf  # the time that was assigned last
        self._gap = _LONGEST_GAP
        self._since = -inf  # the start of the window
        self._count = 0

    def accepted(self, now: float) -> None:
        """Count a send that was accepted."""
        self._count += 1
        if now >= self._since + _WINDOW:
            self._gap = min(_LONGEST_GAP, _SPARSE * (now - self._since) / self._count)
            self._since, self._count = now, 0

    def withdrawn(self) -> None:
        """Take back the count of a send that was refused after all."""
        self._count = max(0, self._count - 1)

    def take(self, now: float) -> float:
        """Return the time at which another client should send again."""
        slot = max(self._latest + self._gap, now + self._first)
        if slot > now + self._last:
            slot = now + self._first
        self._latest = slot
        return slot
