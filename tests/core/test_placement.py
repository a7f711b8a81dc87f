"""Placement: the owners of names, and their balance."""

from __future__ import annotations

from collections import Counter

from imsim.core.placement import Placement, Spread, by_hash, by_rendezvous

NAMES = [f"u{number}" for number in range(4000)]


def test_names_are_spread_evenly():
    for strategy in (by_hash, by_rendezvous):
        for nodes in (1, 2, 3, 7):
            counts = Counter(strategy(name, nodes) for name in NAMES)
            assert set(counts) == set(range(nodes))
            assert max(counts.values()) < 1.15 * len(NAMES) / nodes


def test_a_further_node_takes_only_its_share():
    moved = [name for name in NAMES if by_rendezvous(name, 4) != by_rendezvous(name, 5)]
    assert {by_rendezvous(name, 5) for name in moved} == {4}
    assert len(moved) < 1.15 * len(NAMES) / 5
    assert sum(by_hash(name, 4) != by_hash(name, 5) for name in NAMES) > 0.7 * len(NAMES)


def test_large_groups_get_different_nodes():
    members = {f"group:g{number}": 300 // (number + 1) + 8 for number in range(30)}
    spread = Spread(NAMES[:300], members)
    assert {spread(f"group:g{number}", 4) for number in range(4)} == {0, 1, 2, 3}
    loads = Counter[int]()
    for conversation, count in members.items():
        loads[spread(conversation, 4)] += count
    assert sum(loads.values()) == sum(members.values())
    # Graham's bound (1969): at most 4/3 - 1/(3 nodes) of the least possible, which is at least the largest group.
    least = max(max(members.values()), sum(members.values()) / 4)
    assert max(loads.values()) <= (4 / 3 - 1 / 12) * least
    assert Counter(spread(user, 3) for user in NAMES[:300]) == {0: 100, 1: 100, 2: 100}
    assert spread("system:u7", 4) == by_hash("system:u7", 4)  # a name without a known size


def test_placement_calls_the_strategy_once_for_each_name():
    asked = []
    placement = Placement(("router0", "router1"), lambda name, nodes: asked.append((name, nodes)) or 1)
    assert [placement.owner("bob"), placement.owner("bob")] == ["router1", "router1"]
    assert asked == [("bob", 2)]


def test_names_are_split_by_owner_in_their_order():
    placement = Placement(("router0", "router1"), lambda name, _: name in "bd")
    assert dict(placement.split("abcde")) == {"router0": ["a", "c", "e"], "router1": ["b", "d"]}


def test_a_single_node_owns_everything():
    placement = Placement(("router0",), lambda name, nodes: 1 // 0)
    assert placement.owner("bob") == "router0"
    assert list(placement.split(("a", "b"))) == [("router0", ("a", "b"))]
    assert list(placement.split(())) == []
