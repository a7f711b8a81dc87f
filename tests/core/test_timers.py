"""Timers, compared with a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imsim.core.timers import Timers

deadlines = st.lists(st.tuples(st.integers(0, 20), st.booleans()))


@given(deadlines, st.lists(st.integers(0, 25)))
def test_callbacks_run_in_the_order_of_deadlines_then_of_creation(entries, steps):
    timers, called, expected = Timers(), [], []
    for number, (deadline, cancelled) in enumerate(entries):
        timer = timers.at(deadline, lambda argument, now: called.append((argument, now)), (deadline, number))
        if cancelled:
            timer.cancel()
        else:
            expected.append((deadline, number))
    expected.sort()
    for now in sorted(steps):
        assert timers.next_deadline() == min((d for d, _ in expected), default=None)
        timers.handle(now)
        due = [entry for entry in expected if entry[0] <= now]
        assert called == [(entry, now) for entry in due]
        del expected[: len(due)]
        called.clear()
    assert timers.next_deadline() == min((d for d, _ in expected), default=None)


def test_a_callback_may_set_a_timer_that_is_due_at_once():
    timers, called = Timers(), []

    def first(argument, now):
        timers.at(now, lambda argument, now: called.append("second"))

    timers.at(1.0, first)
    timers.handle(1.0)
    assert called == ["second"]


def test_a_callback_may_cancel_another_that_is_due():
    timers, called = Timers(), []
    timers.at(1.0, lambda argument, now: other.cancel())
    other = timers.at(1.0, lambda argument, now: called.append("other"))
    timers.handle(1.0)
    assert called == []


def test_a_cancelled_timer_releases_its_callback_and_argument():
    timer = Timers().at(1.0, print, object())
    timer.cancel()
    assert timer[2:] == [None, None]
