"""The storage that gets each request, and the answers that count."""

from __future__ import annotations

import pytest

from imsim.core import storage
from imsim.core.placement import Placement
from imsim.core.router.storages import Storages
from imsim.testing import RecordingPort


class Asked:
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
def asked() -> Asked:
    return Asked()


def test_request_goes_to_its_owner_and_is_answered_once(asked):
    one, other = asked.ask("ann1"), asked.ask("bob0")
    assert asked.names() == ["storage1", "storage0"]
    assert [asked.storages.is_answered(request) for request in (other, one, one)] == [True, True, False]


def test_requests_with_equal_fields_are_distinct(asked):
    one, same = asked.ask("ann1"), asked.ask("ann1")
    assert one != same
    assert asked.storages.is_answered(same)
    assert asked.storages.is_answered(one)


def test_lost_storage_gets_no_request_until_it_is_back(asked):
    one, other = asked.ask("ann1"), asked.ask("bob0")
    asked.names()
    assert asked.storages.lost("storage1") == [one]
    refused = asked.ask("cid1")
    assert (asked.storages.refused, asked.names()) == ([refused], [])
    asked.ask("dan0")
    asked.storages.back("storage1")
    asked.ask("eve1")
    assert (asked.storages.refused, asked.names()) == ([refused], ["storage0", "storage1"])
    assert asked.storages.is_answered(other)
