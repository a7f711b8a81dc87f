"""The inbox, compared with a brute-force model: it shows each message once and in order, and skips none."""

from __future__ import annotations

from core.builders import message
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.client.inbox import _AHEAD, Inbox, Taken
from imsim.core.model import Route

TOP = 12


class ModelledInbox:
    """An inbox, the messages that it showed, and a simple model. `hidden`: the seqs that the device may not see."""

    def __init__(self, hidden: frozenset[int] = frozenset()) -> None:
        self.inbox = Inbox()
        self.hidden = hidden
        self.shown: list[int] = []
        self.own: set[int] = set()
        self.came: dict[int, float] = {}  # all seqs that arrived, with the times of their first arrival
        self.complete = 0
        self.now = 0.0

    def take(self, seq: int, route: Route = Route.PUSH) -> None:
        self.now += 1.0
        taken = self.inbox.take(message(seq), route, self.now)
        if seq in self.came or seq < self.next_seq:
            assert taken is Taken.REPEATED
        else:
            assert taken is (Taken.SHOW if seq == self.next_seq else Taken.AHEAD)
            self.came[seq] = self.now
            if taken is Taken.SHOW:
                self.shown.append(seq)
        self.follow()

    def follow(self) -> None:
        self.shown += [one.seq for one, _ in self.inbox.following()]

    def take_own(self, seq: int) -> None:
        self.now += 1.0
        self.inbox.take_own(seq, self.now)
        if seq not in self.shown and seq not in self.own:
            self.own.add(seq)
            self.came[seq] = self.now
        self.follow()

    def fetch(self, top: int) -> None:
        """Take everything from the cursor to `top`, the latest first. The order must not matter."""
        for seq in range(top, self.inbox.cursor, -1):
            if seq not in self.hidden:
                self.take(seq, Route.SYNC)
        self.inbox.complete_to(top)
        self.complete = max(self.complete, top)
        self.follow()

    @property
    def next_seq(self) -> int:
        """The `next_seq` of the model."""
        seq = 1
        while seq in self.came or seq <= self.complete:
            seq += 1
        return seq

    def check(self) -> None:
        assert self.inbox.next_seq == self.next_seq
        assert self.inbox.cursor == self.next_seq - 1
        # all messages that arrived and have no gap before them, once and in order
        assert self.shown == [seq for seq in sorted(self.came) if seq < self.next_seq and seq not in self.own]
        held = [seq for seq in sorted(self.came) if seq >= self.next_seq]
        assert self.inbox.held_since == (self.came[held[0]] if held else None)
        assert self.inbox.gap(99) == (self.next_seq, held[0] - 1 if held else 99)


seqs = st.integers(1, TOP)


arrivals = st.lists(st.tuples(st.sampled_from(("take", "own", "fetch")), seqs), max_size=40)


@given(arrivals, st.frozensets(seqs, max_size=4), st.frozensets(seqs, max_size=3))
def test_every_message_is_shown_once_and_in_order(actions, own, hidden):
    """`own` are seqs of this device's sends: it learns them from the answers. Only pages bring these messages."""
    own -= hidden
    modelled = ModelledInbox(hidden)
    for action, seq in actions:
        if action == "fetch":
            for mine in own:  # the answers to own sends arrive before a page that contains them
                if mine <= seq and mine not in modelled.own:
                    modelled.take_own(mine)
            modelled.fetch(seq)
        elif seq in own:
            modelled.take_own(seq)
        elif action == "take" and seq not in hidden:
            modelled.take(seq)
        modelled.check()
    for mine in own - modelled.own:
        modelled.take_own(mine)
    modelled.fetch(TOP)
    modelled.check()
    assert set(modelled.shown) | modelled.own == set(range(1, TOP + 1)) - hidden
    assert modelled.inbox.cursor == TOP
    assert modelled.inbox.held_since is None


def test_a_held_back_copy_of_an_own_message_is_not_shown():
    inbox = Inbox()
    inbox.take(message(2), Route.PUSH, 1.0)
    inbox.take_own(2, 5.0)
    assert inbox.held_since == 5.0  # seq 1 is still missing
    assert inbox.take(message(1), Route.PUSH, 6.0) is Taken.SHOW
    assert list(inbox.following()) == []
    assert inbox.next_seq == 3


def test_the_gap_ends_before_the_first_that_is_held_back():
    inbox = Inbox()
    assert inbox.gap(7) == (1, 7)
    inbox.take(message(1), Route.PUSH, 0.0)
    assert inbox.gap(7) == (2, 7)
    inbox.take(message(9), Route.PUSH, 1.0)
    assert inbox.gap(7) == inbox.gap(0) == (2, 8)
    inbox.take_own(6, 2.0)
    assert inbox.gap(7) == (2, 5)
    assert inbox.held_since == 2.0
    inbox.take(message(4), Route.PUSH, 3.0)
    assert inbox.gap(7) == (2, 3)
    assert inbox.held_since == 3.0


def test_invisible_seqs_are_skipped_and_messages_held_back_are_kept():
    """A message that arrived is kept, even if a seq before it will never arrive."""
    modelled = ModelledInbox()
    modelled.take(2)
    modelled.take(7)
    modelled.inbox.complete_to(5)
    modelled.follow()
    assert modelled.shown == [2]
    assert modelled.inbox.cursor == 5
    modelled.inbox.take(message(6), Route.PUSH, 0.0)
    modelled.follow()
    assert modelled.shown == [2, 7]
    assert modelled.inbox.cursor == 7


def test_the_messages_held_back_are_bounded():
    inbox = Inbox()
    for seq in range(2, _AHEAD + 10):
        assert inbox.take(message(seq), Route.PUSH, 0.0) is Taken.AHEAD
    inbox.take(message(1), Route.PUSH, 0.0)
    assert len(list(inbox.following())) == _AHEAD
    # the server repeats the messages past the bound, because they were not acknowledged
    assert inbox.take(message(_AHEAD + 2), Route.PUSH, 0.0) is Taken.SHOW


def test_a_message_held_back_keeps_its_route():
    inbox = Inbox()
    inbox.take(message(2), Route.SYNC, 0.0)
    inbox.take(message(1), Route.PUSH, 0.0)
    assert [route for _, route in inbox.following()] == [Route.SYNC]


def test_messages_fetched_for_a_gap_are_kept_even_when_the_inbox_is_full():
    """If the gap is too large for one page, its messages arrive from the end backwards."""
    inbox = Inbox()
    for seq in range(11, 11 + _AHEAD):
        inbox.take(message(seq), Route.PUSH, 1.0)
    assert inbox.gap(0) == (1, 10)
    for seq in (10, 9):
        assert inbox.take(message(seq), Route.SYNC, 2.0) is Taken.AHEAD
        assert inbox.gap(0) == (1, seq - 1)
    for seq in range(1, 9):
        inbox.take(message(seq), Route.SYNC, 3.0)
    assert [one.seq for one, _ in inbox.following()] == list(range(9, 9 + _AHEAD))
    last = 8 + _AHEAD  # the two highest gave way; the server repeats them, because they were not acknowledged
    assert inbox.cursor == last
    assert inbox.take(message(last + 1), Route.PUSH, 4.0) is Taken.SHOW
