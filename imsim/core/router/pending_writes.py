"""Changes of conversation states that storage has not confirmed yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imsim.core.storage import SaveState
from imsim.core.timers import Timer, Timers


@dataclass(slots=True)
class _Unsaved:
    """The unconfirmed changes of one conversation state."""

    latest: SaveState  # its answer covers the earlier ones, because storage carries them out in order
    marks: SaveState  # the highest marks of all the changes; marks only move forward, so they can be repeated
    repeat: Timer

    @property
    def is_all(self) -> bool:
        """Whether the latest change contains all the marks."""
        return _marks(self.latest) == _marks(self.marks)


class PendingWrites:
    """Sends changes to storage, and repeats their marks until storage confirms them.

    A change without an answer, or with a failure, may be saved all the same. If the client that requested it is gone,
    no retry would report the change to the user's devices and to the other user. So the marks are sent again after
    `wait` seconds. The other fields (pinned, muted ...) are not repeated, because that could undo a later change.
    """

    __slots__ = ("_store", "_timers", "_unsaved", "_wait")

    def __init__(self, timers: Timers, wait: float, store: Callable[[SaveState], None]) -> None:
        self._timers = timers
        self._wait = wait
        self._store = store
        self._unsaved: dict[tuple[str, str], _Unsaved] = {}  # by user and conversation

    def save(self, request: SaveState, now: float) -> None:
        """Send the change to storage, and its marks again until `saved` confirms them."""
        key = (request.user, request.conversation_id)
        marks = [_marks(request)]
        before = self._unsaved.get(key)
        if before is not None:
            before.repeat.cancel()
            marks.append(_marks(before.marks))
        read, hidden, delivered = (max(seqs) for seqs in zip(*marks, strict=True))
        all_marks = SaveState(*key, read, hidden_seq=hidden or None, delivered_seq=delivered)
        repeat = self._timers.at(now + self._wait, self.save, all_marks)
        self._unsaved[key] = _Unsaved(request, all_marks, repeat)
        self._store(request)

    def saved(self, request: SaveState) -> None:
        """Note that storage has saved this change. The repeats end unless earlier changes had higher marks."""
        key = (request.user, request.conversation_id)
        unsaved = self._unsaved.get(key)
        if unsaved is not None and unsaved.latest is request and unsaved.is_all:
            unsaved.repeat.cancel()
            del self._unsaved[key]


def _marks(request: SaveState) -> tuple[int, int, int]:
    """Return the marks of a change: read, hidden and delivered seq."""
    return request.read_seq, request.hidden_seq or 0, request.delivered_seq
