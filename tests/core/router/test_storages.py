"""The storage that gets each request, and the answers that count."""

from __future__ import annotations

import pytest

from imsim.core import storage
from imsim.core.placement import Placement
from imsim.core.router.storages import Storages
from imsim.testing import RecordingPort


class Two:
    """Two storages, each of which owns the names that end with its number."""

    def __init__(self) -> None:
        self.port = RecordingPort()
        self.storages = Storages(self.port, Placement(("storage0", "storage1"), lambda name, _: int(name[-1])))

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
