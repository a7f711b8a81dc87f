"""The rules of friend requests: a table of states and events, and random events against a simple model."""

from __future__ import annotations

import pytest
from core.builders import AB
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imsim.core import changes
from imsim.core.model import Code
from imsim.core.router.rules import friends
from imsim.core.router.rules.decision import Change, RuleViolation

OK, CONFLICT = "ok", Code.CONFLICT


USERS = ("alice", "bob")


class Two:
    """Two users. Applies each decision, as the writer does."""

    def __init__(self, lifetime=100):
        self.state, self.seq, self.now, self.lifetime, self.notes = None, 0, 0, lifetime, ()

    def do(self, event, operator, members=USERS):
        change = Change(AB, self.seq + 1, self.now, f"friend_{event}", operator, (), {})
        before, copy = self.state, dict(self.state) if self.state else None
        decision = friends.decide(self.state, members, change, self.lifetime)
        assert before == copy
        assert (decision.joined, decision.left, decision.amended) == ((), (), None)
        self.seq += 1
        self.state, self.notes = decision.state, decision.notes

    def try_(self, event, operator):
        try:
            self.do(event, operator)
        except RuleViolation as refused:
            return refused.code
        return OK

    def notified(self):
        return [(note.user, note.type, note.resolves, note.data.get("state", "")) for note in self.notes]


HISTORY = {
    "strangers": (),
    "asked by alice": (("request", "alice"),),
    "asked by bob": (("request", "bob"),),
    "rejected": (("request", "alice"), ("reject", "bob")),
    "friends": (("request", "alice"), ("accept", "bob")),
    "no longer friends": (("request", "alice"), ("accept", "bob"), ("delete", "alice")),
}


TABLE = {  # outcomes of alice's request, accept, reject and delete
    "strangers": (OK, CONFLICT, CONFLICT, CONFLICT),
    "asked by alice": (OK, CONFLICT, CONFLICT, CONFLICT),
    "asked by bob": (CONFLICT, OK, OK, CONFLICT),
    "rejected": (OK, CONFLICT, CONFLICT, CONFLICT),
    "friends": (CONFLICT, CONFLICT, CONFLICT, OK),
    "no longer friends": (OK, CONFLICT, CONFLICT, CONFLICT),
}


@pytest.mark.parametrize("state", HISTORY)
def test_each_event_is_allowed_by_state(state):
    found = []
    for event in ("request", "accept", "reject", "delete"):
        two = Two()
        for done in HISTORY[state]:
            two.do(*done)
        assert changes.are_friends(two.state) is (state == "friends")
        found.append(two.try_(event, "alice"))
    assert tuple(found) == TABLE[state]


@pytest.mark.parametrize(("now", "answer", "counter"), [(99, OK, CONFLICT), (100, Code.EXPIRED, OK)])
def test_a_request_expires(now, answer, counter):
    for event, expected in (("accept", answer), ("reject", answer), ("request", counter)):
        two = Two()
        two.do("request", "alice")
        two.now = now
        assert two.try_(event, "bob") == expected
        if (event, expected) == ("request", OK):
            assert two.notified() == [("bob", "resolve", f"{AB}:1", "expired"), ("alice", "friend_request", "", "init")]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ("request", "friend_request: a user cannot send a friend request to themselves"),
        ("accept", "friend_accept: a user cannot accept a friend request from themselves"),
        ("reject", "friend_reject: a user cannot reject a friend request from themselves"),
        ("delete", "friend_delete: a user cannot end a friendship with themselves"),
    ],
)
def test_friend_event_to_oneself_is_refused(event, text):
    with pytest.raises(RuleViolation) as refused:
        Two().do(event, "alice", ("alice",))
    assert (refused.value.code, refused.value.text) == (Code.BAD_REQUEST, text)


def test_unknown_event_is_refused_with_the_known_ones():
    with pytest.raises(RuleViolation) as refused:
        Two().do("x", "alice")
    assert (refused.value.code, refused.value.text) == (
        Code.BAD_REQUEST,
        "file.event: expected one of friend_request, friend_accept, friend_reject, friend_delete between two users"
        " (got 'friend_x')",
    )


class FriendStorm(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.two, self.asked, self.friends = Two(5), {}, False

    @rule(event=st.sampled_from(("request", "accept", "reject", "delete")), operator=st.sampled_from(USERS))
    def try_(self, event, operator):
        if self.two.try_(event, operator) != OK:
            return
        for note in self.two.notes:
            if note.resolves:
                assert self.asked.pop(note.resolves) == note.user
            elif note.type == "friend_request":
                self.asked[f"{AB}:{self.two.seq}"] = note.user
                assert note.user != operator
        if event in ("accept", "delete"):
            assert self.friends is (event == "delete")
            self.friends = event == "accept"

    @rule(time=st.integers(0, 4))
    def wait(self, time):
        self.two.now += time

    @invariant()
    def at_most_one_request_is_open_and_none_between_friends(self):
        assert changes.are_friends(self.two.state) is self.friends
        assert len(self.asked) <= (0 if self.friends else 1)
        request = self.two.state["request"] if self.two.state else None
        assert list(self.asked) == ([request["id"]] if request else [])


FriendStorm.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


TestFriendStorm = FriendStorm.TestCase
