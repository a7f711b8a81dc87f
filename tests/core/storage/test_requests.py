"""The requests about users: states and marks, delivered seqs, and blocked users."""

from __future__ import annotations

from core.builders import AB, TEAM, message, open_log, session, state
from core.storage.builders import Team, append, missed, note, opened, read_seq, save, states

from imsim.core import storage

# --- users and states -------------------------------------------------------------------------------------------------


def test_open_user_raises_only_the_epoch_of_this_user(store):
    epochs = [store.execute(storage.OpenUser(user)).epoch for user in ("alice", "alice", "bob", "alice")]
    assert epochs == [1, 2, 1, 3]


def test_non_member_has_no_state(store):
    open_log(store, "alice")
    assert save(store, "mallory", 1) == save(store, "alice", 1, TEAM) == {}
    assert append(store, opened(store).epoch, message(2, sender="mallory"), shown=1) == storage.Appended()
    assert states(store, "mallory") == {}
    assert set(states(store, "alice")) == {AB}


def test_only_a_change_gets_the_next_version_of_the_users_log(store):
    open_log(store, "alice", "alice")
    open_log(store, "alice", conversation=TEAM)
    assert save(store, "bob", pinned=True) == {"bob": state(1, pinned=True)}
    assert save(store, "bob", 1, TEAM) == {"bob": state(2, 1, conversation=TEAM)}
    assert save(store, "bob", pinned=True) == {"bob": state(1, pinned=True)}
    assert save(store, "bob", muted=True, custom="{}") == {"bob": state(3, pinned=True, muted=True, custom="{}")}
    assert save(store, "bob", pinned=False, custom="")["bob"] == state(4, muted=True)
    assert missed(store, "bob").version == 4
    assert missed(store, "alice").version == 0


def test_read_mark_changes_the_peers_state_as_well(store):
    open_log(store, "alice", "alice")
    sent = {"bob": state(1, 1), "alice": state(1, peer_read_seq=1, peer_delivered_seq=1)}  # read implies delivered
    assert save(store, "bob", 1) == sent
    assert save(store, "bob", 1) == sent  # the repeated answer reports both states again
    assert set(save(store, "bob", muted=True)) == {"bob"}
    assert save(store, "alice", 2)["alice"] == state(2, 2, peer_read_seq=1, peer_delivered_seq=1)
    assert missed(store, "alice").version == missed(store, "bob").version - 1 == 2


def test_hiding_moves_the_read_mark_and_only_moves_forward(store):
    open_log(store, "alice", "alice", "alice")
    assert save(store, "bob", hidden_seq=2)["bob"] == state(1, 2, hidden_seq=2)
    assert save(store, "bob", hidden_seq=1)["bob"] == state(1, 2, hidden_seq=2)
    assert save(store, "bob", 3, hidden_seq=1)["bob"] == state(2, 3, hidden_seq=2)
    assert save(store, "bob", hidden_seq=99)["bob"] == state(3, 3, hidden_seq=3)
    assert save(store, "bob", hidden_seq=-1)["bob"] == state(3, 3, hidden_seq=3)


def test_sync_has_only_the_latest_state_of_each_changed_conversation(store):
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
    assert store.execute(storage.Missed(session("bob"), {}, 1)).states == ()  # only the last page has states


def test_count_read_returns_the_number_of_readers(store):
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


# --- delivered seqs ---------------------------------------------------------------------------------------------------


def test_delivered_seq_moves_forward_within_the_log_and_never_below_the_read_mark(store):
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


# --- blocked users ----------------------------------------------------------------------------------------------------


def test_message_of_a_blocked_sender_is_not_appended(store):
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


def test_storage_does_not_check_blocking_for_changes(store):
    epoch = opened(store).epoch
    save(store, "bob", blocked=True)
    effects = storage.Effects(state={"friends": True}, notes=(note("bob"),))
    assert isinstance(store.execute(storage.Append(epoch, message(1), 0, effects)), storage.Appended)
    between = storage.Between(TEAM, "alice", ("bob", "carol"))
    assert store.execute(between) == storage.Relations(("bob",), ("bob",))
    assert store.execute(storage.Between(TEAM, "bob", ("alice",))).blocking == ()


def test_user_can_block_a_stranger(store):
    assert save(store, "bob", blocked=True) == {"bob": state(1, blocked=True)}
    assert append(store, opened(store).epoch, message(1)) == storage.Blocked()
    assert states(store, "alice")[AB] == (state(0), [])
    assert missed(store, "alice").version == 0
    for user, id in (("carol", "p2p:alice:dave"), ("carol", AB), ("bob", TEAM), ("bob", "system:bob")):
        assert save(store, user, conversation=id, blocked=True) == {}
    assert opened(store, "p2p:alice:dave", None) is opened(store, TEAM, None) is None
    assert save(store, "bob", conversation="p2p:bob:carol", pinned=True) == {}


def test_block_has_no_effect_in_a_group_and_only_p2p_records_have_a_log_state(store):
    team = Team(store)
    save(store, "bob", conversation=TEAM, blocked=True)
    assert isinstance(team.add(state={"title": "x"}), storage.Appended)
    epoch = opened(store).epoch
    store.execute(storage.Append(epoch, message(1), 0, storage.Effects(state={"friends": True})))
    sent = {found.state.conversation_id: found.log_state for found in store.execute(storage.OpenUser("bob")).states}
    assert sent == {TEAM: None, AB: {"friends": True}}
