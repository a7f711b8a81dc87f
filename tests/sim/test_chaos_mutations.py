"""Does the search find bugs? Each planted one breaks the seeds recorded here, which the core as it is passes.

`python -m sim.test_chaos_mutations` (in tests/) counts anew in how many of the seeds 0 to 29 each is found.
"""

from __future__ import annotations

import pytest
from sim.chaos_mutations import MUTATIONS

from imsim.sim.chaos import replay

#: mutation -> in how many of the seeds 0 to 29 it is found, and one that finds it (a later one where those do not)
FOUND: dict[str, tuple[int, int]] = {
    "ack_before_store": (29, 0),
    "seq_reused_after_a_crash": (29, 0),
    "dedupe_in_memory_only": (6, 0),
    "resend_without_dedupe": (21, 0),
    "unread_decremented_twice": (26, 0),
    "own_messages_counted": (29, 0),
    "push_not_retried": (4, 5),
    "kicked_session_lives_on": (22, 0),
    "stale_epoch_accepted": (0, 54),
    "mark_told_before_saved": (27, 0),
    "read_mark_moves_back": (0, 102),
    "mark_moved_by_others": (28, 0),
    "fan_out_to_strangers": (27, 0),
    "sender_order_not_enforced": (4, 8),
    "fence_ignored": (6, 5),
    "shown_as_it_comes": (12, 0),
    "shown_twice": (24, 0),
    "sync_skips_one": (29, 0),
    "failure_never_corrected": (0, 41),
    "unanswered_not_resent": (15, 0),
    "heartbeat_not_checked": (1, 5),
    "slow_reader_kept": (15, 1),
    "late_message_becomes_the_last": (7, 0),
    "append_failure_taken_for_success": (1, 18),
    "hiding_does_not_read": (9, 3),
    "hidden_for_ever": (10, 3),
    "a_setting_is_dropped": (18, 0),
    "version_not_advanced": (23, 0),
    "placed_not_repeated": (0, 82),
    "older_place_taken": (2, 0),
    "other_devices_not_told": (21, 0),
    "old_answer_taken_for_new": (5, 2),
    "wishes_not_merged": (2, 0),
    "receipt_moves_back": (14, 0),
    "receipt_not_told": (11, 2),
    "sender_counted_as_reader": (8, 0),
    "kick_policy_ignored_across_gateways": (2, 7),
    "kinds_are_not_told_apart": (9, 18),
    "kicked_client_comes_back": (13, 10),
    "every_other_session_ended": (2, 5),
    "revocation_forgotten": (1, 13),
    "revocation_misses_who_logs_in": (2, 13),
    "young_tokens_revoked": (30, 0),
    "limit_taken_for_a_refusal": (5, 2),
    "limited_send_swallowed": (4, 2),
    "limit_of_groups_ignored": (1, 8),
    "opened_not_told": (1, 22),
    "resync_not_repeated": (0, 365),
    "notify_not_repeated": (2, 17),
    "resync_taken_for_an_old_one": (6, 2),
    "gap_not_pulled": (7, 3),
    "pull_ignores_more": (19, 0),
    "pull_given_up_on": (6, 9),
    "oldest_of_a_range": (14, 0),
    "range_of_anybody": (6, 4),
    "inbox_read_one_too_far": (10, 0),
    "inbox_cursor_of_the_asker_kept": (15, 0),
    "delivered_beyond_the_log": (14, 0),
    "attempts_not_compared": (2, 13),
    "beats_at_fixed_times": (1, 14),
    "answers_before_commit": (1, 28),
    "audience_without_the_leaver": (1, 19),
    "audience_without_who_comes": (1, 29),
    "stays_forgotten": (4, 3),
    "recall_not_stored": (5, 1),
    "edit_not_shown": (4, 6),
    "recalled_still_counts": (1, 10),
    "last_message_not_looked_for": (0, 62),
    "recalled_is_shown": (5, 1),
    "anybody_may_recall": (3, 1),
    "settled_not_told": (25, 0),
    "two_answers_win": (2, 0),
    "expired_answers_count": (0, 141),
    "block_forgotten": (0, 39),
    "strangers_may_write": (5, 6),
    "muted_may_send": (2, 8),
    "owner_may_leave": (1, 12),
    "rank_ignored": (3, 1),
    "joined_twice": (4, 0),
    "room_hears_who_left": (1, 6),
    "room_not_entered_again": (15, 0),
    "room_counts_anew": (14, 0),
    "room_repetition_not_compared": (2, 0),
    "room_recall_not_remembered": (1, 15),
    "draft_of_a_recalled_message_kept": (1, 12),
    "blocked_may_invite": (7, 3),
    "place_that_came_free_fences": (1, 29),
    "last_push_never_acknowledged": (23, 0),
    "pages_too_large": (2, 3),
    "pages_end_early": (2, 3),
    "leaver_sees_later_words": (1, 6),
    "muting_also_pins": (23, 0),
    "muting_also_blocks": (13, 1),
    "sync_pages_too_long": (23, 0),
    "sync_pages_too_large": (5, 3),
    "user_rate_by_connection": (4, 2),
    "user_rate_doubled": (4, 2),
    "one_rate_for_all": (2, 13),
    "reads_never_end": (6, 6),
    "gateway_heartbeat_not_checked": (2, 5),
    "connection_ends_unreported": (23, 1),
    "rooms_not_left": (23, 0),
    "lost_gateway_keeps_its_sessions": (5, 0),
    "received_told_always": (18, 0),
    "origin_is_told_too": (23, 0),
    "hints_through_blocks": (0, 39),
    "presence_of_the_blocking": (0, 39),
    "presence_of_former_friends": (1, 0),
    "presence_without_a_policy": (13, 1),
    "presence_is_wrong": (5, 3),
    "room_rate_ignored": (1, 27),
    "shed_too_late": (0, 54),
    "room_counts_wrong": (23, 0),
    "room_takes_one_too_many": (2, 2),
    "full_room_keeps_out_second_devices": (5, 1),
    "room_shows_too_much": (3, 0),
    "room_shows_the_oldest": (3, 4),
    "room_keeps_a_lost_gateway": (3, 0),
    "shown_one_too_far": (30, 0),
    "what_arrived_is_acknowledged": (14, 0),
    "repetition_unmarked": (29, 0),
    "change_does_not_read": (27, 0),
    "inbox_brings_old_words": (5, 6),
    "wanted_block_not_shown": (1, 17),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_bug_is_found(mutation, monkeypatch):
    mutation(monkeypatch)
    _, seed = FOUND[mutation.__name__]
    assert _breaks(seed)


@pytest.mark.parametrize("seed", sorted({seed for _, seed in FOUND.values()}))
def test_without_it_they_hold(seed):
    assert replay(seed).violations == []


def test_every_planted_bug_is_recorded():
    assert [mutation.__name__ for mutation in MUTATIONS] == list(FOUND)


def count() -> None:
    """Print `FOUND` as it is now."""
    for mutation in MUTATIONS:
        with pytest.MonkeyPatch.context() as patch:
            mutation(patch)
            seeds = [seed for seed in range(30) if _breaks(seed)]
            one = seeds[0] if seeds else next(seed for seed in range(30, 600) if _breaks(seed))
        print(f'    "{mutation.__name__}": ({len(seeds)}, {one}),', flush=True)


def _breaks(seed: int) -> bool:
    """Whether it breaks something; a mutation that only makes a machine raise would be found by anything."""
    return bool({violation.invariant for violation in replay(seed).violations} - {"no_machine_raises"})


if __name__ == "__main__":
    count()
