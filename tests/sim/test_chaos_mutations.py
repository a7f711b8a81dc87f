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
    "ack_before_store": (60, (0, 1)),
    "seq_reused_after_a_crash": (60, (0, 1)),
    "dedupe_in_memory_only": (11, (3, 4)),
    "resend_without_dedupe": (31, (0, 2)),
    "unread_decremented_twice": (60, (0, 1)),
    "own_messages_counted": (59, (0, 1)),
    "push_not_retried": (2, (4, 6)),
    "kicked_session_lives_on": (47, (0, 1)),
    "stale_epoch_accepted": (2, (6, 36)),
    "mark_told_before_saved": (60, (0, 1)),
    "read_mark_moves_back": (1, (59, 99)),
    "mark_moved_by_others": (55, (0, 1)),
    "fan_out_to_strangers": (51, (1, 2)),
    "sender_order_not_enforced": (6, (22, 24)),
    "fence_ignored": (1, (38, 68)),
    "shown_as_it_comes": (13, (0, 1)),
    "shown_twice": (32, (0, 1)),
    "sync_skips_one": (60, (0, 1)),
    "failure_never_corrected": (0, (75, 99)),
    "unanswered_not_resent": (14, (2, 8)),
    "heartbeat_not_checked": (5, (3, 4)),
    "slow_reader_kept": (22, (1, 3)),
    "late_message_becomes_the_last": (2, (3, 48)),
    "append_failure_taken_for_success": (1, (22, 68)),
    "hiding_does_not_read": (25, (0, 2)),
    "hidden_for_ever": (29, (0, 2)),
    "a_setting_is_dropped": (39, (0, 1)),
    "version_not_advanced": (49, (0, 1)),
    "placed_not_repeated": (0, (190, 196)),
    "older_place_taken": (1, (25, 199)),
    "other_devices_not_told": (45, (0, 1)),
    "old_answer_taken_for_new": (9, (0, 1)),
    "wishes_not_merged": (8, (1, 2)),
    "receipt_moves_back": (35, (0, 2)),
    "receipt_not_told": (34, (2, 3)),
    "sender_counted_as_reader": (30, (0, 1)),
    "kick_policy_ignored_across_gateways": (10, (15, 26)),
    "kinds_are_not_told_apart": (16, (3, 6)),
    "kicked_client_comes_back": (26, (3, 8)),
    "every_other_session_ended": (6, (5, 22)),
    "revocation_forgotten": (9, (1, 5)),
    "revocation_misses_who_logs_in": (10, (1, 5)),
    "young_tokens_revoked": (60, (0, 1)),
    "limit_taken_for_a_refusal": (10, (2, 8)),
    "limited_send_swallowed": (5, (2, 8)),
    "limit_of_groups_ignored": (5, (33, 37)),
    "opened_not_told": (1, (24, 73)),
    "reopening_not_armed": (0, (168, 267)),
    "resync_not_repeated": (0, (746, 1358)),
    "notify_not_repeated": (1, (36, 83)),
    "resync_taken_for_an_old_one": (1, (45, 64)),
    "gap_not_pulled": (18, (9, 15)),
    "pull_ignores_more": (21, (6, 12)),
    "pull_given_up_on": (18, (9, 15)),
    "oldest_of_a_range": (8, (6, 12)),
    "range_of_anybody": (0, (102, 130)),
    "inbox_read_one_too_far": (20, (0, 1)),
    "inbox_cursor_of_the_asker_kept": (4, (7, 12)),
    "delivered_one_too_far": (29, (0, 2)),
    "delivered_beyond_the_log": (29, (0, 2)),
    "delivered_mark_moves_back": (26, (0, 2)),
    "unsaved_place_forgotten": (0, (2434, 3201)),
    "attempts_not_compared": (1, (26, 80)),
    "beats_at_fixed_times": (0, (159, 174)),
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
