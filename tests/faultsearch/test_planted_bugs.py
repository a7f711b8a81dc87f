"""Does the search find bugs? Each planted one is found by at least five of the seeds 0 to 29; two of them are tried.

`python -m faultsearch.test_planted_bugs` (in tests/) counts again in how many each is found, and prints `FOUND`.
"""

from __future__ import annotations

import pytest
from faultsearch.planted_bugs import BUGS

from imsim.faultsearch import replay

SEEDS = range(30)
LEAST = 5

#: bug -> in how many of `SEEDS` it is found, and the first two of them
FOUND: dict[str, tuple[int, tuple[int, int]]] = {
    "ack_before_store": (30, (0, 1)),
    "seq_reused_after_a_crash": (30, (0, 1)),
    "dedupe_in_memory_only": (11, (0, 1)),
    "sender_order_not_enforced": (6, (4, 5)),
    "strangers_may_write": (7, (3, 6)),
    "received_without_being_asked": (18, (0, 1)),
    "rates_ignored": (9, (2, 8)),
    "recall_not_stored": (11, (0, 1)),
    "fan_out_to_strangers": (30, (0, 1)),
    "last_member_forgotten": (27, (0, 1)),
    "push_not_retried": (10, (0, 2)),
    "slow_reader_kept": (15, (1, 3)),
    "shown_twice": (22, (0, 1)),
    "shown_as_it_comes": (17, (0, 2)),
    "devices_disagree": (17, (1, 2)),
    "acknowledged_before_shown": (30, (0, 1)),
    "sync_skips_one": (30, (0, 1)),
    "pages_too_long": (22, (0, 1)),
    "unread_decremented_twice": (30, (0, 1)),
    "own_messages_counted": (30, (0, 1)),
    "mark_sent_before_saved": (17, (0, 1)),
    "read_mark_moves_back": (25, (0, 2)),
    "read_beyond_the_end": (30, (0, 1)),
    "setting_dropped": (13, (3, 5)),
    "other_devices_not_notified": (24, (0, 1)),
    "late_message_becomes_the_last": (14, (0, 1)),
    "repetition_refused": (30, (0, 1)),
    "resend_swallowed": (29, (0, 1)),
    "kicked_session_lives_on": (23, (2, 3)),
    "stale_epoch_accepted": (7, (2, 3)),
    "connection_ends_unreported": (25, (1, 2)),
    "client_falls_silent": (23, (0, 1)),
    "kicked_client_comes_back": (25, (1, 2)),
    "login_without_deadline": (22, (0, 2)),
    "presence_without_a_policy": (12, (1, 8)),
    "room_hears_those_who_left": (29, (0, 1)),
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug, monkeypatch):
    bug(monkeypatch)
    count, seeds = FOUND[bug.__name__]
    assert count >= LEAST
    assert any(_is_found(seed) for seed in seeds)


@pytest.mark.parametrize("seed", sorted({seed for _, seeds in FOUND.values() for seed in seeds}))
def test_without_a_bug_the_same_seed_holds(seed):
    """A false alarm would be taken for the bug."""
    assert replay(seed).violations == []


def test_every_planted_bug_is_recorded():
    assert [bug.__name__ for bug in BUGS] == list(FOUND)


def count() -> None:
    """Print `FOUND` as it is now."""
    for bug in BUGS:
        with pytest.MonkeyPatch.context() as patch:
            bug(patch)
            found = [seed for seed in SEEDS if _is_found(seed)]
        print(f'    "{bug.__name__}": ({len(found)}, {tuple(found[:2])}),', flush=True)


def _is_found(seed: int) -> bool:
    """Whether it breaks something; a bug that only makes a machine raise would be found by anything."""
    return bool({violation.invariant for violation in replay(seed).violations} - {"no_machine_raises"})


if __name__ == "__main__":
    count()
