"""Writes of states on their way into storage: their marks are asked for until storage has saved them."""

from __future__ import annotations

import pytest
from core.builders import AB, same

from imsim.core.router.pending_writes import PendingWrites
from imsim.core.storage import SaveState
from imsim.core.timers import Timers


class Saved:
    """A `PendingWrites` that waits 5 s, and what it has asked of storage."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.asked: list[SaveState] = []
        self.writes = PendingWrites(self.timers, 5.0, self.asked.append)

    def save(self, at: float, *, read: int = 0, conversation: str = AB, **fields: object) -> SaveState:
        request = SaveState("alice", conversation, read, **fields)
        self.writes.save(request, at)
        return request

    def later(self, now: float) -> list[SaveState]:
        """What is asked for again until then."""
        self.asked.clear()
        self.timers.handle(now)
        return self.asked


@pytest.fixture
def saved():
    return Saved()


def test_a_saved_change_is_not_asked_for_again(saved):
    saved.writes.saved(saved.save(0.0, read=7, pinned=True))
    assert saved.timers.next_deadline() is None
    assert saved.later(60.0) == []


def test_without_an_answer_the_marks_are_asked_for_again_and_nothing_else(saved):
    saved.save(0.0, read=7, pinned=True, delivered_seq=9)
    assert same(saved.later(5.0), SaveState("alice", AB, 7, delivered_seq=9))
    assert same(saved.later(10.0), SaveState("alice", AB, 7, delivered_seq=9))


def test_a_later_change_takes_the_marks_of_all_before_it_along(saved):
    saved.save(0.0, read=7)
    saved.save(1.0, delivered_seq=9)
    saved.save(2.0, hidden_seq=4, muted=True)
    saved.save(3.0, read=6)
    assert same(saved.later(8.0), SaveState("alice", AB, 7, hidden_seq=4, delivered_seq=9))


def test_the_answer_to_a_later_change_does_not_cover_earlier_marks(saved):
    saved.save(0.0, read=7)
    saved.writes.saved(saved.save(1.0, pinned=True))
    (again,) = saved.later(6.0)
    assert same([again], SaveState("alice", AB, 7))
    saved.writes.saved(again)
    assert saved.timers.next_deadline() is None


def test_the_answer_to_a_change_before_the_latest_is_not_enough(saved):
    first = saved.save(0.0, read=7)
    saved.save(1.0, read=8)
    saved.writes.saved(first)
    assert same(saved.later(6.0), SaveState("alice", AB, 8))


def test_each_conversation_waits_for_its_own_answer(saved):
    saved.save(0.0, read=7)
    saved.writes.saved(saved.save(1.0, conversation="group:team", read=2))
    assert same(saved.later(6.0), SaveState("alice", AB, 7))
