"""The data model: conversation ids, names, bodies, and codes."""

from __future__ import annotations

import pytest
from core.builders import message
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.exceptions import BadName, UsageError
from imsim.core.model import (
    Code,
    MessageType,
    Scene,
    check_name,
    conversation_id,
    p2p_id,
    p2p_members,
    same_body,
)

names = st.text("abz019_.@+-", min_size=1, max_size=64)


@given(names, names)
def test_two_users_have_one_conversation_in_either_order(one, other):
    assert p2p_id(one, other) == p2p_id(other, one)
    assert set(p2p_members(p2p_id(one, other))) == {one, other}


@given(names, names, names)
def test_different_pairs_have_different_conversations(one, other, third):
    assert (p2p_id(one, other) == p2p_id(one, third)) == (other == third)


def test_notes_to_oneself_have_one_member():
    assert p2p_members(p2p_id("alice", "alice")) == ("alice",)


@pytest.mark.parametrize("other", ["group:team", "chatroom:lobby", "p2p:alice", "p2p:a:b:c", "", "p2p"])
def test_ids_of_other_scenes_contain_no_members(other):
    assert p2p_members(other) is None


def test_a_conversation_id_follows_from_scene_and_name():
    assert conversation_id(Scene.P2P, "bob", "alice") == "p2p:alice:bob"
    assert conversation_id(Scene.GROUP, "bob", "team") == "group:team"
    assert conversation_id(Scene.CHATROOM, "bob", "lobby") == "chatroom:lobby"


@pytest.mark.parametrize("name", ["", "a" * 65, "a:b", "a b", "a/b", "ä", "a\n", "\na", "a\x00"])
def test_error_of_a_bad_name_begins_with_the_field(name):
    with pytest.raises(BadName, match=r"^device: "):
        check_name("device", name)


def test_a_long_bad_name_is_not_repeated_in_full():
    with pytest.raises(UsageError) as caught:
        check_name("user", "x" * 100_000)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_only_notifications_do_not_count_as_unread():
    assert [kind.value for kind in MessageType if not message(type=kind).countable] == ["notification"]


@pytest.mark.parametrize(
    ("field", "value"), [("content", "other"), ("type", "image"), ("file", {"url": "x"}), ("custom", "{}")]
)
def test_a_body_consists_of_the_fields_that_the_sender_wrote(field, value):
    assert not same_body(message(), message(**{field: value}))


def test_fields_that_the_server_adds_are_not_part_of_the_body():
    assert same_body(message(1), message(2, content="text 1", time=5, resend=True))


def test_client_reconnects_only_after_codes_for_which_a_new_login_can_succeed():
    """After the first codes, a client would reconnect forever, or two clients would end each other's sessions."""
    for code in (
        Code.BAD_TOKEN,
        Code.TOKEN_EXPIRED,
        Code.TOKEN_REVOKED,
        Code.REPLACED,
        Code.KICKED,
        Code.BAD_FRAME,
        Code.BAD_REQUEST,
    ):
        assert not code.reconnects
    for code in (Code.LOGIN_TIMEOUT, Code.HEARTBEAT, Code.SLOW_READER, Code.GOING_AWAY, Code.UNAVAILABLE):
        assert code.reconnects
