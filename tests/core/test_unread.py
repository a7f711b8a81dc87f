"""Unread counts, compared with a set of seqs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imsim.core.unread import Unread

steps = st.lists(st.tuples(st.sampled_from(["add", "read"]), st.integers(0, 30)), max_size=60)


@given(st.integers(0, 10), st.lists(st.integers(1, 30)), steps)
def test_unread_counts_as_a_set_would(read_seq, seqs, actions):
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
def test_seqs_without_a_hole_take_one_range_in_any_order_of_arrival(seqs):
    unread = Unread(0, seqs)
    assert unread.count == 11
    assert unread._bounds == (1, 12)


# --- recalls --------------------------------------------------------------------------------------------------------


recalls = st.lists(st.tuples(st.sampled_from(["add", "remove", "read"]), st.integers(0, 15)), max_size=60)


@given(recalls)
def test_a_removed_seq_does_not_count_now_or_later(actions):
    unread, mark = Unread(), 0
    counted, removed = set(), set()
    for action, seq in actions:
        if action == "add":
            unread.add(seq)
            counted.add(seq)
        elif action == "remove":
            unread.remove(seq)
            if seq > mark:  # seqs up to the mark do not count anyway
                removed.add(seq)
        else:
            unread.read(seq)
            mark = max(mark, seq)
        assert unread.count == len({seq for seq in counted - removed if seq > mark})
        assert list(unread._bounds) == sorted(set(unread._bounds))


def test_removing_splits_a_range_and_adding_again_does_not_join_it():
    unread = Unread(0, range(1, 6))
    unread.remove(3)
    unread.add(3)
    assert (unread.count, unread._bounds) == (4, (1, 3, 4, 6))
    for seq in (1, 2, 5, 9):
        unread.remove(seq)
    unread.add(9)
    assert (unread.count, unread._bounds) == (1, (4, 5))


def test_removals_are_kept_until_the_read_mark_passes_them():
    unread = Unread(2)
    unread.remove(2)
    assert unread._removed is None
    unread.remove(5)
    unread.remove(7)
    unread.read(5)
    assert unread._removed == {7}
    unread.read(7)
    assert unread._removed is None


# --- ranges -----------------------------------------------------------------------------------------------------------


kinds = st.sampled_from(["add", "remove", "read", "range"])
ranged = st.lists(st.tuples(kinds, st.integers(0, 15), st.integers(0, 15)))


@given(ranged)
def test_adding_a_range_is_adding_each_seq(actions):
    one, other = Unread(), Unread()
    for action, seq, last in actions:
        for unread in (one, other):
            if action != "range":
                getattr(unread, action)(seq)
        if action == "range":
            one.add_range(seq, last)
            for each in range(seq, last + 1):
                other.add(each)
        assert one._bounds == other._bounds
        assert sum(end - first + 1 for first, end in one.ranges) == one.count
