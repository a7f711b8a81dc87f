"""Tests of `Plan.extended` and of `Extra`: messages beyond the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.model import Scene
from imsim.scenario import Extra, Plan, Scenario, plan
from imsim.scenario.workload import user_name

TINY = Scenario.load("office", {"population.users": 12, "duration": "2s", "workload.rate": 1})
MOBILE = Scenario.load("mobile", {"population.users": 12, "population.devices": 2, "duration": "5s", "warmup": 0})


def to_partner(number: int, at: int, sender: int = 0, other: int = 1) -> Extra:
    members = tuple(sorted((sender, other)))
    return Extra(number, at, sender, 0, Scene.P2P, "", members, "text", 10)


def to_group(number: int, at: int, members: tuple[int, ...], name: str = "shoppers") -> Extra:
    return Extra(number, at, members[0], 0, Scene.GROUP, name, members, "text", 10)


@pytest.fixture(scope="module")
def tiny() -> Plan:
    return plan(TINY)


def test_extra_is_read_from_its_line():
    extra = to_group(7, 5, (1, 3))
    assert Extra.read(extra.line()) == extra
    assert type(Extra.read(extra.line()).scene) is Scene
    with pytest.raises(ValueError, match="Expecting"):
        Extra.read(extra.line()[:-3])


def test_plan_without_extras_is_unchanged(tiny):
    extended = tiny.extended([])
    assert (len(extended), len(extended.extras)) == (len(tiny), 0)
    assert extended.conversations == tiny.conversations


def test_extras_follow_the_plan_in_the_order_of_time_sender_and_intent(tiny):
    count = len(tiny)
    extras = [to_partner(count + 3, 5, 2, 3), to_partner(count, 9), to_partner(count + 1, 5), to_partner(count + 2, 5)]
    extended = tiny.extended(extras)
    assert len(extended) == count + 4
    assert np.array_equal(extended.at[:count], tiny.at)
    assert extended.at[count:].tolist() == [5, 5, 5, 9]
    assert extended.sender[count:].tolist() == [0, 0, 2, 0]
    assert extended.extras.tolist() == [count + 1, count + 2, count + 3, count]
    assert [column.dtype for column in (extended.at, extended.sender, extended.device, extended.type)] == [
        column.dtype for column in (tiny.at, tiny.sender, tiny.device, tiny.type)
    ]


def test_new_conversations_and_types_are_appended(tiny):
    count = len(tiny)
    picture = replace(to_group(count + 1, 2, (0, 4, 5)), type="image")
    extended = tiny.extended([to_group(count, 1, (0, 4, 5)), picture, to_group(count + 2, 3, (0, 4))])
    assert extended.conversations[: len(tiny.conversations)] == tiny.conversations
    new = extended.conversations[len(tiny.conversations) :]
    assert [(one.id, one.scene, one.name, one.members) for one in new] == [
        ("group:shoppers", Scene.GROUP, "shoppers", (0, 4, 5)),
        ("group:shoppers", Scene.GROUP, "shoppers", (0, 4)),  # its members have changed
    ]
    first = len(tiny.conversations)
    assert extended.conversation[count:].tolist() == [first, first, first + 1]
    assert [extended.types[number] for number in extended.type[count:]] == ["text", "image", "text"]


def test_extra_in_a_conversation_of_the_plan_adds_none(tiny):
    number = int(tiny.conversation[0])
    planned = tiny.conversations[number]
    extra = Extra(len(tiny), 1, planned.members[0], 0, planned.scene, planned.name, planned.members, "text", 1)
    extended = tiny.extended([extra])
    assert extended.conversations == tiny.conversations
    assert int(extended.conversation[-1]) == number


def test_members_of_an_extra_are_entitled_to_it(tiny):
    extended = tiny.extended([to_group(len(tiny), 1, (0, 4, 13))])
    rows = extended.entitled()
    assert rows.device[rows.intent == len(tiny)].tolist() == [4, 13]
    assert extended.users == [user_name(user) for user in range(14)]  # the plan has 12


def test_additional_users_are_always_online():
    of_mobile = plan(MOBILE)
    extended = of_mobile.extended([to_partner(len(of_mobile), 1, 3, 20)])
    periods = extended.online_periods
    assert periods is not None
    devices = np.arange(len(extended.users) * 2)
    assert len(periods.is_online_first) == len(devices)
    for at in (0, 2 * 10**9, 5 * 10**9):
        online = periods.is_online(devices, at)
        assert online[24:].all()
        assert np.array_equal(online[:24], of_mobile.online_periods.is_online(np.arange(24), at))
    assert list(periods.changes()) == list(of_mobile.online_periods.changes())


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 20)), max_size=20))
def test_order_of_the_given_extras_does_not_matter(drawn):
    short = plan(TINY)
    extras = [
        to_partner(len(short) + number, at, one, other) for number, (at, one, other) in enumerate(drawn) if one != other
    ]
    forward, backward = short.extended(extras), short.extended(reversed(extras))
    for name in ("at", "sender", "device", "size"):
        assert np.array_equal(getattr(forward, name), getattr(backward, name))
    ids = [[p.conversations[number].id for number in p.conversation] for p in (forward, backward)]
    assert ids[0] == ids[1]
    at, sender = forward.at[len(short) :], forward.sender[len(short) :]
    assert np.array_equal(np.lexsort((sender, at)), np.arange(len(at)))
