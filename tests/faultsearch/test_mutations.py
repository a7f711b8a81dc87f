"""Does the search find bugs? Each planted one breaks the seeds recorded here, which the core as it is passes.

`python -m faultsearch.test_mutations` (in tests/) counts anew in how many of the seeds 0 to 29 each is found.
"""

from __future__ import annotations

import pytest
from faultsearch.mutations import MUTATIONS

from imsim.faultsearch import replay

#: mutation -> in how many of the seeds 0 to 29 it is found, and one that finds it (a later one where those do not)
FOUND: dict[str, tuple[int, int]] = {
    "ack_before_store": (30, 0),
    "seq_reused_after_a_crash": (30, 0),
    "dedupe_in_memory_only": (11, 0),
    "resend_without_dedupe": (21, 0),
    "unread_decremented_twice": (30, 0),
    "own_messages_counted": (30, 0),
    "push_not_retried": (1, 5),
    "kicked_session_lives_on": (23, 2),
    "stale_epoch_accepted": (1, 26),
    "mark_told_before_saved": (30, 0),
    "read_mark_moves_back": (0, 56),
    "mark_moved_by_others": (29, 0),
    "fan_out_to_strangers": (28, 0),
    "sender_order_not_enforced": (6, 4),
    "fence_ignored": (5, 5),
    "shown_as_it_comes": (17, 0),
    "shown_twice": (22, 0),
    "sync_skips_one": (30, 0),
    "failure_never_corrected": (1, 28),
    "unanswered_not_resent": (8, 0),
    "heartbeat_not_checked": (9, 2),
    "slow_reader_kept": (15, 1),
    "late_message_becomes_the_last": (14, 0),
    "append_failure_taken_for_success": (1, 9),
    "hiding_does_not_read": (5, 0),
    "hidden_for_ever": (7, 0),
    "a_setting_is_dropped": (23, 0),
    "version_not_advanced": (26, 0),
    "placed_not_repeated": (0, 59),
    "older_place_taken": (1, 18),
    "other_devices_not_told": (24, 0),
    "old_answer_taken_for_new": (4, 1),
    "wishes_not_merged": (4, 5),
    "receipt_moves_back": (15, 0),
    "receipt_not_told": (16, 0),
    "sender_counted_as_reader": (10, 3),
    "kick_policy_ignored_across_gateways": (5, 7),
    "kinds_are_not_told_apart": (9, 3),
    "kicked_client_comes_back": (13, 3),
    "every_other_session_ended": (3, 21),
    "revocation_forgotten": (1, 3),
    "revocation_misses_who_logs_in": (2, 3),
    "young_tokens_revoked": (30, 0),
    "limit_taken_for_a_refusal": (4, 2),
    "limited_send_swallowed": (4, 2),
    "limit_of_groups_ignored": (9, 2),
    "opened_not_told": (0, 334),
    "resync_not_repeated": (0, 458),
    "notify_not_repeated": (0, 38),
    "resync_taken_for_an_old_one": (8, 1),
    "gap_not_pulled": (6, 9),
    "pull_ignores_more": (18, 0),
    "pull_given_up_on": (6, 9),
    "oldest_of_a_range": (13, 0),
    "range_of_anybody": (6, 3),
    "inbox_read_one_too_far": (10, 0),
    "inbox_cursor_of_the_asker_kept": (18, 2),
    "delivered_beyond_the_log": (14, 0),
    "attempts_not_compared": (2, 19),
    "beats_at_fixed_times": (28, 0),
    "answers_before_commit": (0, 69),
    "audience_without_the_leaver": (0, 59),
    "audience_without_who_comes": (0, 62),
    "stays_forgotten": (1, 17),
    "recall_not_stored": (11, 0),
    "edit_not_shown": (2, 1),
    "recalled_still_counts": (5, 1),
    "last_message_not_looked_for": (2, 10),
    "recalled_is_shown": (11, 0),
    "anybody_may_recall": (5, 0),
    "settled_not_told": (24, 0),
    "two_answers_win": (1, 23),
    "expired_answers_count": (0, 515),
    "block_forgotten": (7, 5),
    "strangers_may_write": (13, 0),
    "muted_may_send": (7, 1),
    "owner_may_leave": (3, 5),
    "rank_ignored": (3, 0),
    "joined_twice": (4, 0),
    "room_hears_who_left": (28, 0),
    "room_not_entered_again": (27, 0),
    "room_counts_anew": (16, 2),
    "room_repetition_not_compared": (1, 15),
    "room_recall_not_remembered": (1, 29),
    "draft_of_a_recalled_message_kept": (4, 6),
    "blocked_may_invite": (6, 3),
    "place_that_came_free_fences": (4, 5),
    "last_push_never_acknowledged": (24, 0),
    "pages_too_large": (5, 3),
    "pages_end_early": (4, 3),
    "leaver_sees_later_words": (0, 209),
    "muting_also_pins": (21, 0),
    "muting_also_blocks": (9, 5),
    "sync_pages_too_long": (22, 0),
    "sync_pages_too_large": (5, 3),
    "user_rate_by_connection": (4, 2),
    "user_rate_doubled": (4, 2),
    "one_rate_for_all": (2, 13),
    "reads_never_end": (8, 3),
    "gateway_heartbeat_not_checked": (0, 65),
    "connection_ends_unreported": (24, 1),
    "rooms_not_left": (12, 0),
    "lost_router_spares_room_members": (1, 15),
    "enter_not_forgotten": (0, 394),
    "sync_cursors_not_delivered": (5, 3),
    "lost_gateway_keeps_its_sessions": (13, 2),
    "received_told_always": (18, 0),
    "origin_is_told_too": (24, 0),
    "hints_through_blocks": (7, 3),
    "presence_of_the_blocking": (3, 5),
    "presence_of_former_friends": (3, 0),
    "presence_without_a_policy": (12, 1),
    "presence_is_wrong": (8, 0),
    "room_rate_ignored": (0, 33),
    "shed_too_late": (1, 16),
    "room_counts_wrong": (29, 0),
    "room_takes_one_too_many": (3, 2),
    "full_room_keeps_out_second_devices": (4, 2),
    "room_shows_too_much": (0, 30),
    "room_shows_the_oldest": (2, 17),
    "room_keeps_a_lost_gateway": (9, 2),
    "shown_one_too_far": (30, 0),
    "what_arrived_is_acknowledged": (14, 0),
    "repetition_unmarked": (29, 0),
    "change_does_not_read": (27, 0),
    "inbox_brings_old_words": (3, 1),
    "wanted_block_not_shown": (4, 0),
    "stored_predecessor_not_looked_up": (3, 0),
    "strangers_use_up_the_groups_budget": (0, 37),
    "groups_have_no_burst": (2, 8),
    "page_not_counted": (4, 13),
    "leaver_counts_on": (1, 0),
    "went_is_not_told": (4, 3),
    "peers_answer_nobody": (4, 3),
    "late_presence_lost": (1, 3),
    "leaver_may_recall": (1, 24),
    "typing_while_blocked": (2, 5),
    "known_grows_stale": (0, 127),
    "stale_by_device_only": (1, 26),
    "state_kept_on_take_back": (2, 11),
    "members_kept_on_take_back": (0, 31),
    "failed_revocation_not_repeated": (2, 7),
    "notices_survive_their_connection": (18, 1),
    "pings_if_both_are_silent": (29, 0),
    "sends_before_rooms_are_entered": (12, 2),
    "made_again_inherits": (0, 199),
    "empty_room_kept": (0, 52),
    "room_shows_nothing": (2, 17),
    "block_changes_unnoticed": (3, 5),
    "range_named_by_its_start": (0, 226),
    "limit_off_by_one": (5, 2),
}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_planted_bug_is_found(mutation, monkeypatch):
    mutation(monkeypatch)
    _, seed = FOUND[mutation.__name__]
    assert _breaks(seed)


@pytest.mark.parametrize("seed", sorted({seed for _, seed in FOUND.values() if seed >= 200}))
def test_without_it_they_hold(seed):
    """Those before are among the two hundred that `test_search` searches."""
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
