"""Timers against a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imsim.core.timers import Timers

deadlines = st.lists(st.tuples(st.integers(0, 20), st.booleans()))


@given(deadlines, st.lists(st.integers(0, 25)))
def test_calls_come_in_the_order_of_deadlines_and_of_setting(entries, steps):
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


def test_a_deadline_is_due_at_its_very_time_and_not_before():
    timers, called = Timers(), []
    timers.at(2.0, lambda argument, now: called.append(now))
    timers.handle(1.999)
    assert called == []
    timers.handle(2.0)
    assert called == [2.0]


def test_each_call_comes_once():
    timers, called = Timers(), []
    timers.at(1.0, lambda argument, now: called.append(argument), "a")
    timers.handle(1.0)
    timers.handle(2.0)
    assert called == ["a"]


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


def test_a_cancelled_timer_keeps_nothing_alive():
    timer = Timers().at(1.0, print, object())
    timer.cancel()
    assert (timer.callback, timer.argument) == (None, None)


def test_to_cancel_after_the_call_is_harmless():
    timers = Timers()
    timer = timers.at(1.0, lambda argument, now: None)
    timers.handle(1.0)
    timer.cancel()
    assert timers.next_deadline() is None
