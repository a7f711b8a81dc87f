"""MemoryStorage: what the requests mean. Every other storage is held to the same."""

from __future__ import annotations

from core.builders import AB, TEAM, message, open_log, place, session
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imsim.core import storage
from imsim.core.memory import MemoryStorage
from imsim.core.model import MessageType


def opened(store, conversation=AB, founders=("alice", "bob")):
    return store.execute(storage.OpenConversation(conversation, founders))


def append(store, epoch, one, shown=0):
    return store.execute(storage.Append(epoch, one, shown))


def missed(store, user, cursors=None, limit=100):
    return store.execute(storage.Missed(session(user), cursors or {}, limit))


def places(store, user):
    """By conversation: (place, unread seqs)."""
    state = store.execute(storage.OpenUser(user))
    return {found.conversation_id: (found, unread) for found, unread in state.places}


def read_seq(store, user):
    return places(store, user)[AB][0].read_seq


def save(store, user, read_seq=0, conversation=AB, **settings):
    """user -> place, of those that the answer tells."""
    return dict(store.execute(storage.SavePlace(user, conversation, read_seq, **settings)).places)


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_conversation_without_founders_is_not_made():
    store = MemoryStorage()
    assert opened(store, founders=None) is None
    assert opened(store, founders=None) is None
    assert missed(store, "alice").cursors == {}


def test_opening_raises_the_epoch_and_keeps_the_first_members():
    store = MemoryStorage()
    assert opened(store) == storage.ConversationState(1, 0, ("alice", "bob"))
    assert opened(store, founders=("mallory",)) == storage.ConversationState(2, 0, ("alice", "bob"))
    assert opened(store, founders=None).epoch == 3
    assert missed(store, "mallory").cursors == {}


def test_opening_tells_the_highest_seq():
    store = MemoryStorage()
    open_log(store, "alice", "bob")
    assert opened(store).max_seq == 2


# --- appending ------------------------------------------------------------------------------------------------------


def test_an_append_of_an_earlier_epoch_is_fenced_off():
    store = MemoryStorage()
    old = opened(store).epoch
    new = opened(store).epoch
    assert append(store, old, message(1)) == storage.Fenced()
    assert missed(store, "alice").messages == []
    assert append(store, new, message(1)) == storage.Appended()


def test_an_append_to_nothing_is_fenced_off():
    assert append(MemoryStorage(), 1, message(1)) == storage.Fenced()


def test_only_the_next_seq_is_taken():
    store = MemoryStorage()
    epoch = opened(store).epoch
    assert append(store, epoch, message(2)) == storage.Fenced()
    assert append(store, epoch, message(1)) == storage.Appended()
    assert append(store, epoch, message(1, id_client="other")) == storage.Fenced()
    assert append(store, epoch, message(3)) == storage.Fenced()


def test_a_key_is_taken_once():
    store = MemoryStorage()
    epoch = opened(store).epoch
    original = message(1, id_client="same")
    append(store, epoch, original)
    assert append(store, epoch, message(2, id_client="same", content="other")) == storage.Duplicate(original)
    assert missed(store, "alice").messages == [original]


def test_the_same_key_of_another_sender_is_another_key():
    store = MemoryStorage()
    epoch = opened(store).epoch
    append(store, epoch, message(1, id_client="same"))
    assert append(store, epoch, message(2, id_client="same", sender="bob")) == storage.Appended()


def test_a_fenced_writer_is_not_told_of_duplicates():
    """It must learn that it is no writer any more, whatever it asks."""
    store = MemoryStorage()
    old = opened(store).epoch
    append(store, old, message(1))
    opened(store)
    assert append(store, old, message(2, id_client="i1")) == storage.Fenced()


def test_find_tells_what_stands_under_a_key():
    store = MemoryStorage()
    append(store, opened(store).epoch, message(1))
    assert store.execute(storage.Find(AB, "alice", "i1")) == message(1)
    assert store.execute(storage.Find(AB, "bob", "i1")) is None
    assert store.execute(storage.Find(AB, "alice", "i2")) is None
    assert store.execute(storage.Find(TEAM, "alice", "i1")) is None


# --- users, places --------------------------------------------------------------------------------------------------


def test_opening_a_user_raises_its_epoch_alone():
    store = MemoryStorage()
    epochs = [store.execute(storage.OpenUser(user)).epoch for user in ("alice", "alice", "bob", "alice")]
    assert epochs == [1, 2, 1, 3]


