"""The storage that gets each request, and the answers that count."""

from __future__ import annotations

import pytest

from imsim.core import storage
from imsim.core.model import Message, Scene
from imsim.core.placement import Placement
from imsim.core.router.storages import Storages
from imsim.testing import RecordingPort


class Two:
    """Two storages, each of which owns the names that end with its number."""

    def __init__(self) -> None:
        self.port = RecordingPort()
        self.storages = Storages(self.port, Placement(("storage0", "storage1"), lambda name, _: int(name[-1])), 10.0)

    def ask(self, user: str) -> storage.Request:
        request = storage.OpenUser(user)
        self.storages.ask(request)
        return request

    def names(self) -> list[str]:
        return [arguments[0] for _, arguments in self.port.take()]


@pytest.fixture
def two() -> Two:
    return Two()


def test_request_goes_to_its_owner_and_is_answered_once(two):
    one, other = two.ask("ann1"), two.ask("bob0")
    assert two.names() == ["storage1", "storage0"]
    assert [two.storages.is_answered(request) for request in (other, one, one)] == [True, True, False]


def test_requests_with_equal_fields_are_distinct(two):
    one, same = two.ask("ann1"), two.ask("ann1")
    assert one != same
    assert two.storages.is_answered(same)
    assert two.storages.is_answered(one)


def test_lost_storage_gets_no_request_until_it_is_back(two):
    one, other = two.ask("ann1"), two.ask("bob0")
    two.names()
    assert two.storages.lost("storage1") == [one]
    refused = two.ask("cid1")
    assert (two.storages.refused, two.names()) == ([refused], [])
    two.ask("dan0")
    two.storages.back("storage1")
    two.ask("eve1")
    assert (two.storages.refused, two.names()) == ([refused], ["storage0", "storage1"])
    assert two.storages.is_answered(other)


def append(user: str, seq: int) -> storage.Append:
    text = Message(f"system:{user}", seq, f"{user}:{seq}", str(seq), Scene.SYSTEM, "custom", "alice", user, 0)
    return storage.Append(1, text, 0, None)


def test_wait_is_the_age_of_the_oldest_append_without_an_answer(two):
    storages = two.storages
    first, second = append("u0", 1), append("u0", 2)
    storages.append(first, 1.0)
    storages.append(second, 2.0)
    assert storages.wait("system:u0", 4.0) == 3.0
    assert storages.wait("system:u1", 4.0) == 0.0
    assert storages.is_answered(first)
    assert storages.wait("system:u0", 4.0) == 2.0
    assert storages.is_answered(second)
    assert storages.wait("system:u0", 4.0) == 0.0


def test_append_that_another_one_has_overtaken_does_not_count(two):
    storages = two.storages
    first, second = append("u0", 1), append("u0", 2)
    storages.append(first, 1.0)
    storages.append(second, 2.0)
    assert storages.is_answered(second)
    assert storages.wait("system:u0", 4.0) == 0.0
    assert storages.is_answered(first)


def test_append_without_an_answer_is_given_up(two):
    two.storages.append(append("u0", 1), 1.0)
    assert two.storages.wait("system:u0", 10.9) == pytest.approx(9.9)
    assert two.storages.wait("system:u0", 11.0) == 0.0
