"""The times at which refused clients should send again."""

from __future__ import annotations

from imsim.core.gateway.retries import RetrySlots


def test_each_client_gets_a_later_time():
    slots = RetrySlots(1.0, 30.0)
    taken = [slots.take(100.0) for _ in range(50)]
    assert taken == sorted(set(taken))
    assert taken[0] == 101.0


def test_distance_follows_from_the_rate_of_accepted_sends():
    slots = RetrySlots(1.0, 30.0)
    for number in range(1, 1001):
        slots.accepted(number / 500)
    first, second = slots.take(2.0), slots.take(2.0)
    assert 0.003 < second - first < 0.005  # two accepted sends


def test_schedule_starts_again_when_it_is_full():
    slots = RetrySlots(1.0, 3.0)
    taken = [slots.take(0.0) for _ in range(100)]
    assert min(taken) == 1.0
    assert max(taken) <= 3.0


def test_withdrawn_sends_do_not_count():
    slots = RetrySlots(1.0, 30.0)
    for number in range(1, 1001):
        slots.accepted(number / 500)
        if number % 10:
            slots.withdrawn()
    slots.accepted(3.1)
    first, second = slots.take(4.0), slots.take(4.0)
    assert second - first > 0.02
