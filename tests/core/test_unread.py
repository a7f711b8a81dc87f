"""Unread against a brute-force set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imsim.core.unread import Unread

steps = st.lists(st.tuples(st.sampled_from(["add", "read"]), st.integers(0, 30)), max_size=60)


@given(st.integers(0, 10), st.lists(st.integers(1, 30)), steps)
def test_it_counts_what_a_set_would(read_seq, seqs, actions):
    unread, mark = Unread(read_seq, seqs), read_seq
    counted = {seq for seq in seqs if seq > mark}
    for action, seq in actions:
        if action == "add":
            unread.add(seq)
            if seq > mark:
                counted.add(seq)
        else:
            assert unread.read(seq) is (seq > mark)
            mark = max(mark, seq)
            counted = {one for one in counted if one > mark}
        assert (unread.read_seq, unread.count) == (mark, len(counted))


@given(st.permutations(range(1, 12)))
def test_seqs_without_a_hole_cost_one_range_in_whatever_order_they_come(seqs):
    unread = Unread(0, seqs)
    assert unread.count == 11
    assert unread._ranges == [[1, 11]]


def test_a_mark_never_moves_back():
    unread = Unread(5)
    assert not unread.read(5)
    assert not unread.read(3)
    assert unread.read_seq == 5


def test_reading_beyond_everything_counts_nothing_below_later():
    unread = Unread(0, [1, 2])
    unread.read(10)
    unread.add(7)
    unread.add(11)
    assert unread.count == 1
