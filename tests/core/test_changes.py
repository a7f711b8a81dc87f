"""Changes: which messages are changes, and which of them devices show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core.builders import change, entry, message

from imsim.core import changes
from imsim.core.changes import SILENT, event_of, is_from_outside, is_visible
from imsim.core.model import MessageType, Scene
from imsim.core.router.rules import friends, groups


def test_only_notifications_have_an_event():
    assert event_of(entry(1, "kick")) == "kick"
    assert event_of(change("1", "kick")) == "kick"
    assert event_of(message(1)) == ""
    assert event_of(message(1, type=MessageType.NOTIFICATION)) == ""
    assert event_of(message(1, type=MessageType.FILE, file={"event": "kick"})) == ""
    assert event_of(message(1, type=MessageType.NOTIFICATION, file={})) == ""


@pytest.mark.parametrize(
    ("scene", "event", "targets", "outside"),
    [
        (Scene.GROUP, "apply", (), True),
        (Scene.GROUP, "reject", (), True),
        (Scene.GROUP, "reject", ("carol",), False),
        (Scene.P2P, "reject", (), False),
        (Scene.GROUP, "accept", (), False),
        (Scene.GROUP, "join", (), False),
        (Scene.GROUP, "leave", (), False),
        (Scene.P2P, "friend_reject", (), False),
        (Scene.SYSTEM, "", (), True),
    ],
)
def test_changes_of_non_members_come_from_outside(scene, event, targets, outside):
    assert is_from_outside(change("1", event, *targets, scene=scene), "alice") is outside


def test_system_message_to_oneself_does_not_come_from_outside():
    assert not is_from_outside(change("1", "", scene=Scene.SYSTEM, to="alice"), "alice")


def test_devices_show_messages_and_notices_that_are_not_silent():
    assert is_visible(message(1))
    assert is_visible(entry(1, "kick"))
    assert is_visible(entry(1, "unknown_event"))
    assert not is_visible(replace(message(1), recalled=True))
    assert not any(is_visible(entry(1, event)) for event in SILENT)


def test_rules_check_every_silent_event():
    """Clients apply silent entries without a check of their own."""
    assert SILENT - {"resolve"} <= {*groups.EVENTS, *friends.EVENTS, *changes.AMENDMENTS}
    assert not {*friends.EVENTS, *changes.AMENDMENTS} - SILENT
