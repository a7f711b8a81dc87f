from __future__ import annotations

import pytest
import simpy

from imsim.core.timers import Timer
from imsim.sim import Clock


def test_calls_run_at_their_time_and_in_order():
    clock, seen = Clock(), []
    for at, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        clock.call_at(at, lambda name: seen.append((clock.now, name)), name)
    clock.run(until=10)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert clock.now == 10


def test_calls_and_processes_share_one_order():
    clock, seen = Clock(), []

    def process():
        for _ in range(3):
            yield clock.timeout(1)
            seen.append(("process", clock.now))

    clock.process(process())
    clock.call_at(1.5, lambda _: seen.append(("call", clock.now)), None)
    clock.run(until=2.5)
    assert seen == [("process", 1.0), ("call", 1.5), ("process", 2.0)]


def test_run_until_leaves_calls_at_end_like_simpy():
    clock, plain, seen = Clock(), simpy.Environment(), []
    clock.call_at(5, seen.append, "call")
    event = plain.timeout(5)
    clock.run(until=5)
    plain.run(until=5)
    assert seen == []
    assert not event.processed
    clock.run_until_idle()
    assert seen == ["call"]


def test_run_until_idle_runs_present_calls_only():
    clock, seen = Clock(-3.0), []
    clock.call_at(-3.0, lambda _: clock.call_at(-3.0, seen.append, "follows"), None)
    clock.call_at(-2.9, seen.append, "later")
    clock.run_until_idle()
    assert (seen, clock.now) == (["follows"], -3.0)


def test_step_runs_one_call():
    clock, seen = Clock(), []
    clock.call_at(1, seen.append, 1)
    clock.call_at(2, seen.append, 2)
    clock.step()
    assert (seen, clock.now) == ([1], 1)


def test_empty_clock_behaves_like_simpy():
    with pytest.raises(simpy.core.EmptySchedule):
        Clock().step()
    Clock().run()


def test_run_until_the_past_is_refused():
    clock = Clock(7.0)
    with pytest.raises(ValueError, match="must be greater"):
        clock.run(until=7.0)


def test_run_until_event_returns_its_value():
    clock = Clock()
    clock.call_at(0.5, lambda _: None, None)
    assert clock.run(until=clock.timeout(1, value="done")) == "done"


def test_exception_in_process_is_raised():
    clock = Clock()

    def process():
        yield clock.timeout(1)
        raise RuntimeError("broken")

    clock.process(process())
    with pytest.raises(RuntimeError, match="broken"):
        clock.run(until=2)


def test_simpy_resources_work():
    clock, done = Clock(), []
    server = simpy.Resource(clock, capacity=1)

    def job(name):
        with server.request() as request:
            yield request
            yield clock.timeout(2)
            done.append((name, clock.now))

    clock.process(job("a"))
    clock.process(job("b"))
    clock.run(until=10)
    assert done == [("a", 2), ("b", 4)]


class Bell:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rang: list[tuple[float, int]] = []

    def ring(self, timer: Timer) -> None:
        self.rang.append((self.clock.now, timer[3]))


def test_timers_stand_in_line_with_calls():
    clock = Clock(-1.0)
    bell = Bell(clock)
    times = [5.0, 0.1, 0.25, 5.0, -0.9, 5.1, 0.25, 300.0, 4.99]
    for number, at in enumerate(times):
        if number % 2:
            clock.timer_at(at, bell, bell, number)
        else:
            clock.call_at(at, lambda n: bell.rang.append((clock.now, n)), number)
    clock.run(until=1.0)
    clock.timer_at(5.0, bell, bell, len(times))
    clock.run()
    assert bell.rang == sorted((at, number) for number, at in enumerate([*times, 5.0]))


def test_cancelled_timer_is_dropped_before_its_time_comes():
    clock = Clock()
    bell = Bell(clock)
    clock.timer_at(5.0, bell, bell, 1).cancel()
    clock.timer_at(5.0, bell, bell, 2)
    clock.run()
    assert bell.rang == [(5.0, 2)]


def test_overdue_timer_rings_at_once():
    clock = Clock(3.0)
    bell = Bell(clock)
    clock.timer_at(2.0, bell, bell, 1)
    clock.run()
    assert bell.rang == [(3.0, 1)]


def test_run_can_continue_after_exception():
    clock, seen = Clock(), []
    clock.call_at(1, lambda _: 1 / 0, None)
    clock.call_at(3, seen.append, "later")
    with pytest.raises(ZeroDivisionError):
        clock.run(until=2)
    clock.run()
    assert seen == ["later"]
