"""Does the search find bugs? Each planted one breaks the seeds recorded here, which the core as it is passes.

`python -m sim.test_chaos_mutations` (in tests/) counts anew in how many of the seeds 0 to 29 each is found.
"""

from __future__ import annotations

from itertools import islice

import pytest
from sim.chaos_mutations import MUTATIONS

from imsim.sim.chaos import replay

#: mutation -> in how many of the seeds 0 to 29 it is found, and some that find it (later ones where those do not)
FOUND: dict[str, tuple[int, tuple[int, ...]]] = {
    "ack_before_store": (59, (0, 1)),
    "seq_reused_after_a_crash": (58, (0, 1)),
    "dedupe_in_memory_only": (11, (9, 10)),
    "resend_without_dedupe": (32, (0, 2)),
    "unread_decremented_twice": (59, (0, 1)),
    "own_messages_counted": (57, (0, 1)),
    "push_not_retried": (1, (46,)),
    "kicked_session_lives_on": (33, (3, 4)),
    "stale_epoch_accepted": (0, (80, 343)),
    "mark_told_before_saved": (59, (0, 1)),
    "read_mark_moves_back": (0, (280, 345)),
    "mark_moved_by_others": (54, (0, 1)),
    "fan_out_to_strangers": (52, (0, 1)),
    "sender_order_not_enforced": (3, (16, 44)),
    "fence_ignored": (0, (107, 114)),
    "shown_as_it_comes": (15, (0, 4)),
    "shown_twice": (38, (0, 1)),
    "sync_skips_one": (59, (0, 1)),
    "failure_never_corrected": (4, (4, 5)),
    "unanswered_not_resent": (11, (6, 11)),
    "heartbeat_not_checked": (9, (4, 5)),
    "slow_reader_kept": (24, (0, 2)),
    "late_message_becomes_the_last": (5, (2, 16)),
    "append_failure_taken_for_success": (3, (36, 44)),
    "hiding_does_not_read": (25, (0, 2)),
    "hidden_for_ever": (24, (0, 2)),
    "a_setting_is_dropped": (41, (0, 1)),
    "version_not_advanced": (49, (0, 1)),
    "placed_not_repeated": (0, (84, 221)),
    "older_place_taken": (0, (108, 375)),
    "other_devices_not_told": (45, (0, 1)),
    "old_answer_taken_for_new": (5, (5, 16)),
    "wishes_not_merged": (8, (0, 9)),
    "receipt_moves_back": (20, (0, 2)),
    "receipt_not_told": (23, (3, 6)),
    "sender_counted_as_reader": (27, (1, 4)),
    "kick_policy_ignored_across_gateways": (12, (3, 15)),
    "kinds_are_not_told_apart": (16, (3, 6)),
    "kicked_client_comes_back": (23, (3, 8)),
    "every_other_session_ended": (4, (2, 4)),
    "revocation_forgotten": (10, (3, 25)),
    "revocation_misses_who_logs_in": (7, (3, 6)),
    "young_tokens_revoked": (60, (0, 1)),
    "limit_taken_for_a_refusal": (7, (6, 10)),
    "limited_send_swallowed": (2, (40, 55)),
    "limit_of_groups_ignored": (5, (6, 10)),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_bug_is_found(mutation, monkeypatch):
    mutation(monkeypatch)
    _, seeds = FOUND[mutation.__name__]
    for seed in seeds:
        assert _breaks(seed)


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
            seeds = [seed for seed in range(30) if _breaks(seed)]
            some = seeds[:2] or list(islice((seed for seed in range(30, 600) if _breaks(seed)), 1))
        print(f'    "{mutation.__name__}": ({len(seeds)}, {tuple(some)}),', flush=True)


def _breaks(seed: int) -> bool:
    """Whether it breaks something; a mutation that only makes a machine raise would be found by anything."""
    return bool({violation.invariant for violation in replay(seed).violations} - {"no_machine_raises"})


if __name__ == "__main__":
    count()
