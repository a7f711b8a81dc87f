"""Writes of conversation states: their marks are repeated until storage has saved them."""

from __future__ import annotations

import pytest
from core.builders import AB, same

from imsim.core.router.pending_writes import PendingWrites
from imsim.core.storage import SaveState
from imsim.core.timers import Timers


class Saved:
    """A `PendingWrites` that waits 5 s, and the requests that it has sent to storage."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.asked: list[SaveState] = []
        self.writes = PendingWrites(self.timers, 5.0, self.asked.append)

    def save(self, at: float, *, read: int = 0, conversation: str = AB, **fields: object) -> SaveState:
        request = SaveState("alice", conversation, read, **fields)
        self.writes.save(request, at)
        return request

    def later(self, now: float) -> list[SaveState]:
        """Return the requests that are repeated until `now`."""
        self.asked.clear()
        self.timers.handle(now)
        return self.asked


@pytest.fixture
def saved():
    return Saved()


def test_saved_change_is_not_repeated(saved):
    saved.writes.saved(saved.save(0.0, read=7, pinned=True))
    assert saved.timers.next_deadline() is None
    assert saved.later(60.0) == []


def test_marks_without_an_answer_are_repeated_and_no_other_field(saved):
    saved.save(0.0, read=7, pinned=True, delivered_seq=9)
    assert same(saved.later(5.0), SaveState("alice", AB, 7, delivered_seq=9))
    assert same(saved.later(10.0), SaveState("alice", AB, 7, delivered_seq=9))


def test_repeated_marks_are_those_of_all_changes(saved):
    saved.save(0.0, read=7)
    saved.save(1.0, delivered_seq=9)
    saved.save(2.0, hidden_seq=4, muted=True)
    saved.save(3.0, read=6)
    assert same(saved.later(8.0), SaveState("alice", AB, 7, hidden_seq=4, delivered_seq=9))


def test_answer_to_a_later_change_does_not_confirm_earlier_marks(saved):
    saved.save(0.0, read=7)
    saved.writes.saved(saved.save(1.0, pinned=True))
    (repeated,) = saved.later(6.0)
    assert same([repeated], SaveState("alice", AB, 7))
    saved.writes.saved(repeated)
    assert saved.timers.next_deadline() is None


def test_answer_to_an_earlier_change_does_not_confirm_the_latest(saved):
    first = saved.save(0.0, read=7)
    saved.save(1.0, read=8)
    saved.writes.saved(first)
    assert same(saved.later(6.0), SaveState("alice", AB, 8))


def test_each_conversation_waits_for_its_own_answer(saved):
    saved.save(0.0, read=7)
    saved.writes.saved(saved.save(1.0, conversation="group:team", read=2))
    assert same(saved.later(6.0), SaveState("alice", AB, 7))
