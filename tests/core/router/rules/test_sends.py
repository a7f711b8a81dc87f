"""The rules of a send, called by a writer: permissions, and the lookups that they need."""

from __future__ import annotations

import pytest
from core.builders import AB, Writer, change, send, session

from imsim.core import frames, storage
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies

# --- blocked users and strangers --------------------------------------------------------------------------------------


def test_blocked_user_may_recall_and_reject_but_not_send_edit_or_accept(opened):
    opened.ask("1", "friend_request", "bob", "alice")
    opened.send("2", "hello")
    opened.answer_all()
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.take()
    opened.ask("3", "friend_accept")
    opened.send("4", "let me")
    opened.answer_all()
    opened.ask("5", "edit", seq=3, content="let me")
    opened.answer_all()
    assert opened.answers() == [(id_client, Code.BLOCKED) for id_client in ("3", "4", "5")]
    opened.ask("6", "recall", seq=3)
    opened.ask("7", "friend_reject")
    opened.answer_all()
    assert opened.answers() == [("6", 4), ("7", 5)]


def test_strangers_who_may_not_send_may_not_edit():
    writer = Writer(policies=Policies(strangers="refuse"))
    writer.ask("1", "friend_request")
    writer.ask("2", "friend_accept", "bob", "alice")
    writer.send("3")
    writer.ask("4", "friend_delete", "bob", "alice")
    writer.ask("5", "edit", seq=3, content="please")
    writer.answer_all()
    assert writer.answers()[-1] == ("5", Code.NOT_FRIENDS)
    writer.to("p2p:alice:alice", send("1", to="alice"))
    writer.answer_all()
    assert writer.answers() == [("1", 1)]  # notes to oneself are allowed


# --- changes and conversations ----------------------------------------------------------------------------------------


def test_notification_without_rules_is_a_plain_message(team):
    team.change("1", "theme", colour="red")
    assert team.asked[0].effects is None
    team.change("2", "theme", by="mallory")
    team.change("3", "mute", "bob")
    team.change("4", "theme", by="bob")
    team.answer_all()
    assert team.answers() == [("2", Code.NOT_MEMBER), ("1", 2), ("3", 3), ("4", Code.MUTED)]


@pytest.mark.parametrize(
    ("conversation", "frame", "code"),
    [
        (AB, change("1", "kick", "bob", scene=Scene.P2P, to="bob"), Code.BAD_REQUEST),
        (AB, change("1", "resolve", "x", scene=Scene.P2P, to="bob"), Code.BAD_REQUEST),
        (AB, change("1", "friend_accept", scene=Scene.P2P, to="bob"), Code.CONFLICT),
        ("system:bob", change("1", "resolve", "x", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "create", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "theme", scene=Scene.SYSTEM, to="bob"), Code.BAD_REQUEST),
        ("system:bob", change("1", "recall", scene=Scene.SYSTEM, to="bob", seq=1), Code.NOT_MEMBER),
        ("system:bob", frames.Send("1", Scene.SYSTEM, "bob", "hi"), Code.BAD_REQUEST),
        ("p2p:alice:alice", change("1", "friend_request", scene=Scene.P2P, to="alice"), Code.BAD_REQUEST),
    ],
)
def test_a_change_in_the_wrong_kind_of_conversation_is_refused(writer, conversation, frame, code):
    writer.to(conversation, frame)
    writer.answer_all()
    assert writer.answers() == [("1", code)]


def test_third_user_cannot_change_a_p2p_conversation(opened):
    for number, event in enumerate(("friend_request", "friend_accept", "recall", "theme")):
        frame = change(str(number), event, by="mallory", scene=Scene.P2P, to="bob", seq=1)
        opened.to(AB, frame, session("mallory"))
    opened.answer_all()
    assert opened.answers() == [(str(number), Code.NOT_MEMBER) for number in range(4)]


# --- recalls and edits ------------------------------------------------------------------------------------------------


def test_recall_target_is_looked_up_after_the_messages_in_flight(opened):
    opened.send("1")
    opened.ask("2", "recall", seq=2)
    assert [request.op for request in opened.asked] == ["append", "get"]
    opened.send("3")
    opened.answer_all()
    assert opened.answers() == [("1", 2), ("2", 3), ("3", 4)]
    gone = opened.storage.execute(storage.Get(AB, 2))
    assert (gone.recalled, gone.content, gone.amended) == (True, "", 3)


def test_the_second_of_two_racing_amendments_sees_the_first(opened):
    opened.ask("1", "recall", seq=1)
    opened.ask("2", "edit", seq=1, content="x")
    opened.ask("3", "recall", seq=1)
    opened.answer_all()
    assert opened.answers() == [("1", 2), ("2", Code.CONFLICT), ("3", Code.CONFLICT)]
    opened.send("4")
    opened.answer_all()
    opened.ask("5", "edit", seq=3, content="x")
    opened.ask("6", "edit", seq=3, content="y")
    opened.answer_all()
    assert opened.storage.execute(storage.Get(AB, 3)).content == "y"
    assert opened.storage.execute(storage.Get(AB, 3)).amended == 5


def test_request_expires_after_request_lifetime():
    writer = Writer(policies=Policies(request_lifetime=10.0))
    writer.ask("1", "friend_request")
    writer.answer_all()
    assert writer.delivered[1].message.file["expires"] == 1_010_000
    writer.clock.now = 10.0
    writer.ask("2", "friend_accept", "bob", "alice")
    assert writer.answers()[-1] == ("2", Code.EXPIRED)