def test_a_users_place_counts_what_others_sent_after_the_mark():
    store = MemoryStorage()
    epoch = opened(store).epoch
    notice = message(3, type=MessageType.NOTIFICATION)
    for one in (message(1), message(2, sender="bob"), notice, message(4)):
        append(store, epoch, one)
    assert places(store, "bob")[AB] == (place(0), [1, 4])
    assert places(store, "alice")[AB] == (place(0), [2])
    save(store, "bob", 1)
    assert places(store, "bob")[AB] == (place(1, 1), [4])


def test_a_mark_moves_forward_only_and_never_beyond_the_log():
    store = MemoryStorage()
    open_log(store, "alice", "alice", "alice")
    for asked, stands in ((2, 2), (1, 2), (99, 3), (-5, 3)):
        assert save(store, "bob", asked)["bob"].read_seq == stands
        assert read_seq(store, "bob") == stands


def test_who_is_no_member_has_no_place():
    store = MemoryStorage()
    open_log(store, "alice")
    assert save(store, "mallory", 1) == save(store, "alice", 1, TEAM) == {}
    assert append(store, opened(store).epoch, message(2, sender="mallory"), shown=1) == storage.Appended()
    assert places(store, "mallory") == {}
    assert set(places(store, "alice")) == {AB}


def test_each_change_gets_the_next_version_of_the_users_log_and_no_change_gets_none():
    store = MemoryStorage()
    open_log(store, "alice", "alice")
    open_log(store, "alice", conversation=TEAM)
    assert save(store, "bob", pinned=True) == {"bob": place(1, pinned=True)}
    assert save(store, "bob", 1, TEAM) == {"bob": place(2, 1, conversation=TEAM)}
    assert save(store, "bob", pinned=True) == {"bob": place(1, pinned=True)}
    assert save(store, "bob", muted=True, custom="{}") == {"bob": place(3, pinned=True, muted=True, custom="{}")}
    assert save(store, "bob", pinned=False, custom="")["bob"] == place(4, muted=True)
    assert missed(store, "bob").version == 4
    assert missed(store, "alice").version == 0


def test_who_reads_changes_the_peers_place_as_well():
    store = MemoryStorage()
    open_log(store, "alice", "alice")
    assert save(store, "bob", 1) == {"bob": place(1, 1), "alice": place(1, peer_read_seq=1)}
    assert save(store, "bob", 1) == {"bob": place(1, 1), "alice": place(1, peer_read_seq=1)}  # again, for who missed it
    assert set(save(store, "bob", muted=True)) == {"bob"}
    assert save(store, "alice", 2)["alice"] == place(2, 2, peer_read_seq=1)
    assert missed(store, "alice").version == missed(store, "bob").version - 1 == 2


def test_nobody_is_a_peer_in_a_group_or_of_oneself():
    store = MemoryStorage()
    open_log(store, "alice", conversation=TEAM)
    assert set(save(store, "bob", 1, TEAM)) == {"bob"}
    notes = "p2p:alice:alice"
    append(store, opened(store, notes, ("alice",)).epoch, message(1, conversation_id=notes))
    assert save(store, "alice", 1, notes) == {"alice": place(1, 1, conversation=notes)}


def test_to_hide_is_to_read_and_moves_forward_only():
    store = MemoryStorage()
    open_log(store, "alice", "alice", "alice")
    assert save(store, "bob", hidden_seq=2)["bob"] == place(1, 2, hidden_seq=2)
    assert save(store, "bob", hidden_seq=1)["bob"] == place(1, 2, hidden_seq=2)
    assert save(store, "bob", 3, hidden_seq=1)["bob"] == place(2, 3, hidden_seq=2)
    assert save(store, "bob", hidden_seq=99)["bob"] == place(3, 3, hidden_seq=3)
    assert save(store, "bob", hidden_seq=-1)["bob"] == place(3, 3, hidden_seq=3)


def test_only_the_latest_state_of_each_place_that_changed_is_told():
    store = MemoryStorage()
    open_log(store, "alice", "alice")
    open_log(store, "alice", conversation=TEAM)
    for seq in (1, 2):
        save(store, "bob", seq)
    save(store, "bob", 1, TEAM)

    def since(version):
        page = store.execute(storage.Missed(session("bob"), {}, 100, version))
        return {found.conversation_id: found.version for found in page.places}, page.version

    assert since(0) == ({AB: 2, TEAM: 3}, 3)
    assert since(1) == ({AB: 2, TEAM: 3}, 3)
    assert since(2) == ({TEAM: 3}, 3)
    assert since(3) == ({}, 3)
    assert store.execute(storage.Missed(session("bob"), {}, 1)).places == ()  # not before the last page


