"""Tests that the search finds planted bugs. Each is found by at least three of the seeds 0 to 29; two of these are run.

`python -m faultsearch.test_planted_bugs` (in tests/) counts the seeds that find each bug, and prints `FOUND`.
"""

from __future__ import annotations

import pytest
from faultsearch.planted_bugs import BUGS

from imsim.faultsearch import replay

SEEDS = range(30)
LEAST = 3

#: bug -> the number of `SEEDS` that find it, and two of them: the first ones, unless a seed takes seconds
FOUND: dict[str, tuple[int, tuple[int, int]]] = {
    "ack_before_store": (30, (0, 1)),
    "seq_reused_after_a_crash": (30, (0, 1)),
    "dedupe_in_memory_only": (9, (0, 1)),
    "sender_order_not_enforced": (4, (4, 5)),
    "strangers_may_write": (8, (3, 6)),
    "received_ack_against_the_policy": (18, (0, 1)),
    "rates_ignored": (10, (2, 8)),
    "recall_not_stored": (10, (0, 1)),
    "fan_out_to_strangers": (30, (0, 1)),
    "missing_group_answers_otherwise": (28, (1, 2)),
    "position_shown_to_outsiders": (13, (1, 3)),
    "last_member_forgotten": (27, (0, 1)),
    "push_not_retried": (9, (0, 2)),
    "slow_reader_stays_connected": (14, (1, 3)),
    "shown_twice": (22, (0, 1)),
    "shown_out_of_order": (16, (0, 2)),
    "devices_disagree": (18, (1, 2)),
    "acknowledged_before_shown": (30, (0, 1)),
    "sync_skips_one": (30, (1, 2)),
    "pages_too_long": (22, (0, 1)),
    "unread_decremented_twice": (28, (0, 1)),
    "own_messages_counted": (30, (0, 1)),
    "mark_sent_before_saved": (17, (0, 1)),
    "read_mark_moves_back": (25, (0, 2)),
    "read_beyond_the_end": (30, (0, 1)),
    "setting_dropped": (13, (3, 5)),
    "other_devices_not_notified": (24, (0, 1)),
    "late_message_becomes_the_last": (13, (1, 2)),
    "busy_and_stored": (9, (0, 4)),
    "repetition_refused": (30, (0, 1)),
    "resend_dropped": (30, (0, 1)),
    "kicked_session_stays_open": (23, (2, 3)),
    "stale_epoch_accepted": (7, (2, 3)),
    "connection_end_not_reported": (24, (1, 2)),
    "client_sends_no_heartbeats": (23, (0, 1)),
    "kicked_client_logs_in_again": (25, (1, 2)),
    "login_without_deadline": (24, (0, 2)),
    "presence_without_a_policy": (12, (1, 8)),
    "room_keeps_devices_that_left": (29, (0, 1)),
    "group_listed_for_strangers": (18, (0, 2)),
    "last_member_not_listed": (22, (0, 1)),
    "requests_listed_as_friends": (10, (2, 5)),
    "left_out_messages_not_counted": (11, (0, 4)),
    "first_sync_leaves_out_too_much": (8, (0, 8)),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_search_finds_a_planted_bug(bug, monkeypatch):
    bug(monkeypatch)
    count, seeds = FOUND[bug.__name__]
    assert count >= LEAST
    assert any(_is_found(seed) for seed in seeds)


@pytest.mark.parametrize("seed", sorted({seed for _, seeds in FOUND.values() for seed in seeds}))
def test_the_same_seed_passes_without_a_bug(seed):
    """Otherwise a false alarm could be taken for a planted bug."""
    assert replay(seed).violations == []


def test_every_planted_bug_is_recorded():
    assert [bug.__name__ for bug in BUGS] == list(FOUND)


def count() -> None:
    """Print the present value of `FOUND`."""
    for bug in BUGS:
        with pytest.MonkeyPatch.context() as patch:
            bug(patch)
            found = [seed for seed in SEEDS if _is_found(seed)]
        print(f'    "{bug.__name__}": ({len(found)}, {tuple(found[:2])}),', flush=True)


def _is_found(seed: int) -> bool:
    """Return whether the seed breaks an invariant. An exception in a machine does not count, as any test would find
    it."""
    return bool({violation.invariant for violation in replay(seed).violations} - {"no_machine_raises"})


if __name__ == "__main__":
    count()
