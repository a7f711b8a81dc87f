"""Does the search find bugs? Each planted one breaks the seeds recorded here, which the core as it is passes.

`python -m sim.test_chaos_mutations` (in tests/) counts anew in how many of the seeds 0 to 59 each is found.
"""

from __future__ import annotations

import pytest
from sim.chaos_mutations import MUTATIONS

from imsim.sim.chaos import replay

#: mutation -> in how many of the seeds 0 to 59 it is found, and some that find it (later ones where those do not)
FOUND: dict[str, tuple[int, tuple[int, ...]]] = {
    "ack_before_store": (60, (0, 1)),
    "seq_reused_after_a_crash": (58, (0, 1)),
    "dedupe_in_memory_only": (14, (2, 4)),
    "resend_without_dedupe": (35, (1, 2)),
    "unread_decremented_twice": (60, (0, 1)),
    "own_messages_counted": (60, (0, 1)),
    "push_not_retried": (3, (41, 51)),
    "kicked_session_lives_on": (13, (9, 13)),
    "stale_epoch_accepted": (0, (128, 133)),
    "mark_told_before_saved": (60, (0, 1)),
    "read_mark_moves_back": (1, (43,)),
    "mark_moved_by_others": (55, (2, 3)),
    "fan_out_to_strangers": (53, (2, 3)),
    "sender_order_not_enforced": (5, (39, 43)),
    "fence_ignored": (2, (22, 26)),
    "shown_as_it_comes": (14, (3, 7)),
    "shown_twice": (44, (1, 3)),
    "sync_skips_one": (60, (0, 1)),
    "failure_never_corrected": (1, (9,)),
    "unanswered_not_resent": (7, (3, 22)),
    "heartbeat_not_checked": (5, (5, 23)),
    "slow_reader_kept": (21, (4, 6)),
    "late_message_becomes_the_last": (7, (3, 9)),
    "append_failure_taken_for_success": (4, (22, 39)),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_bug_is_found(mutation, monkeypatch):
    mutation(monkeypatch)
    _, seeds = FOUND[mutation.__name__]
    for seed in seeds:
        broken = {violation.invariant for violation in replay(seed).violations}
        # A mutation that only makes a machine raise would be found by anything.
        assert broken
        assert broken != {"no_machine_raises"}


@pytest.mark.parametrize("seed", sorted({seed for _, seeds in FOUND.values() for seed in seeds}))
def test_without_it_they_hold(seed):
    assert replay(seed).violations == []


def test_every_planted_bug_is_recorded():
    assert [mutation.__name__ for mutation in MUTATIONS] == list(FOUND)
    assert all(seeds for _, seeds in FOUND.values())


def count() -> None:
    """Print `FOUND` as it is now."""
    for mutation in MUTATIONS:
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            seeds = [seed for seed in range(60) if replay(seed).violations]
        print(f'    "{mutation.__name__}": ({len(seeds)}, {tuple(seeds[:2])}),')


if __name__ == "__main__":
    count()
