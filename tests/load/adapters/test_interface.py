"""The base classes of adapters, and the helper for ids inside texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from load.chat import ChatAdapter

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.load.adapters import Adapter, Conversation, Feature, Joined, Response, Session, Target
from imsim.load.adapters.text import id_in, with_id, without_id
from imsim.load.conformance import CHECKS


class Least(Session):
    """A session that has only the methods which it must have."""

    def start(self, now):
        return []

    def stop(self, now):
        return []

    def received(self, item, now):
        return []

    def send(self, message, now):
        return []


class LeastAdapter(Adapter):
    def session(self, number, user, device):
        return Least()


def test_session_needs_four_methods():
    room = Conversation(Scene.CHATROOM, "r")
    session = LeastAdapter(Target("ws://host")).session(0, "a", "phone")
    assert session.join(room, ["a"], True, 0.0) == [Joined(room)]
    assert session.read(room, "1", 0.0) == []
    assert session.next_deadline() is None
    assert session.handle_timer(0.0) == []


def test_adapter_claims_nothing_by_default():
    adapter = LeastAdapter(Target("ws://host"))
    assert adapter.features == frozenset()
    assert not adapter.binary
    assert adapter.probe() is None
    assert adapter.probed(Response("", 200)) == {}


def test_adapter_refuses_unknown_options():
    assert ChatAdapter(Target("", options={"colour": "red"})).target.options == {"colour": "red"}
    with pytest.raises(UsageError, match="option size: unknown name; ChatAdapter has these options: colour"):
        ChatAdapter(Target("", options={"size": "1"}))
    with pytest.raises(UsageError, match="LeastAdapter has these options: none"):
        LeastAdapter(Target("", options={"size": "1"}))


def test_target_draws_the_same_for_each_device_by_default():
    assert Target("").draw(3)() == 0.5


def test_features_and_checks_are_documented():
    page = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text(encoding="utf-8")
    first_cells = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {one.name for one in Feature} | set(CHECKS) <= set(re.findall(r"`([^`]+)`", first_cells))


@pytest.mark.parametrize("text", ["", "x", "hello, you there", "x" * 1000, "other \U0001f642 text"])
def test_text_carries_id(text):
    carried = with_id("run:17", text)
    assert id_in(carried) == "run:17"
    assert len(carried) == max(len(text), len("run:17 ")) or without_id(carried) == text
