"""MemoryStorage: what the requests mean. Every other storage is held to the same."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, message, open_log, session, state
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imsim.core import storage
from imsim.core.model import MessageType
from imsim.core.storage.memory import MemoryStorage

FANOUTS = ("read", "write")


@pytest.fixture(params=FANOUTS)
def store(request):
    return MemoryStorage(request.param)


@pytest.fixture
def by_read():
    return MemoryStorage("read")


@pytest.fixture
def by_write():
    return MemoryStorage("write")


def opened(store, conversation=AB, founders=("alice", "bob")):
    return store.execute(storage.OpenConversation(conversation, founders))


def append(store, epoch, one, shown=0):
    """Its result; how much work it was is looked at elsewhere."""
    result = store.execute(storage.Append(epoch, one, shown))
    if isinstance(result, storage.Appended):
        result.inbox_rows = 0
    return result


def missed(store, user, cursors=None, limit=100, inbox=0):
    return store.execute(storage.Missed(session(user), cursors or {}, limit, inbox=inbox))


def states(store, user):
    """By conversation: (place, unread seqs)."""
    state = store.execute(storage.OpenUser(user))
    return {found.conversation_id: (found, unread) for found, unread, *_ in state.states}


def read_seq(store, user):
    return states(store, user)[AB][0].read_seq


def save(store, user, read_seq=0, conversation=AB, **settings):
    """user -> place, of those that the answer tells."""
    return dict(store.execute(storage.SaveState(user, conversation, read_seq, **settings)).states)


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_conversation_without_founders_is_not_made(store):
    assert opened(store, founders=None) is None
    assert opened(store, founders=None) is None
    assert missed(store, "alice").cursors == {}


def test_opening_raises_the_epoch_and_keeps_the_first_members(store):
    assert opened(store) == storage.LogState(1, 0, ("alice", "bob"))
    assert opened(store, founders=("mallory",)) == storage.LogState(2, 0, ("alice", "bob"))
    assert opened(store, founders=None).epoch == 3
    assert store.execute(storage.OpenUser("mallory")).states == []


def test_opening_tells_the_highest_seq(store):
    open_log(store, "alice", "bob")
    assert opened(store).max_seq == 2


# --- appending ------------------------------------------------------------------------------------------------------


def test_an_append_of_an_earlier_epoch_is_fenced_off(store):
    old = opened(store).epoch
    new = opened(store).epoch
    assert append(store, old, message(1)) == storage.Fenced()
    assert missed(store, "alice").messages == []
    assert append(store, new, message(1)) == storage.Appended()


def test_an_append_to_nothing_is_fenced_off(store):
    assert append(store, 1, message(1)) == storage.Fenced()


def test_only_the_next_seq_is_taken(store):
    epoch = opened(store).epoch
    assert append(store, epoch, message(2)) == storage.Fenced()
    assert append(store, epoch, message(1)) == storage.Appended()
    assert append(store, epoch, message(1, id_client="other")) == storage.Fenced()
    assert append(store, epoch, message(3)) == storage.Fenced()


def test_a_key_is_taken_once(store):
    epoch = opened(store).epoch
    original = message(1, id_client="same")
    append(store, epoch, original)
    assert append(store, epoch, message(2, id_client="same", content="other")) == storage.Duplicate(original)
    assert missed(store, "alice").messages == [original]


def test_the_same_key_of_another_sender_is_another_key(store):
    epoch = opened(store).epoch
    append(store, epoch, message(1, id_client="same"))
    assert append(store, epoch, message(2, id_client="same", sender="bob")) == storage.Appended()


def test_a_fenced_writer_is_not_told_of_duplicates(store):
    """It must learn that it is no writer any more, whatever it asks."""
    old = opened(store).epoch
    append(store, old, message(1))
    opened(store)
    assert append(store, old, message(2, id_client="i1")) == storage.Fenced()


def test_find_tells_what_stands_under_a_key(store):
    append(store, opened(store).epoch, message(1))
    assert store.execute(storage.Find(AB, "alice", "i1")) == message(1)
    assert store.execute(storage.Find(AB, "bob", "i1")) is None
    assert store.execute(storage.Find(AB, "alice", "i2")) is None
    assert store.execute(storage.Find(TEAM, "alice", "i1")) is None


# --- users, places --------------------------------------------------------------------------------------------------


def test_opening_a_user_raises_its_epoch_alone(store):
    epochs = [store.execute(storage.OpenUser(user)).epoch for user in ("alice", "alice", "bob", "alice")]
    assert epochs == [1, 2, 1, 3]


def test_a_users_place_counts_what_others_sent_after_the_mark(store):
    epoch = opened(store).epoch
    notice = message(3, type=MessageType.NOTIFICATION)
    for one in (message(1), message(2, sender="bob"), notice, message(4)):
        append(store, epoch, one)
    assert states(store, "bob")[AB] == (state(0), [1, 4])
    assert states(store, "alice")[AB] == (state(0), [2])
    save(store, "bob", 1)
    assert states(store, "bob")[AB] == (state(1, 1), [4])


def test_a_mark_moves_forward_only_and_never_beyond_the_log(store):
    open_log(store, "alice", "alice", "alice")
    for asked, stands in ((2, 2), (1, 2), (99, 3), (-5, 3)):
        assert save(store, "bob", asked)["bob"].read_seq == stands
        assert read_seq(store, "bob") == stands


def test_who_is_no_member_has_no_place(store):
    open_log(store, "alice")
    assert save(store, "mallory", 1) == save(store, "alice", 1, TEAM) == {}
    assert append(store, opened(store).epoch, message(2, sender="mallory"), shown=1) == storage.Appended()
    assert states(store, "mallory") == {}
    assert set(states(store, "alice")) == {AB}


def test_each_change_gets_the_next_version_of_the_users_log_and_no_change_gets_none(store):
    open_log(store, "alice", "alice")
    open_log(store, "alice", conversation=TEAM)
    assert save(store, "bob", pinned=True) == {"bob": state(1, pinned=True)}
    assert save(store, "bob", 1, TEAM) == {"bob": state(2, 1, conversation=TEAM)}
    assert save(store, "bob", pinned=True) == {"bob": state(1, pinned=True)}
    assert save(store, "bob", muted=True, custom="{}") == {"bob": state(3, pinned=True, muted=True, custom="{}")}
    assert save(store, "bob", pinned=False, custom="")["bob"] == state(4, muted=True)
    assert missed(store, "bob").version == 4
    assert missed(store, "alice").version == 0


def test_who_reads_changes_the_peers_place_as_well(store):
    open_log(store, "alice", "alice")
    told = {"bob": state(1, 1), "alice": state(1, peer_read_seq=1, peer_delivered_seq=1)}  # what is read was delivered
    assert save(store, "bob", 1) == told
    assert save(store, "bob", 1) == told  # again, for who missed it
    assert set(save(store, "bob", muted=True)) == {"bob"}
    assert save(store, "alice", 2)["alice"] == state(2, 2, peer_read_seq=1, peer_delivered_seq=1)
    assert missed(store, "alice").version == missed(store, "bob").version - 1 == 2


def test_nobody_is_a_peer_in_a_group_or_of_oneself(store):
    open_log(store, "alice", conversation=TEAM)
    assert set(save(store, "bob", 1, TEAM)) == {"bob"}
    notes = "p2p:alice:alice"
    append(store, opened(store, notes, ("alice",)).epoch, message(1, conversation_id=notes))
    assert save(store, "alice", 1, notes) == {"alice": state(1, 1, conversation=notes)}


def test_to_hide_is_to_read_and_moves_forward_only(store):
    open_log(store, "alice", "alice", "alice")
    assert save(store, "bob", hidden_seq=2)["bob"] == state(1, 2, hidden_seq=2)
    assert save(store, "bob", hidden_seq=1)["bob"] == state(1, 2, hidden_seq=2)
    assert save(store, "bob", 3, hidden_seq=1)["bob"] == state(2, 3, hidden_seq=2)
    assert save(store, "bob", hidden_seq=99)["bob"] == state(3, 3, hidden_seq=3)
    assert save(store, "bob", hidden_seq=-1)["bob"] == state(3, 3, hidden_seq=3)


def test_only_the_latest_state_of_each_place_that_changed_is_told(store):
    open_log(store, "alice", "alice")
    open_log(store, "alice", conversation=TEAM)
    for seq in (1, 2):
        save(store, "bob", seq)
    save(store, "bob", 1, TEAM)

    def since(version):
        page = store.execute(storage.Missed(session("bob"), {}, 100, version))
        return {found.conversation_id: found.version for found in page.states}, page.version

    assert since(0) == ({AB: 2, TEAM: 3}, 3)
    assert since(1) == ({AB: 2, TEAM: 3}, 3)
    assert since(2) == ({TEAM: 3}, 3)
    assert since(3) == ({}, 3)
    assert store.execute(storage.Missed(session("bob"), {}, 1)).states == ()  # not before the last page


def test_who_knows_of_no_place_is_told_all(store):
    open_log(store, "alice")
    assert missed(store, "bob").states == (state(0),)


def test_how_many_have_read_a_message(store):
    state = opened(store, TEAM, ("alice", "bob", "carol"))
    for seq, sender in ((1, "alice"), (2, "bob")):
        append(store, state.epoch, message(seq, conversation_id=TEAM, sender=sender))

    def count(seq, user="alice"):
        return store.execute(storage.CountRead(user, TEAM, seq))

    assert (count(1), count(2, "carol")) == (storage.ReadCount(0, 2), storage.ReadCount(0, 2))
    save(store, "bob", 2, TEAM)
    save(store, "carol", 1, TEAM)
    assert (count(1), count(2)) == (storage.ReadCount(2, 2), storage.ReadCount(0, 2))
    assert count(0) is count(3) is count(1, "mallory") is None
    assert store.execute(storage.CountRead("alice", AB, 1)) is None


def test_a_send_moves_its_senders_mark(store):
    epoch = opened(store).epoch
    for seq in (1, 2, 3):
        append(store, epoch, message(seq))
    moved = append(store, epoch, message(4, sender="bob"), shown=2)
    peer = state(1, peer_read_seq=2, peer_delivered_seq=2)
    assert moved == storage.Appended((("bob", state(1, 2)), ("alice", peer)))
    assert states(store, "bob")[AB] == (state(1, 2), [3])
    assert append(store, epoch, message(5, sender="bob"), shown=1) == storage.Appended()
    append(store, epoch, message(6, sender="bob"), shown=99)
    assert (read_seq(store, "bob"), read_seq(store, "alice")) == (6, 0)


def test_a_refused_send_moves_no_mark(store):
    epoch = opened(store).epoch
    append(store, epoch, message(1, sender="bob"))
    append(store, epoch, message(2, sender="bob", id_client="i1"), shown=1)  # a duplicate
    append(store, epoch, message(9, sender="bob"), shown=1)
    assert read_seq(store, "bob") == 0


# --- what a device missed -------------------------------------------------------------------------------------------


def read_all(store, user, cursors=None, limit=100, inbox=0):
    """(conversation, seq) of all that the pages bring, with how many pages it took."""
    cursors, got, pages = dict(cursors or {}), [], 0
    while True:
        page = missed(store, user, cursors, limit, inbox)
        got += [(one.conversation_id, one.seq) for one in page.messages]
        assert len(page.messages) <= limit
        cursors |= page.cursors
        inbox = page.inbox
        pages += 1
        if not page.more:
            return got, cursors, pages
        assert page.messages
        assert (page.states, page.version) == ((), 0)


def test_pages_cover_everything_after_the_cursors_once(store):
    open_log(store, "alice", "bob", "alice", "bob", "alice")
    open_log(store, "alice", "alice", conversation=TEAM)
    got, cursors, pages = read_all(store, "bob", {AB: 2}, limit=2)
    assert sorted(got) == [(TEAM, 1), (TEAM, 2), (AB, 3), (AB, 4), (AB, 5)]
    assert cursors == {AB: 5, TEAM: 2}
    assert pages == 3


def test_a_read_fan_out_goes_through_the_conversations_and_a_write_fan_out_through_the_inbox(by_read, by_write):
    for store in (by_read, by_write):
        open_log(store, "alice", "bob")
        open_log(store, "alice", conversation=TEAM)
        open_log(store, "alice")
    assert read_all(by_read, "bob")[0] == [(TEAM, 1), (AB, 1), (AB, 2), (AB, 3)]
    assert read_all(by_write, "bob")[0] == [(AB, 1), (AB, 2), (TEAM, 1), (AB, 3)]


def test_a_page_that_holds_exactly_the_rest_is_the_last(store):
    open_log(store, "alice", "alice")
    assert not missed(store, "bob", limit=2).more
    assert missed(store, "bob", limit=1).more


def test_cursors_that_cannot_be_do_no_harm(store):
    open_log(store, "alice")
    page = missed(store, "bob", {AB: -3, "group:unknown": 7})
    assert [one.seq for one in page.messages] == [1]
    assert page.cursors == {AB: 1}
    assert missed(store, "bob", {AB: 50}).messages == []


def test_nobody_gets_what_others_talk_about(store):
    open_log(store, "alice")
    page = missed(store, "mallory", {AB: 0})
    assert (page.messages, page.cursors, page.more, page.inbox) == ([], {}, False, 0)


def test_an_append_puts_a_row_into_the_inbox_of_each_member_under_fan_out_on_write(by_read, by_write):
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


def test_a_login_looks_into_each_conversation_or_into_one_inbox(by_read, by_write):
    for store in (by_read, by_write):
        for user in ("bob", "carol", "dave"):
            opened(store, f"p2p:alice:{user}", ("alice", user))
    assert [missed(by_read, user).reads for user in ("alice", "bob", "mallory")] == [3, 1, 0]
    assert [missed(by_write, user).reads for user in ("alice", "bob", "mallory")] == [1, 1, 1]
    open_log(by_read, "alice", "alice", conversation="p2p:alice:carol")
    assert missed(by_read, "alice", limit=1).reads == 2  # up to where the page was full


def test_an_inbox_is_read_from_where_it_was_left(by_write):
    open_log(by_write, "alice", "alice", "alice")
    page = missed(by_write, "bob", limit=2)
    assert (page.inbox, page.more) == (2, True)
    rest = missed(by_write, "bob", {AB: 2}, inbox=page.inbox)
    assert ([m.seq for m in rest.messages], rest.inbox, rest.more) == ([3], 3, False)
    again = missed(by_write, "bob", {AB: 3}, inbox=rest.inbox)
    assert (again.messages, again.cursors, again.inbox) == ([], {}, 3)


def test_what_a_device_got_by_a_push_is_passed_in_the_inbox(by_write):
    """And costs no place in the page."""
    open_log(by_write, *["alice"] * 5)
    open_log(by_write, "alice", conversation=TEAM)
    page = missed(by_write, "bob", {AB: 4}, limit=2)
    assert [(m.conversation_id, m.seq) for m in page.messages] == [(AB, 5), (TEAM, 1)]
    assert (page.cursors, page.inbox, page.more) == ({AB: 5, TEAM: 1}, 6, False)
    full = missed(by_write, "bob", {AB: 4}, limit=1)
    assert (full.cursors, full.inbox, full.more) == ({AB: 5}, 5, True)
    assert missed(by_write, "bob", {AB: 9}).cursors == {AB: 9, TEAM: 1}


@pytest.mark.parametrize(("inbox", "stands", "seqs"), [(-5, 2, [1, 2]), (2, 2, []), (1, 2, [2])])
def test_a_place_in_the_inbox_that_cannot_be_does_no_harm(by_write, inbox, stands, seqs):
    open_log(by_write, "alice", "alice")
    page = missed(by_write, "bob", inbox=inbox)
    assert (page.inbox, [m.seq for m in page.messages]) == (stands, seqs)


def test_under_fan_out_on_read_there_is_no_inbox(by_read):
    open_log(by_read, "alice")
    page = missed(by_read, "bob")
    assert ([m.seq for m in page.messages], page.inbox) == ([1], 0)
    assert missed(by_read, "bob", inbox=1) == storage.Ahead()


@pytest.mark.parametrize("inbox", [3, 10**30])
def test_who_has_read_further_in_the_inbox_than_it_goes_is_ahead(by_write, inbox):
    open_log(by_write, "alice", "alice")
    assert missed(by_write, "bob", inbox=inbox) == storage.Ahead()


def test_who_has_a_later_change_of_a_place_than_there_is_is_ahead(store):
    open_log(store, "alice")
    save(store, "bob", 1)

    def ask(version=0, state_version=0):
        return store.execute(storage.Missed(session("bob"), {}, 10, version, state_version=state_version))

    assert ask(1, 1).version == 1
    assert ask(version=2) == ask(state_version=2) == storage.Ahead()


def test_who_has_more_of_a_conversation_than_there_is_is_ahead_if_it_is_doubted(store):
    open_log(store, "alice", "alice")
    epoch = opened(store, TEAM, ("alice", "bob")).epoch
    effects = storage.Effects(left=("bob",))
    store.execute(storage.Append(epoch, message(1, conversation_id=TEAM), 0, effects))
    store.execute(storage.Append(epoch, message(2, conversation_id=TEAM), 0))

    def ask(cursors, *, doubted=True):
        return store.execute(storage.Missed(session("bob"), cursors, 10, doubted=doubted))

    for cursors in ({AB: 2, TEAM: 2}, {AB: -5}, {"group:none": 0}):
        assert isinstance(ask(cursors), storage.MissedPage)
    for cursors in ({AB: 3}, {TEAM: 3}, {"group:none": 1}, {AB: 10**30}):
        assert ask(cursors) == storage.Ahead()
        assert isinstance(ask(cursors, doubted=False), storage.MissedPage)


def test_who_was_never_there_may_know_what_was_sent_from_outside(store):
    """The answer to an application names a seq, of a log that the applicant has not joined."""
    epoch = opened(store, TEAM, ("alice",)).epoch
    store.execute(storage.Append(epoch, message(1, conversation_id=TEAM), 0))

    def ask(cursors):
        return store.execute(storage.Missed(session("bob"), cursors, 10, doubted=True))

    for cursors in ({TEAM: 1}, {"chatroom:lounge": 10**15}):
        assert isinstance(ask(cursors), storage.MissedPage)
    assert ask({TEAM: 2}) == storage.Ahead()


MEMBERS = {AB: ("alice", "bob"), "p2p:bob:carol": ("bob", "carol"), TEAM: ("alice", "bob", "carol")}


@given(
    appends=st.lists(st.tuples(st.sampled_from(sorted(MEMBERS)), st.integers(0, 2)), max_size=25),
    have=st.dictionaries(st.sampled_from(sorted(MEMBERS)), st.integers(-1, 12)),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    later=st.lists(st.sampled_from(sorted(MEMBERS)), max_size=10),
    pushed=st.sets(st.sampled_from(sorted(MEMBERS))),
)
def test_both_fan_outs_bring_the_same(appends, have, limits, later, pushed):
    """Whatever was appended, whatever the device holds and however large the pages: at the first sync, and at one that
    goes on from it, of which pushes brought some conversations already."""
    stores = [MemoryStorage(fanout) for fanout in FANOUTS]
    logs = dict.fromkeys(MEMBERS, 0)

    def append_all(where):
        for id, sender in where:
            logs[id] += 1
            for store in stores:
                epoch = opened(store, id, MEMBERS[id]).epoch
                one = message(logs[id], conversation_id=id, sender=MEMBERS[id][sender % len(MEMBERS[id])])
                assert append(store, epoch, one) == storage.Appended()

    for id in MEMBERS:
        for store in stores:
            opened(store, id, MEMBERS[id])
    append_all(appends)
    for user in ("alice", "bob", "carol"):
        mine = {id for id in MEMBERS if user in MEMBERS[id]}
        expected = {(id, seq) for id in mine for seq in range(max(0, have.get(id, 0)) + 1, logs[id] + 1)}
        for store, limit in zip(stores, limits, strict=True):
            got, cursors, pages = read_all(store, user, have, limit)
            assert len(got) == len(set(got))
            assert set(got) == expected
            assert pages == max(1, -(-len(got) // limit))
            for id in mine:
                seqs = [seq for one, seq in got if one == id]
                assert seqs == sorted(seqs)
                assert max(0, cursors.get(id, 0)) == max(logs[id], have.get(id, 0), 0)
    before = dict(logs)
    marks = [missed(store, "bob", {}, 1_000).inbox for store in stores]
    append_all([(id, 0) for id in later])
    cursors = {id: logs[id] if id in pushed else before[id] for id in MEMBERS}
    expected = {(id, seq) for id in set(MEMBERS) - pushed for seq in range(before[id] + 1, logs[id] + 1)}
    for store, mark, limit in zip(stores, marks, limits, strict=True):
        assert set(read_all(store, "bob", cursors, limit, mark)[0]) == expected


# --- ranges ---------------------------------------------------------------------------------------------------------


def find_range(store, first, last, limit=100, user="bob", conversation=AB):
    page = store.execute(storage.Range(user, conversation, first, last, limit))
    return None if page is None else ([one.seq for one in page.messages], page.more)


def test_a_range_has_both_its_ends(store):
    open_log(store, *["alice"] * 5)
    assert find_range(store, 2, 4) == ([2, 3, 4], False)
    assert find_range(store, 3, 3) == ([3], False)
    assert store.execute(storage.Range("alice", AB, 1, 1, 1)) == storage.RangePage([message(1)])


def test_the_latest_of_a_range_that_is_too_long(store):
    open_log(store, *["alice"] * 5)
    assert find_range(store, 1, 4, limit=2) == ([3, 4], True)
    assert find_range(store, 1, 2, limit=2) == ([1, 2], False)
    assert find_range(store, 1, 99, limit=1) == ([5], True)


@pytest.mark.parametrize(("most", "seqs"), [(1, [4]), (6, [4]), (7, [3, 4]), (9, [2, 3, 4]), (10, [1, 2, 3, 4])])
def test_a_page_ends_before_the_message_that_would_have_it_exceed_its_bytes(store, most, seqs):
    epoch = opened(store).epoch
    for seq, content in enumerate(("a", "bb", "ccc", "\u00e4dd"), 1):
        append(store, epoch, message(seq, content=content))
    page = store.execute(storage.Range("bob", AB, 1, 9, 100, page_bytes=most))
    assert ([one.seq for one in page.messages], page.more) == (seqs, len(seqs) < 4)


@pytest.mark.parametrize(("most", "pages"), [(1, [[1], [2], [3], [4]]), (4, [[1, 2], [3], [4]]), (6, [[1, 2, 3], [4]])])
def test_the_pages_of_a_sync_end_by_their_bytes_too_and_skip_nothing(store, most, pages):
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
def test_places_come_in_pages_too_and_none_is_left_out(store, most):
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
def test_a_range_that_cannot_be_is_cut(store, first, last, seqs):
    open_log(store, *["alice"] * 3)
    assert find_range(store, first, last) == (seqs, False)


def test_a_range_is_for_members(store):
    open_log(store, "alice")
    assert find_range(store, 1, 1, user="mallory") is None
    assert find_range(store, 1, 1, conversation=TEAM) is None


# --- what was delivered ---------------------------------------------------------------------------------------------


def test_who_got_it_changes_the_peers_place_only(store):
    open_log(store, "alice", "alice")
    told = {"bob": state(0), "alice": state(1, peer_delivered_seq=1)}
    assert save(store, "bob", delivered_seq=1) == told
    assert save(store, "bob", delivered_seq=1) == told
    assert (missed(store, "alice").version, missed(store, "bob").version) == (1, 0)


def test_delivered_moves_forward_only_not_beyond_the_log_and_never_behind_what_was_read(store):
    open_log(store, "alice", "alice", "alice")

    def delivered(**change):
        return save(store, "bob", **change)["alice"]

    assert delivered(delivered_seq=2) == state(1, peer_delivered_seq=2)
    assert delivered(delivered_seq=1) == state(1, peer_delivered_seq=2)
    assert delivered(read_seq=1) == state(2, peer_read_seq=1, peer_delivered_seq=2)
    assert delivered(hidden_seq=3) == state(3, peer_read_seq=3, peer_delivered_seq=3)
    open_log(store, "alice", "alice")
    assert delivered(delivered_seq=99) == state(4, peer_read_seq=3, peer_delivered_seq=5)
    assert set(save(store, "bob", delivered_seq=-1)) == {"bob"}


def test_opening_a_user_tells_where_the_log_ends_and_what_was_delivered(store):
    open_log(store, "alice", "alice", "bob")
    open_log(store, "alice", conversation=TEAM)
    save(store, "bob", delivered_seq=2)
    save(store, "alice", delivered_seq=1)
    team, ab = store.execute(storage.OpenUser("bob")).states
    assert ab == (state(1, peer_delivered_seq=1), [1, 2], 3, 2, None, 0)
    assert team == (state(0, conversation=TEAM), [1], 1, 0, None, 0)
    save(store, "bob", 3)
    assert store.execute(storage.OpenUser("bob")).states[1].delivered_seq == 3
    assert store.execute(storage.OpenUser("alice")).states[1].delivered_seq == 1


def test_groups_and_notes_to_oneself_know_nothing_of_what_was_delivered(store):
    open_log(store, "alice", conversation=TEAM)
    assert save(store, "bob", conversation=TEAM, delivered_seq=1) == {"bob": state(0, conversation=TEAM)}
    notes = "p2p:alice:alice"
    append(store, opened(store, notes, ("alice",)).epoch, message(1, conversation_id=notes))
    assert save(store, "alice", conversation=notes, delivered_seq=1) == {"alice": state(0, conversation=notes)}
    assert [found.delivered_seq for found in store.execute(storage.OpenUser("alice")).states] == [0, 0]


# --- what an entry changes ------------------------------------------------------------------------------------------


class Team:
    """A group whose log is written with effects."""

    def __init__(self, store, members=("alice", "bob")):
        self.store, self.seq = store, 0
        self.epoch = opened(store, TEAM, ()).epoch
        self.add(joined=members)

    def add(self, sender="alice", shown=0, message_=None, **effects):
        one = message_ or message(self.seq + 1, conversation_id=TEAM, sender=sender)
        result = self.store.execute(storage.Append(self.epoch, one, shown, storage.Effects(**effects)))
        if isinstance(result, storage.Appended):
            self.seq += 1
        return result

    def seen(self, user):
        return [one.seq for one in read_log(self.store, user)]


def read_log(store, user, conversation=TEAM):
    return [one for one in missed(store, user, limit=1_000).messages if one.conversation_id == conversation]


def note(to="carol", id_client="n1", **fields):
    log = f"system:{to}"
    return message(0, id="", conversation_id=log, id_client=id_client, scene="system", to=to, **fields)


def test_a_member_sees_from_joining_to_leaving_each_time(store):
    team = Team(store)
    team.add()
    team.add(joined=("carol",))
    team.add()
    team.add(left=("carol",))
    team.add()
    assert team.seen("carol") == [3, 4, 5]
    assert missed(store, "carol").cursors == {TEAM: 5}
    team.add(joined=("carol",))
    team.add()
    assert team.seen("carol") == [3, 4, 5, 7, 8]
    assert missed(store, "carol").cursors == {TEAM: 8}
    assert missed(store, "carol", {TEAM: 5}).messages[0].seq == 7
    assert [one.seq for one in missed(store, "carol", {TEAM: 7}).messages] == [8]
    assert team.seen("bob") == list(range(1, 9))
    assert team.seen("dave") == []
    assert opened(store, TEAM, None).members == ("alice", "bob", "carol")


def test_a_range_has_only_what_may_be_seen(store):
    team = Team(store)
    for effects in ({}, {"joined": ("carol",)}, {}, {"left": ("carol",)}, {}, {"joined": ("carol",)}):
        team.add(**effects)
    assert find_range(store, 1, 99, user="carol", conversation=TEAM) == ([3, 4, 5, 7], False)
    assert find_range(store, 4, 6, user="carol", conversation=TEAM) == ([4, 5], False)
    assert find_range(store, 1, 2, user="carol", conversation=TEAM) == ([], False)
    assert find_range(store, 1, 9, 2, user="carol", conversation=TEAM) == ([5, 7], True)


def test_only_what_may_be_seen_counts_as_unread(store):
    team = Team(store)
    for effects in ({}, {"joined": ("carol",)}, {}):
        team.add(**effects)
    (found,) = store.execute(storage.OpenUser("carol")).states
    assert (found.unread_seqs, found.max_seq, found.ended) == ([3, 4], 4, 0)
    save(store, "carol", 3, TEAM)
    assert states(store, "carol")[TEAM][1] == [4]
    team.add(left=("carol",))
    team.add()
    (found,) = store.execute(storage.OpenUser("carol")).states
    assert (found.unread_seqs, found.max_seq, found.ended) == ([], 5, 5)
    team.add(joined=("carol",))
    (found,) = store.execute(storage.OpenUser("carol")).states
    assert (found.unread_seqs, found.max_seq, found.ended) == ([7], 7, 5)


def test_those_count_as_readers_who_were_members_then(store):
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


def test_who_leaves_reads_by_it_and_who_never_was_there_does_not(store):
    team = Team(store)
    team.add()
    moved = team.add("bob", shown=2, left=("bob",))
    assert moved.states == (("bob", state(1, 2, conversation=TEAM)),)
    assert team.add("mallory", shown=2).states == ()


def test_rows_go_to_those_who_join_and_to_those_who_leave(by_write):
    team = Team(by_write)
    assert team.add(joined=("carol",)).inbox_rows == 3
    assert team.add(left=("carol", "bob")).inbox_rows == 3
    assert team.add(notes=(note(), note("dave"))).inbox_rows == 3


def test_the_state_is_what_the_latest_entry_says(store):
    team = Team(store)
    team.add(state={"title": "one"})
    team.add()
    assert opened(store, TEAM, None).state == {"title": "one"}


def test_an_amended_message_is_found_as_such_everywhere(store):
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


def test_get_finds_what_is_there(store):
    open_log(store, "alice", "alice")
    assert [store.execute(storage.Get(AB, seq)) for seq in (1, 2)] == [message(1), message(2)]
    assert [store.execute(storage.Get(AB, seq)) for seq in (-1, 0, 3)] == [None] * 3
    assert store.execute(storage.Get(TEAM, 1)) is None


def test_notes_get_a_place_in_the_log_of_their_user(store):
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


def test_who_left_of_late_is_remembered(store):
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


def test_a_writer_of_a_system_log_that_a_note_overtook_is_fenced(store):
    team = Team(store)
    epoch = opened(store, "system:carol", ("carol",)).epoch
    team.add(notes=(note(),))
    one = message(1, conversation_id="system:carol")
    assert append(store, epoch, one) == storage.Fenced()
    assert append(store, epoch, message(2, conversation_id="system:carol")) == storage.Appended()


@pytest.mark.parametrize(
    ("epoch", "one"),
    [
        (0, message(2, conversation_id=TEAM)),
        (1, message(9, conversation_id=TEAM)),
        (1, message(1, conversation_id=TEAM)),
    ],
    ids=["fenced", "not the next", "a duplicate"],
)
def test_what_is_not_appended_changes_nothing(store, epoch, one):
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


# --- who is blocked -------------------------------------------------------------------------------------------------


def test_what_the_blocked_send_is_not_appended(store):
    epoch = opened(store).epoch
    append(store, epoch, message(1))
    save(store, "bob", blocked=True)
    assert store.execute(storage.Append(epoch, message(2), 1)) == storage.Blocked()
    assert append(store, epoch, message(2, sender="bob")) == storage.Appended()
    assert append(store, epoch, message(3, id_client="i1")) == storage.Duplicate(message(1))  # was stored before
    assert append(store, 0, message(3)) == storage.Fenced()
    assert opened(store).state is None
    assert states(store, "bob").keys() == {AB}
    assert read_seq(store, "alice") == 0
    epoch += 1
    save(store, "bob", blocked=False)
    assert append(store, epoch, message(3)) == storage.Appended()


def test_of_changes_the_rules_decide_who_is_blocked(store):
    epoch = opened(store).epoch
    save(store, "bob", blocked=True)
    effects = storage.Effects(state={"friends": True}, notes=(note("bob"),))
    assert isinstance(store.execute(storage.Append(epoch, message(1), 0, effects)), storage.Appended)
    between = storage.Between(TEAM, "alice", ("bob", "carol"))
    assert store.execute(between) == storage.Relations(("bob",), ("bob",))
    assert store.execute(storage.Between(TEAM, "bob", ("alice",))).blocking == ()


def test_one_may_block_whom_one_has_never_heard_of(store):
    assert save(store, "bob", blocked=True) == {"bob": state(1, blocked=True)}
    assert append(store, opened(store).epoch, message(1)) == storage.Blocked()
    assert states(store, "alice")[AB] == (state(0), [])
    assert missed(store, "alice").version == 0
    for user, id in (("carol", "p2p:alice:dave"), ("carol", AB), ("bob", TEAM), ("bob", "system:bob")):
        assert save(store, user, conversation=id, blocked=True) == {}
    assert opened(store, "p2p:alice:dave", None) is opened(store, TEAM, None) is None
    assert save(store, "bob", conversation="p2p:bob:carol", pinned=True) == {}


def test_a_group_knows_no_blocking_and_a_state_is_told_of_two_users_only(store):
    team = Team(store)
    save(store, "bob", conversation=TEAM, blocked=True)
    assert isinstance(team.add(state={"title": "x"}), storage.Appended)
    epoch = opened(store).epoch
    store.execute(storage.Append(epoch, message(1), 0, storage.Effects(state={"friends": True})))
    told = {found.state.conversation_id: found.log_state for found in store.execute(storage.OpenUser("bob")).states}
    assert told == {TEAM: None, AB: {"friends": True}}


MEMBERSHIP = st.lists(
    st.tuples(st.sampled_from(("join", "leave", "say")), st.sampled_from(("alice", "bob", "carol"))), max_size=30
)


@given(MEMBERSHIP, st.integers(1, 4), st.integers(0, 10))
def test_both_fan_outs_show_members_the_same_as_a_model(actions, limit, cursor):
    stores = [MemoryStorage(fanout) for fanout in FANOUTS]
    teams = [Team(store) for store in stores]
    members = {"alice", "bob"}
    seen = {"alice": [1], "bob": [1], "carol": []}
    since = dict.fromkeys(seen, 1)
    for number, (event, user) in enumerate(actions, 2):
        joined = (user,) if event == "join" and user not in members else ()
        left = (user,) if event == "leave" and user in members else ()
        for team in teams:
            team.add(joined=joined, left=left)
        for one in members | {*joined}:
            seen[one].append(number)
        since.update(dict.fromkeys(joined, number))
        members = (members | {*joined}) - {*left}
    for store in stores:
        for user, seqs in seen.items():
            got, cursors, _ = read_all(store, user, {TEAM: cursor}, limit)
            assert [seq for _, seq in got] == [seq for seq in seqs if seq > cursor]
            assert cursors[TEAM] == max(cursor, *seqs[-1:] or [0])
            state = store.execute(storage.OpenUser(user))
            unread = [seq for seq in seqs if user in members and user != "alice" and seq >= since[user]]
            assert [found.unread_seqs for found in state.states] == [unread] * bool(seqs)
        assert set(opened(store, TEAM, None).members) == members


# --- whatever is asked, in whatever order ---------------------------------------------------------------------------


class StorageInvariants(RuleBasedStateMachine):
    """Several writers, some of them fenced off, that try all kinds of appends."""

    users = ("alice", "bob")
    fanout = "read"

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStorage(self.fanout)
        self.epochs = [0]
        self.acknowledged: dict[int, storage.Message] = {}
        self.read = dict.fromkeys(self.users, 0)
        self.user_epochs = dict.fromkeys(self.users, 0)
        self.versions = dict.fromkeys(self.users, 0)

    @rule()
    def open(self):
        state = opened(self.store)
        assert state.epoch > self.epochs[-1]
        assert state.max_seq == len(self.acknowledged)
        self.epochs.append(state.epoch)

    @rule(
        back=st.integers(0, 1),
        seq=st.integers(-1, 1),
        sender=st.sampled_from(users),
        key=st.integers(0, 9),
        shown=st.integers(0, 20),
    )
    def append(self, back, seq, sender, key, shown):
        epoch = self.epochs[-1 - min(back, len(self.epochs) - 1)]
        one = message(len(self.acknowledged) + 1 + seq, sender=sender, id_client=f"k{key}")
        taken = [m for m in self.acknowledged.values() if (m.sender, m.id_client) == (sender, one.id_client)]
        result = append(self.store, epoch, one, shown)
        if epoch == 0 or epoch != self.epochs[-1]:
            assert result == storage.Fenced()
        elif taken:
            assert result == storage.Duplicate(taken[0])
        elif seq != 0:
            assert result == storage.Fenced()
        else:
            self.acknowledged[one.seq] = one
            self.check_moved(sender, min(shown, one.seq), dict(result.states))

    def check_moved(self, user, seq, told):
        """Either the mark moved, and both logs with it, or nothing did."""
        peer = "alice" if user == "bob" else "bob"
        if seq > self.read[user]:
            self.read[user] = seq
            for one in self.users:
                self.versions[one] += 1
            assert told == {
                one: state(
                    self.versions[one],
                    self.read[one],
                    peer_read_seq=self.read[other],
                    peer_delivered_seq=self.read[other],
                )
                for one, other in ((user, peer), (peer, user))
            }
        else:
            assert told == {}

    @rule(user=st.sampled_from(users), seq=st.integers(1, 20))
    def save_place(self, user, seq):
        told = save(self.store, user, seq)
        if self.epochs[-1] == 0:
            assert told == {}
        else:
            moved = min(seq, len(self.acknowledged)) > self.read[user]
            self.check_moved(user, min(seq, len(self.acknowledged)), told if moved else {})

    @rule(user=st.sampled_from(users))
    def open_user(self, user):
        state = self.store.execute(storage.OpenUser(user))
        assert state.epoch > self.user_epochs[user]
        self.user_epochs[user] = state.epoch
        for found, unread, max_seq, delivered_seq, _, _ in state.states:
            assert (max_seq, delivered_seq) == (len(self.acknowledged), self.read[user])
            assert 0 <= found.read_seq <= len(self.acknowledged)
            assert (found.read_seq, found.version) == (self.read[user], self.versions[user])
            assert unread == [seq for seq, m in self.acknowledged.items() if seq > found.read_seq and m.sender != user]

    @invariant()
    def nothing_acknowledged_is_lost_or_moved(self):
        log = missed(self.store, "alice").messages
        assert log == [self.acknowledged[seq] for seq in range(1, len(self.acknowledged) + 1)]


class InboxInvariants(StorageInvariants):
    fanout = "write"


StorageInvariants.TestCase.settings = InboxInvariants.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
TestStorageInvariants = StorageInvariants.TestCase
TestInboxInvariants = InboxInvariants.TestCase
