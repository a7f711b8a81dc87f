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
    "ack_before_store": (28, (0, 1)),
    "seq_reused_after_a_crash": (28, (0, 1)),
    "dedupe_in_memory_only": (3, (3, 5)),
    "resend_without_dedupe": (17, (0, 1)),
    "unread_decremented_twice": (28, (0, 1)),
    "own_messages_counted": (28, (0, 1)),
    "push_not_retried": (2, (0, 14)),
    "kicked_session_lives_on": (18, (1, 2)),
    "stale_epoch_accepted": (1, (26,)),
    "mark_told_before_saved": (28, (0, 1)),
    "read_mark_moves_back": (1, (7,)),
    "mark_moved_by_others": (28, (0, 1)),
    "fan_out_to_strangers": (25, (0, 1)),
    "sender_order_not_enforced": (3, (1, 2)),
    "fence_ignored": (4, (5, 6)),
    "shown_as_it_comes": (6, (4, 15)),
    "shown_twice": (19, (0, 1)),
    "sync_skips_one": (28, (0, 1)),
    "failure_never_corrected": (2, (26, 28)),
    "unanswered_not_resent": (14, (0, 1)),
    "heartbeat_not_checked": (0, (41,)),
    "slow_reader_kept": (16, (1, 3)),
    "late_message_becomes_the_last": (5, (0, 6)),
    "append_failure_taken_for_success": (2, (1, 13)),
    "hiding_does_not_read": (13, (0, 3)),
    "hidden_for_ever": (13, (0, 3)),
    "a_setting_is_dropped": (22, (0, 1)),
    "version_not_advanced": (27, (0, 1)),
    "placed_not_repeated": (1, (14,)),
    "older_place_taken": (2, (7, 17)),
    "other_devices_not_told": (23, (0, 1)),
    "old_answer_taken_for_new": (3, (2, 21)),
    "wishes_not_merged": (1, (8,)),
    "receipt_moves_back": (16, (0, 2)),
    "receipt_not_told": (10, (1, 2)),
    "sender_counted_as_reader": (11, (0, 6)),
    "kick_policy_ignored_across_gateways": (2, (15, 27)),
    "kinds_are_not_told_apart": (9, (3, 6)),
    "kicked_client_comes_back": (10, (7, 8)),
    "every_other_session_ended": (2, (2, 4)),
    "revocation_forgotten": (2, (17, 19)),
    "revocation_misses_who_logs_in": (2, (17, 19)),
    "young_tokens_revoked": (30, (0, 1)),
    "limit_taken_for_a_refusal": (4, (2, 8)),
    "limited_send_swallowed": (4, (2, 8)),
    "limit_of_groups_ignored": (1, (8,)),
    "opened_not_told": (1, (8,)),
    "resync_not_repeated": (0, (81,)),
    "notify_not_repeated": (1, (16,)),
    "resync_taken_for_an_old_one": (6, (3, 11)),
    "gap_not_pulled": (7, (9, 15)),
    "pull_ignores_more": (6, (3, 4)),
    "pull_given_up_on": (6, (9, 15)),
    "oldest_of_a_range": (6, (3, 6)),
    "range_of_anybody": (2, (2, 24)),
    "inbox_read_one_too_far": (10, (0, 1)),
    "inbox_cursor_of_the_asker_kept": (5, (5, 12)),
    "delivered_beyond_the_log": (13, (0, 2)),
    "attempts_not_compared": (0, (55,)),
    "beats_at_fixed_times": (1, (14,)),
    "answers_before_commit": (0, (244,)),
    "audience_without_the_leaver": (3, (6, 14)),
    "audience_without_who_comes": (1, (24,)),
    "stays_forgotten": (0, (35,)),
    "recall_not_stored": (8, (0, 6)),
    "first_edit_wins": (0, (64,)),
    "edit_not_shown": (4, (6, 16)),
    "recalled_still_counts": (6, (0, 6)),
    "last_message_not_looked_for": (1, (0,)),
    "recalled_is_shown": (8, (0, 6)),
    "anybody_may_recall": (1, (21,)),
    "settled_not_told": (20, (0, 1)),
    "two_answers_win": (2, (0, 26)),
    "expired_answers_count": (0, (201,)),
    "block_forgotten": (4, (5, 7)),
    "strangers_may_write": (8, (3, 6)),
    "notes_lost_with_the_writer": (0, (266,)),
    "muted_may_send": (0, (180,)),
    "owner_may_leave": (2, (2, 8)),
    "rank_ignored": (3, (0, 1)),
    "joined_twice": (2, (1, 29)),
    "room_hears_who_left": (0, (38, 57)),
    "room_not_entered_again": (12, (1, 9)),
    "room_counts_anew": (5, (1, 9)),
    "leaver_lost_with_the_writer": (0, (587,)),
    "room_repetition_not_compared": (0, (35,)),
    "room_recall_not_remembered": (2, (17, 28)),
    "draft_of_a_recalled_message_kept": (0, (140,)),
    "blocked_may_invite": (3, (15, 17)),
    "place_that_came_free_fences": (1, (1,)),
    "last_push_never_acknowledged": (23, (0, 1)),
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