def test_who_knows_of_no_place_is_told_all():
    store = MemoryStorage()
    open_log(store, "alice")
    assert missed(store, "bob").places == (place(0),)


def test_how_many_have_read_a_message():
    store = MemoryStorage()
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


def test_a_send_moves_its_senders_mark():
    store = MemoryStorage()
    epoch = opened(store).epoch
    for seq in (1, 2, 3):
        append(store, epoch, message(seq))
    moved = append(store, epoch, message(4, sender="bob"), shown=2)
    assert moved == storage.Appended((("bob", place(1, 2)), ("alice", place(1, peer_read_seq=2))))
    assert places(store, "bob")[AB] == (place(1, 2), [3])
    assert append(store, epoch, message(5, sender="bob"), shown=1) == storage.Appended()
    append(store, epoch, message(6, sender="bob"), shown=99)
    assert (read_seq(store, "bob"), read_seq(store, "alice")) == (6, 0)


def test_a_refused_send_moves_no_mark():
    store = MemoryStorage()
    epoch = opened(store).epoch
    append(store, epoch, message(1, sender="bob"))
    append(store, epoch, message(2, sender="bob", id_client="i1"), shown=1)  # a duplicate
    append(store, epoch, message(9, sender="bob"), shown=1)
    assert read_seq(store, "bob") == 0


# --- what a device missed -------------------------------------------------------------------------------------------


def test_pages_cover_everything_after_the_cursors_once():
    store = MemoryStorage()
    open_log(store, "alice", "bob", "alice", "bob", "alice")
    open_log(store, "alice", "alice", conversation=TEAM)
    cursors, got, pages = {AB: 2}, [], 0
    while True:
        page = missed(store, "bob", cursors, limit=2)
        got += [(one.conversation_id, one.seq) for one in page.messages]
        assert len(page.messages) <= 2
        cursors |= page.cursors
        pages += 1
        if not page.more:
            break
    assert got == [(TEAM, 1), (TEAM, 2), (AB, 3), (AB, 4), (AB, 5)]
    assert cursors == {AB: 5, TEAM: 2}
    assert pages == 3


def test_a_page_that_holds_exactly_the_rest_is_the_last():
    store = MemoryStorage()
    open_log(store, "alice", "alice")
    assert not missed(store, "bob", limit=2).more
    assert missed(store, "bob", limit=1).more


def test_cursors_that_cannot_be_do_no_harm():
    store = MemoryStorage()
    open_log(store, "alice")
    page = missed(store, "bob", {AB: -3, "group:unknown": 7})
    assert [one.seq for one in page.messages] == [1]
    assert page.cursors == {AB: 1}
    assert missed(store, "bob", {AB: 50}).messages == []


def test_nobody_gets_what_others_talk_about():
    store = MemoryStorage()
    open_log(store, "alice")
    assert missed(store, "mallory", {AB: 0}) == storage.MissedPage([], {}, more=False)


# --- whatever is asked, in whatever order ---------------------------------------------------------------------------


class StorageInvariants(RuleBasedStateMachine):
    """Several writers, some of them fenced off, that try all kinds of appends."""

    users = ("alice", "bob")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStorage()
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
            self.check_moved(sender, min(shown, one.seq), dict(result.places))

    def check_moved(self, user, seq, told):
        """Either the mark moved, and both logs with it, or nothing did."""
        peer = "alice" if user == "bob" else "bob"
        if seq > self.read[user]:
            self.read[user] = seq
            for one in self.users:
                self.versions[one] += 1
            assert told == {
                one: place(self.versions[one], self.read[one], peer_read_seq=self.read[other])
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
        for found, unread in state.places:
            assert 0 <= found.read_seq <= len(self.acknowledged)
            assert (found.read_seq, found.version) == (self.read[user], self.versions[user])
            assert unread == [seq for seq, m in self.acknowledged.items() if seq > found.read_seq and m.sender != user]

    @invariant()
    def nothing_acknowledged_is_lost_or_moved(self):
        log = missed(self.store, "alice").messages
        assert log == [self.acknowledged[seq] for seq in range(1, len(self.acknowledged) + 1)]


StorageInvariants.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStorageInvariants = StorageInvariants.TestCase
