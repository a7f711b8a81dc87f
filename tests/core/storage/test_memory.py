"""MemoryStorage, which defines the meaning of the requests. Every other storage must do the same."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, message, open_log, session, state
from core.storage.builders import Team, append, find_range, missed, note, opened, read_all, read_log, save, states

from imsim.core import storage

# --- opening --------------------------------------------------------------------------------------------------------


def test_open_without_founders_creates_no_conversation(store):
    assert opened(store, founders=None) is None
    assert opened(store, founders=None) is None
    assert missed(store, "alice").cursors == {}


def test_open_raises_the_epoch_and_keeps_the_first_members(store):
    assert opened(store) == storage.LogState(1, 0, ("alice", "bob"))
    assert opened(store, founders=("mallory",)) == storage.LogState(2, 0, ("alice", "bob"))
    assert opened(store, founders=None).epoch == 3
    assert store.execute(storage.OpenUser("mallory")).states == []


# --- appending ------------------------------------------------------------------------------------------------------


def test_fenced_writer_gets_fenced_even_for_a_duplicate(store):
    """Every append must report to the writer that it was replaced."""
    old = opened(store).epoch
    append(store, old, message(1))
    opened(store)
    assert append(store, old, message(2, id_client="i1")) == storage.Fenced()


# --- missed messages ------------------------------------------------------------------------------------------------


def test_fan_out_on_read_reads_conversations_and_fan_out_on_write_reads_the_inbox(by_read, by_write):
    for store in (by_read, by_write):
        open_log(store, "alice", "bob")
        open_log(store, "alice", conversation=TEAM)
        open_log(store, "alice")
    assert read_all(by_read, "bob")[0] == [(TEAM, 1), (AB, 1), (AB, 2), (AB, 3)]
    assert read_all(by_write, "bob")[0] == [(AB, 1), (AB, 2), (TEAM, 1), (AB, 3)]


def test_invalid_cursors_are_ignored(store):
    open_log(store, "alice")
    page = missed(store, "bob", {AB: -3, "group:unknown": 7})
    assert [one.seq for one in page.messages] == [1]
    assert page.cursors == {AB: 1}
    assert missed(store, "bob", {AB: 50}).messages == []


def test_append_under_fan_out_on_write_adds_a_row_to_each_members_inbox(by_read, by_write):
    for store, rows in ((by_read, 0), (by_write, 3)):
        epoch = opened(store, TEAM, ("alice", "bob", "carol")).epoch
        one = message(1, conversation_id=TEAM)
        assert store.execute(storage.Append(epoch, one, 0)).inbox_rows == rows
        for user in ("alice", "bob", "carol"):
            assert missed(store, user).messages == [one]
        store.execute(storage.Append(epoch, one, 0))  # a duplicate
        store.execute(storage.Append(epoch, message(3, conversation_id=TEAM), 0))  # fenced
        assert [m.seq for m in missed(store, "bob").messages] == [1]
        assert missed(store, "bob").inbox == bool(rows)


def test_login_reads_each_conversation_or_one_inbox(by_read, by_write):
    for store in (by_read, by_write):
        for user in ("bob", "carol", "dave"):
            opened(store, f"p2p:alice:{user}", ("alice", user))
    assert [missed(by_read, user).reads for user in ("alice", "bob", "mallory")] == [3, 1, 0]
    assert [missed(by_write, user).reads for user in ("alice", "bob", "mallory")] == [1, 1, 1]
    open_log(by_read, "alice", "alice", conversation="p2p:alice:carol")
    assert missed(by_read, "alice", limit=1).reads == 2  # the page was full after the second read


def test_messages_from_a_push_are_skipped_in_the_inbox(by_write):
    """They take no room in the page."""
    open_log(by_write, *["alice"] * 5)
    open_log(by_write, "alice", conversation=TEAM)
    page = missed(by_write, "bob", {AB: 4}, limit=2)
    assert [(m.conversation_id, m.seq) for m in page.messages] == [(AB, 5), (TEAM, 1)]
    assert (page.cursors, page.inbox, page.more) == ({AB: 5, TEAM: 1}, 6, False)
    full = missed(by_write, "bob", {AB: 4}, limit=1)
    assert (full.cursors, full.inbox, full.more) == ({AB: 5}, 5, True)
    assert missed(by_write, "bob", {AB: 9}).cursors == {AB: 9, TEAM: 1}


@pytest.mark.parametrize(("inbox", "end", "seqs"), [(-5, 2, [1, 2]), (2, 2, []), (1, 2, [2])])
def test_inbox_position_up_to_the_end_is_accepted(by_write, inbox, end, seqs):
    open_log(by_write, "alice", "alice")
    page = missed(by_write, "bob", inbox=inbox)
    assert (page.inbox, [m.seq for m in page.messages]) == (end, seqs)


def test_fan_out_on_read_has_no_inbox(by_read):
    open_log(by_read, "alice")
    page = missed(by_read, "bob")
    assert ([m.seq for m in page.messages], page.inbox) == ([1], 0)
    assert missed(by_read, "bob", inbox=1) == storage.Ahead()


@pytest.mark.parametrize("inbox", [3, 10**30])
def test_device_beyond_the_end_of_its_inbox_is_ahead(by_write, inbox):
    open_log(by_write, "alice", "alice")
    assert missed(by_write, "bob", inbox=inbox) == storage.Ahead()


def test_device_with_a_later_state_than_storage_is_ahead(store):
    open_log(store, "alice")
    save(store, "bob", 1)

    def ask(version=0, state_version=0):
        return store.execute(storage.Missed(session("bob"), {}, 10, version, state_version=state_version))

    assert ask(1, 1).version == 1
    assert ask(version=2) == ask(state_version=2) == storage.Ahead()


def test_device_with_more_messages_than_storage_is_ahead_if_its_cursors_are_doubted(store):
    open_log(store, "alice", "alice")
    epoch = opened(store, TEAM, ("alice", "bob")).epoch
    effects = storage.Effects(left=("bob",))
    store.execute(storage.Append(epoch, message(1, conversation_id=TEAM), 0, effects))
    store.execute(storage.Append(epoch, message(2, conversation_id=TEAM), 0))

    def ask(cursors, *, doubted=True):
        return store.execute(storage.Missed(session("bob"), cursors, 10, doubted=doubted))

    for cursors in ({AB: 2, TEAM: 1}, {AB: -5}, {"group:none": 0}):
        assert isinstance(ask(cursors), storage.MissedPage)
    for cursors in ({AB: 3}, {TEAM: 2}, {"group:none": 1}, {AB: 10**30}):
        assert ask(cursors) == storage.Ahead()
        assert isinstance(ask(cursors, doubted=False), storage.MissedPage)


def test_cursor_of_a_non_member_is_ahead_whether_the_conversation_exists_or_not(store):
    epoch = opened(store, TEAM, ("alice",)).epoch
    store.execute(storage.Append(epoch, message(1, conversation_id=TEAM), 0))

    def ask(cursors):
        return store.execute(storage.Missed(session("bob"), cursors, 10, doubted=True))

    for cursors in ({TEAM: 0}, {"group:none": 0}, {"chatroom:lounge": 10**15}):
        assert isinstance(ask(cursors), storage.MissedPage)
    for cursors in ({TEAM: 1}, {TEAM: 2}, {"group:none": 1}, {"p2p:alice:carol": 1}):
        assert ask(cursors) == storage.Ahead()


# --- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "seqs"), [(1, [4]), (6, [4]), (7, [3, 4]), (9, [2, 3, 4]), (10, [1, 2, 3, 4])])
def test_page_ends_before_the_message_that_would_exceed_its_bytes(store, most, seqs):
    epoch = opened(store).epoch
    for seq, content in enumerate(("a", "bb", "ccc", "\u00e4dd"), 1):
        append(store, epoch, message(seq, content=content))
    page = store.execute(storage.Range("bob", AB, 1, 9, 100, page_bytes=most))
    assert ([one.seq for one in page.messages], page.more) == (seqs, len(seqs) < 4)


@pytest.mark.parametrize(("most", "pages"), [(1, [[1], [2], [3], [4]]), (4, [[1, 2], [3], [4]]), (6, [[1, 2, 3], [4]])])
def test_sync_pages_are_limited_in_bytes_and_skip_nothing(store, most, pages):
    epoch = opened(store).epoch
    for seq, content in enumerate(("a", "bb", "ccc", "dddd"), 1):
        append(store, epoch, message(seq, content=content))
    cursors, inbox, got, more = {}, 0, [], True
    while more:
        page = store.execute(storage.Missed(session("bob"), cursors, 100, inbox=inbox, page_bytes=most))
        got.append([one.seq for one in page.messages])
        cursors, inbox, more = cursors | page.cursors, page.inbox, page.more
    assert got == pages


@pytest.mark.parametrize("most", [1, 4, 5, 8, 100])
def test_sync_pages_of_states_are_limited_in_bytes_and_skip_nothing(store, most):
    conversations = [f"p2p:bob:{other}" for other in ("carl", "dave", "eve", "fred", "gina")]
    for conversation in conversations:
        epoch = opened(store, conversation, tuple(conversation.split(":")[1:])).epoch
        append(store, epoch, message(1, conversation_id=conversation, sender="bob", content="x"))
    for number in (3, 0, 2, 3):
        save(store, "bob", conversation=conversations[number], custom="1234")
    version, cursors, inbox, got, more = 0, {}, 0, {}, True
    while more:
        page = store.execute(storage.Missed(session("bob"), cursors, 100, version, inbox, page_bytes=most))
        assert len(page.messages) + sum(len(state.custom) for state in page.states) <= max(most, 4)
        assert list(page.states) == sorted(page.states, key=lambda state: state.conversation_id)
        got |= {state.conversation_id: state for state in page.states}
        progress = (version, cursors, inbox)
        version, cursors, inbox, more = page.version, cursors | page.cursors, page.inbox, page.more
        assert not more or progress != (version, cursors, inbox)
    whole = store.execute(storage.Missed(session("bob"), {}, 100))
    assert (got, version) == ({state.conversation_id: state for state in whole.states}, whole.version)


@pytest.mark.parametrize(
    ("first", "last", "seqs"),
    [(-9, 2, [1, 2]), (0, 1, [1]), (2, 10**30, [2, 3]), (3, 2, []), (4, 9, []), (-3, 0, []), (-3, -1, [])],
)
def test_range_is_limited_to_the_log(store, first, last, seqs):
    open_log(store, *["alice"] * 3)
    assert find_range(store, first, last) == (seqs, False)


# --- effects of an entry --------------------------------------------------------------------------------------------


def test_range_has_only_messages_that_the_user_may_see(store):
    team = Team(store)
    for effects in ({}, {"joined": ("carol",)}, {}, {"left": ("carol",)}, {}, {"joined": ("carol",)}):
        team.add(**effects)
    assert find_range(store, 1, 99, user="carol", conversation=TEAM) == ([3, 4, 5, 7], False)
    assert find_range(store, 4, 6, user="carol", conversation=TEAM) == ([4, 5], False)
    assert find_range(store, 1, 2, user="carol", conversation=TEAM) == ([], False)
    assert find_range(store, 1, 9, 2, user="carol", conversation=TEAM) == ([5, 7], True)


def test_read_count_is_of_the_members_at_the_time_of_the_message(store):
    team = Team(store)
    team.add(joined=("carol",))
    team.add(left=("carol",))
    team.add(joined=("dave",))

    def count(seq, user="alice"):
        return store.execute(storage.CountRead(user, TEAM, seq))

    assert [count(seq).members for seq in (1, 2, 3, 4)] == [1, 2, 2, 2]
    save(store, "carol", 3, TEAM)
    save(store, "bob", 4, TEAM)
    assert [count(seq).read for seq in (1, 2, 3, 4)] == [1, 2, 2, 1]
    assert count(4, "carol") is count(1, "carol") is count(3, "dave") is None
    assert count(3, "carol") == storage.ReadCount(2, 2)


def test_read_mark_moves_with_a_leave_but_not_for_a_non_member(store):
    team = Team(store)
    team.add()
    moved = team.add("bob", shown=2, left=("bob",))
    assert moved.states == (("bob", state(1, 2, conversation=TEAM)),)
    assert team.add("mallory", shown=2).states == ()


def test_every_request_returns_the_amended_message(store):
    epoch = opened(store).epoch
    for seq in (1, 2):
        append(store, epoch, message(seq))
    gone = message(1, content="", recalled=True, amended=3)
    assert store.execute(storage.Append(epoch, message(3), 0, storage.Effects(amended=gone))) == storage.Appended(
        inbox_rows=2 * (store._inboxes is not None)
    )
    assert read_log(store, "bob", AB) == [gone, message(2), message(3)]
    assert store.execute(storage.Find(AB, "alice", "i1")) == gone
    assert store.execute(storage.Get(AB, 1)) == gone
    assert store.execute(storage.Range("bob", AB, 1, 1, 9)).messages == [gone]
    assert states(store, "bob")[AB][1] == [2, 3]
    assert append(store, epoch, message(4, id_client="i1")) == storage.Duplicate(gone)


def test_get_returns_the_message_or_none(store):
    open_log(store, "alice", "alice")
    assert [store.execute(storage.Get(AB, seq)) for seq in (1, 2)] == [message(1), message(2)]
    assert [store.execute(storage.Get(AB, seq)) for seq in (-1, 0, 3)] == [None] * 3
    assert store.execute(storage.Get(TEAM, 1)) is None


def test_get_returns_only_messages_that_the_user_may_see(store):
    team = Team(store)
    team.add(joined=("carol",))
    team.add(left=("carol",))
    team.add()

    def found(user):
        return [seq for seq in range(6) if store.execute(storage.Get(TEAM, seq, user)) is not None]

    assert (found("alice"), found("carol"), found("mallory"), found(None)) == ([1, 2, 3, 4], [2, 3], [], [1, 2, 3, 4])


def test_marks_of_a_former_member_end_where_the_stay_ended(store):
    team = Team(store)
    team.add(left=("bob",))
    team.add()
    assert save(store, "bob", 99, TEAM)["bob"].read_seq == 2
    assert save(store, "bob", conversation=TEAM, hidden_seq=99)["bob"].hidden_seq == 2
    team.add(joined=("bob",))
    assert save(store, "bob", 99, TEAM)["bob"].read_seq == 4


def test_notes_get_a_seq_in_the_system_log_of_their_user(store):
    team = Team(store)
    first = team.add(notes=(note(id_client="n1"), note("dave"), note(id_client="n2")))
    assert [(one.conversation_id, one.seq, one.id) for one in first.notes] == [
        ("system:carol", 1, "system:carol:1"),
        ("system:dave", 1, "system:dave:1"),
        ("system:carol", 2, "system:carol:2"),
    ]
    assert team.add(notes=(note(id_client="n3"),)).notes[0].seq == 3
    assert read_log(store, "carol", "system:carol") == [*first.notes[::2], *team_notes(store, "carol", 3)]
    assert opened(store, TEAM, None).notified == (*(("carol", 1), ("dave", 1), ("carol", 2), ("carol", 3)),)
    assert states(store, "carol")["system:carol"][1] == [1, 2, 3]
    assert missed(store, "alice").cursors.keys() == {TEAM}


def team_notes(store, user, seq):
    return store.execute(storage.Range(user, f"system:{user}", seq, seq, 1)).messages


def test_only_the_latest_notes_are_remembered(store):
    team = Team(store)
    for number in range(storage.NOTIFIED + 3):
        team.add(notes=(note(id_client=str(number)),))
    notified = opened(store, TEAM, None).notified
    assert notified == tuple(("carol", seq) for seq in range(4, storage.NOTIFIED + 4))


def test_users_who_left_recently_are_remembered(store):
    team = Team(store)
    team.add(joined=("carol", "dave"))
    assert opened(store, TEAM, None).left == ()
    team.epoch += 1
    team.add(left=("carol", "dave"))
    team.add(joined=("dave",))
    assert opened(store, TEAM, None).left == (("carol", 3),)
    team.epoch += 1
    for _ in range(storage.NOTIFIED - 2):
        team.add()
    assert opened(store, TEAM, None).left == (("carol", 3),)
    team.epoch += 1
    team.add()
    assert opened(store, TEAM, None).left == ()


@pytest.mark.parametrize(
    ("epoch", "one"),
    [
        (0, message(2, conversation_id=TEAM)),
        (1, message(9, conversation_id=TEAM)),
        (1, message(1, conversation_id=TEAM)),
    ],
    ids=["fenced", "not the next", "a duplicate"],
)
def test_refused_append_changes_nothing(store, epoch, one):
    team = Team(store)
    team.epoch = epoch
    before = message(1, conversation_id=TEAM)
    result = team.add(
        message_=one, state={}, joined=("carol",), left=("bob",), amended=message(1, content="x"), notes=(note(),)
    )
    assert not isinstance(result, storage.Appended)
    state = opened(store, TEAM, None)
    assert (state.members, state.state, state.notified, state.max_seq) == (("alice", "bob"), None, (), 1)
    assert read_log(store, "alice") == [before]
    assert missed(store, "carol").cursors == {}
