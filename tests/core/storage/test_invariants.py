"""Random requests in random order: several writers on one storage, and both fan-outs against simple models."""

from __future__ import annotations

from core.builders import AB, TEAM, message, state
from core.storage.builders import FANOUTS, Team, append, missed, opened, read_all, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imsim.core import storage
from imsim.core.storage.memory import MemoryStorage

MEMBERS = {AB: ("alice", "bob"), "p2p:bob:carol": ("bob", "carol"), TEAM: ("alice", "bob", "carol")}


MEMBERSHIP = st.lists(
    st.tuples(st.sampled_from(("join", "leave", "say")), st.sampled_from(("alice", "bob", "carol"))), max_size=30
)


class StorageInvariants(RuleBasedStateMachine):
    """Several writers, some of them fenced off, that try valid and invalid appends."""

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

    def check_moved(self, user, seq, sent):
        """Check that the mark moved and both users got a new version, or that nothing changed."""
        peer = "alice" if user == "bob" else "bob"
        if seq > self.read[user]:
            self.read[user] = seq
            for one in self.users:
                self.versions[one] += 1
            assert sent == {
                one: state(
                    self.versions[one],
                    self.read[one],
                    peer_read_seq=self.read[other],
                    peer_delivered_seq=self.read[other],
                )
                for one, other in ((user, peer), (peer, user))
            }
        else:
            assert sent == {}

    @rule(user=st.sampled_from(users), seq=st.integers(1, 20))
    def save_state(self, user, seq):
        sent = save(self.store, user, seq)
        if self.epochs[-1] == 0:
            assert sent == {}
        else:
            moved = min(seq, len(self.acknowledged)) > self.read[user]
            self.check_moved(user, min(seq, len(self.acknowledged)), sent if moved else {})

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


@given(
    appends=st.lists(st.tuples(st.sampled_from(sorted(MEMBERS)), st.integers(0, 2)), max_size=25),
    have=st.dictionaries(st.sampled_from(sorted(MEMBERS)), st.integers(-1, 12)),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    later=st.lists(st.sampled_from(sorted(MEMBERS)), max_size=10),
    pushed=st.sets(st.sampled_from(sorted(MEMBERS))),
)
def test_both_fan_outs_return_the_same_messages(appends, have, limits, later, pushed):
    """For random logs, cursors and page sizes. A second sync continues from the first one, after pushes have delivered
    some conversations."""
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


@given(MEMBERSHIP, st.integers(1, 4), st.integers(0, 10))
def test_both_fan_outs_agree_with_a_model_of_membership(actions, limit, cursor):
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


TestStorageInvariants = StorageInvariants.TestCase


TestInboxInvariants = InboxInvariants.TestCase
