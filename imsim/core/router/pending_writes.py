"""Changes of conversation state on their way into storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imsim.core.storage import SaveState
from imsim.core.timers import Timer, Timers


@dataclass(slots=True)
class _Unsaved:
    """The changes of one state since storage has last answered well."""

    latest: SaveState  # its answer covers the earlier ones, for storage carries them out in order
    marks: SaveState  # of them all, what can be asked for again without harm: marks, which only move forward
    again: Timer

    @property
    def is_all(self) -> bool:
        """Whether the latest asks for all the marks."""
        return _marks(self.latest) == _marks(self.marks)


class PendingWrites:
    """Has storage save changes, and repeats their marks until it has answered well.

    Without a good answer a change may have come about all the same, and who asked for it may be gone: then nobody would
    tell those who are to be told. So the marks are asked for again, after `wait` seconds. What is no mark (pinned,
    muted ...) is not: a later change must not be undone.
    """

    __slots__ = ("_store", "_timers", "_unsaved", "_wait")

    def __init__(self, timers: Timers, wait: float, store: Callable[[SaveState], None]) -> None:
        self._timers = timers
        self._wait = wait
        self._store = store
        self._unsaved: dict[tuple[str, str], _Unsaved] = {}  # by user and conversation

    def save(self, request: SaveState, now: float) -> None:
        whose = (request.user, request.conversation_id)
        marks = [_marks(request)]
        before = self._unsaved.get(whose)
        if before is not None:
            before.again.cancel()
            marks.append(_marks(before.marks))
        read, hidden, delivered = (max(seqs) for seqs in zip(*marks, strict=True))
        all_marks = SaveState(*whose, read, hidden_seq=hidden or None, delivered_seq=delivered)
        again = self._timers.at(now + self._wait, self.save, all_marks)
        self._unsaved[whose] = _Unsaved(request, all_marks, again)
        self._store(request)

    def saved(self, request: SaveState) -> None:
        """Storage has answered this one well. The latest stays if earlier ones asked for more."""
        whose = (request.user, request.conversation_id)
        unsaved = self._unsaved.get(whose)
        if unsaved is not None and unsaved.latest is request and unsaved.is_all:
            unsaved.again.cancel()
            del self._unsaved[whose]


def _marks(request: SaveState) -> tuple[int, int, int]:
    return request.read_seq, request.hidden_seq or 0, request.delivered_seq
