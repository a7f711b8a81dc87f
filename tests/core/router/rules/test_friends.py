"""The rules between two users: a table of states and events, and a storm."""

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
    """What is decided happens."""

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
    "no more friends": (("request", "alice"), ("accept", "bob"), ("delete", "alice")),
}


TABLE = {  # of alice's: request, accept, reject, delete
    "strangers": (OK, CONFLICT, CONFLICT, CONFLICT),
    "asked by alice": (OK, CONFLICT, CONFLICT, CONFLICT),
    "asked by bob": (CONFLICT, OK, OK, CONFLICT),
    "rejected": (OK, CONFLICT, CONFLICT, CONFLICT),
    "friends": (CONFLICT, CONFLICT, CONFLICT, OK),
    "no more friends": (OK, CONFLICT, CONFLICT, CONFLICT),
}


@pytest.mark.parametrize("state", HISTORY)
def test_each_event_is_allowed_by_the_state_of_the_two(state):
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


def test_nobody_is_a_friend_of_oneself_and_other_events_are_none():
    for event, members in (("request", ("alice",)), ("x", USERS)):
        with pytest.raises(RuleViolation) as refused:
            Two().do(event, "alice", members)
        assert refused.value.code == Code.BAD_REQUEST


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
    def at_most_one_asks_and_friends_do_not(self):
        assert changes.are_friends(self.two.state) is self.friends
        assert len(self.asked) <= (0 if self.friends else 1)
        request = self.two.state["request"] if self.two.state else None
        assert list(self.asked) == ([request["id"]] if request else [])


FriendStorm.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


TestFriendStorm = FriendStorm.TestCase
