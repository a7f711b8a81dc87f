"""Inbox against a brute-force model: each message once, in order, except what filled a hole."""

from __future__ import annotations

from core.builders import message
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.inbox import _AHEAD, Inbox, Taken
from imsim.core.model import Route

TOP = 12


class Screen:
    """An inbox with what was shown, and a plain model of what should be."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.shown: list[int] = []
        self.own: set[int] = set()
        self.given_up: set[int] = set()  # every seq that was ever passed over

    def take(self, seq: int, route: Route = Route.PUSH) -> None:
        known = seq in self.shown or seq in self.own
        held = not known and any(one.seq == seq for one, *_ in self.inbox._ahead.values())
        taken = self.inbox.take(message(seq), route, 0.0)
        assert (taken is Taken.REPEATED) is (known or held)
        if taken is Taken.SHOW:
            self.shown.append(seq)
        self.follow()

    def follow(self) -> None:
        self.shown += [one.seq for one, _ in self.inbox.following()]

    def place_own(self, seq: int) -> None:
        self.inbox.place_own(seq)
        self.own.add(seq)
        self.follow()

    def give_up(self) -> None:
        if self.inbox.held_since is not None:
            before = self.inbox.next_seq
            self.inbox.give_up_gap()
            assert self.inbox.next_seq > before
            self.given_up |= set(range(before, self.inbox.next_seq))
            self.follow()

    def sync(self, top: int) -> None:
        """A page with everything from the cursor to `top`."""
        for seq in range(self.inbox.cursor + 1, top + 1):
            self.take(seq, Route.SYNC)
        self.inbox.complete_to(top)
        self.follow()

    def check(self) -> None:
        seen = set(self.shown) | self.own
        assert len(self.shown) == len(set(self.shown))
        assert not self.own & set(self.shown)
        # strictly increasing, except for those that fill a hole
        highest = 0
        for seq in self.shown:
            if seq < highest:
                assert seq in self.given_up
            highest = max(highest, seq)
        # nothing is passed over in silence: below next_seq all is seen or is a hole that the next sync asks for
        missing = [seq for seq in range(1, self.inbox.next_seq) if seq not in seen]
        assert self.inbox.cursor == (missing[0] if missing else self.inbox.next_seq) - 1
        assert set(missing) <= self.given_up
        # nothing waits that could be shown
        assert self.inbox.next_seq not in self.inbox._ahead


seqs = st.integers(1, TOP)
arrivals = st.lists(
    st.one_of(
        st.tuples(st.just("take"), seqs),
        st.tuples(st.just("own"), seqs),
        st.tuples(st.just("give_up"), st.none()),
        st.tuples(st.just("sync"), seqs),
    ),
    max_size=40,
)


@given(arrivals, st.sets(seqs, max_size=4))
def test_every_message_is_shown_once_whatever_arrives_in_whatever_order(actions, own):
    """`own` are this device's: it is told their seqs, and they come from the server by a sync only."""
    screen = Screen()
    for action, seq in actions:
        if action == "give_up":
            screen.give_up()
        elif action == "sync":
            for mine in own:  # a device knows the answers to its own sends before it has synced past them
                if mine <= seq and mine not in screen.own:
                    screen.place_own(mine)
            screen.sync(seq)
        elif action == "own" or seq in own:
            if seq in own and seq not in screen.own:
                screen.place_own(seq)
        else:
            screen.take(seq)
        screen.check()
    for mine in own - screen.own:
        screen.place_own(mine)
    screen.sync(TOP)
    screen.check()
    assert set(screen.shown) | screen.own == set(range(1, TOP + 1))
    assert screen.inbox.cursor == TOP
    assert screen.inbox.held_since is None


@given(st.permutations(range(1, TOP + 1)), st.lists(seqs))
def test_without_giving_up_the_order_is_exact(order, again):
    screen = Screen()
    for seq in (*order, *again):
        screen.take(seq)
    assert screen.shown == list(range(1, TOP + 1))


def test_the_cursor_stands_before_the_lowest_hole():
    screen = Screen()
    screen.take(1)
    screen.take(4)
    screen.give_up()
    screen.take(2)
    assert screen.shown == [1, 4, 2]
    assert screen.inbox.cursor == 2
    assert screen.inbox.next_seq == 5


def test_what_waits_behind_an_own_message_follows_it():
    screen = Screen()
    screen.take(1)
    screen.take(3)
    screen.place_own(2)
    assert screen.shown == [1, 3]
    assert screen.inbox.next_seq == 4


def test_a_held_back_copy_of_an_own_message_is_not_shown():
    screen = Screen()
    screen.take(2)
    screen.place_own(2)
    assert screen.inbox.held_since is None
    screen.take(1)
    assert screen.shown == [1]


def test_an_own_message_that_comes_back_before_its_turn_is_a_repetition():
    inbox = Inbox()
    inbox.place_own(3)
    assert inbox.take(message(3), Route.PUSH, 0.0) is Taken.REPEATED
    assert inbox.held_since is None


def test_a_hole_that_proves_to_be_an_own_message_is_a_hole_no_more():
    screen = Screen()
    screen.take(2)
    screen.give_up()
    screen.place_own(1)
    assert screen.inbox.cursor == 2


def test_a_gap_with_an_own_message_in_it_is_given_up_to_that_message_only():
    screen = Screen()
    screen.place_own(3)
    screen.take(5)
    screen.give_up()
    assert screen.shown == []
    assert screen.inbox.next_seq == 4
    screen.give_up()
    assert screen.shown == [5]


def test_a_sync_passes_what_this_device_may_not_see():
    screen = Screen()
    screen.take(7)
    screen.inbox.complete_to(5)
    screen.take(6)
    assert screen.shown == [6, 7]
    assert screen.inbox.cursor == 7


def test_a_sync_fills_the_holes_that_it_covers_and_no_others():
    screen = Screen()
    screen.take(3)
    screen.give_up()
    screen.take(6)
    screen.give_up()
    screen.inbox.complete_to(4)
    assert screen.inbox.cursor == 4
    screen.inbox.complete_to(6)
    assert screen.inbox.cursor == 6


def test_a_late_answer_to_an_old_sync_changes_nothing():
    screen = Screen()
    for seq in (1, 2, 3):
        screen.take(seq)
    screen.inbox.complete_to(2)
    assert screen.inbox.cursor == 3


def test_what_is_held_back_is_bounded():
    inbox = Inbox()
    for seq in range(2, _AHEAD + 10):
        assert inbox.take(message(seq), Route.PUSH, 0.0) is Taken.AHEAD
    inbox.take(message(1), Route.PUSH, 0.0)
    assert len(list(inbox.following())) == _AHEAD
    # those past the bound were not acknowledged either, and come again
    assert inbox.take(message(_AHEAD + 2), Route.PUSH, 0.0) is Taken.SHOW


def test_what_was_held_back_keeps_its_route():
    inbox = Inbox()
    inbox.take(message(2), Route.SYNC, 0.0)
    inbox.take(message(1), Route.PUSH, 0.0)
    assert [route for _, route in inbox.following()] == [Route.SYNC]
