from __future__ import annotations

import pytest
from core.builders import Registry, Writer, open_log

from imsim.core.storage.memory import MemoryStorage


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def opened(writer: Writer) -> Writer:
    """A writer that has stored the message "0" of alice."""
    writer.send("0")
    writer.answer_all()
    writer.take()
    writer.delivered.clear()
    assert writer.opened == []  # an empty log is not announced
    return writer


@pytest.fixture
def team(writer: Writer) -> Writer:
    """A writer of the open group TEAM, with alice as owner and bob as member."""
    writer.change("0", "create", "bob", join="open")
    writer.answer_all()
    writer.take()
    writer.delivered.clear()
    writer.events.clear()
    return writer


@pytest.fixture
def registry() -> Registry:
    store = MemoryStorage()
    open_log(store, "alice")  # seq 1: bob has one unread
    return Registry(store)
