"""The rules of a send, asked by the writer: who may say or change what, of whom, and what has to be looked up."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Writer, change, failed, send, session

from imsim.core import frames, storage
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies

# --- blocked users and strangers --------------------------------------------------------------------------------------


def test_a_request_of_who_is_blocked_was_never_made(opened):
    opened.storage.execute(storage.SaveState("bob", AB, blocked=True))
    opened.ask("1", "friend_request")
    opened.ask("2", "friend_accept", "bob", "alice")
    opened.answer_all()
    assert opened.answers() == [("1", Code.BLOCKED), ("2", Code.CONFLICT)]
    assert opened.delivered == []


def test_who_is_blocked_may_take_back_and_end_but_not_ask_or_say_anything(opened):
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


def test_strangers_edit_nothing_where_they_may_not_speak():
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
    assert writer.answers() == [("1", 1)]  # nobody is a stranger to oneself


# --- where a change may be made ---------------------------------------------------------------------------------------


def test_a_notice_that_changes_nothing_is_a_message_like_any_other(team):
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
        ("system:bob", change("1", "recall", scene=Scene.SYSTEM, to="bob", seq=1), Code.BAD_REQUEST),
        ("system:bob", frames.Send("1", Scene.SYSTEM, "bob", "hi"), Code.BAD_REQUEST),
        ("p2p:alice:alice", change("1", "friend_request", scene=Scene.P2P, to="alice"), Code.BAD_REQUEST),
    ],
)
def test_what_can_be_changed_nowhere_there(writer, conversation, frame, code):
    writer.to(conversation, frame)
    writer.answer_all()
    assert writer.answers() == [("1", code)]


def test_users_send_each_other_system_messages_of_one_type(writer):
    writer.to("system:bob", frames.Send("1", Scene.SYSTEM, "bob", "", "custom", custom="{}"))
    writer.answer_all()
    assert writer.answers() == [("1", 1)]
    assert [deliver.users for deliver in writer.delivered] == [("bob",)]
    writer.to("system:bob", change("2", "recall", scene=Scene.SYSTEM, to="bob", seq=1))
    writer.answer_all()
    assert writer.answers() == [("2", Code.NOT_MEMBER)]


def test_nobody_else_changes_anything_between_two(opened):
    for number, event in enumerate(("friend_request", "friend_accept", "recall", "theme")):
        frame = change(str(number), event, by="mallory", scene=Scene.P2P, to="bob", seq=1)
        opened.to(AB, frame, session("mallory"))
    opened.answer_all()
    assert opened.answers() == [(str(number), Code.NOT_MEMBER) for number in range(4)]


# --- recalls and edits ------------------------------------------------------------------------------------------------


def test_what_is_recalled_is_looked_up_behind_all_that_is_under_way(opened):
    opened.send("1")
    opened.ask("2", "recall", seq=2)
    assert [request.op for request in opened.asked] == ["append", "get"]
    opened.send("3")
    opened.answer_all()
    assert opened.answers() == [("1", 2), ("2", 3), ("3", 4)]
    gone = opened.storage.execute(storage.Get(AB, 2))
    assert (gone.recalled, gone.content, gone.amended) == (True, "", 3)


def test_one_of_two_amendments_that_race_finds_what_the_other_did(opened):
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


def test_the_rank_in_the_group_counts(team):
    team.say("1", by="bob")
    team.change("2", "recall", by="alice", seq=2)
    team.say("3")
    team.change("4", "recall", by="bob", seq=4)
    team.answer_all()
    assert team.answers() == [("1", 2), ("2", 3), ("3", 4), ("4", Code.FORBIDDEN)]


def test_what_cannot_be_looked_up_is_asked_again(opened):
    opened.ask("1", "recall", seq=1)
    opened.answer(result=failed)
    assert opened.answers() == [("1", Code.UNAVAILABLE)]
    opened.ask("1", "recall", seq=1)
    opened.asked.clear()
    opened.advance(10)
    assert opened.answers() == [("1", Code.UNAVAILABLE)]
    opened.ask("1", "recall", seq=1)
    opened.answer_all()
    assert opened.answers() == [("1", 2)]


def test_who_is_no_member_is_not_even_looked_up(opened):
    opened.to(AB, change("1", "recall", by="mallory", scene=Scene.P2P, to="bob", seq=1), session("mallory"))
    opened.look_up()  # of its idClient
    assert not opened.asked
    assert opened.answers() == [("1", Code.NOT_MEMBER)]


def test_an_edit_says_something_so_who_may_not_speak_may_not_edit(team):
    team.say("1", by="bob")
    team.change("2", "mute", "bob")
    team.answer_all()
    team.take()
    team.change("3", "edit", by="bob", seq=2, content="let me speak")
    assert team.answers() == [("3", Code.MUTED)]
    team.change("4", "recall", by="bob", seq=2)
    team.answer_all()
    assert team.answers() == [("4", 4)]


def test_windows_are_measured_from_the_messages_own_time():
    writer = Writer(policies=Policies(recall_window=10.0, edit_window=20.0))
    writer.clock.now = 100.0
    writer.send("0")
    writer.answer_all()
    writer.clock.now = 110.5
    writer.ask("1", "recall", seq=1)
    writer.ask("2", "edit", seq=1, content="x")
    writer.answer_all()
    assert writer.answers() == [("0", 1), ("1", Code.EXPIRED), ("2", 2)]


def test_requests_live_as_long_as_the_policy_says():
    writer = Writer(policies=Policies(request_lifetime=10.0))
    writer.ask("1", "friend_request")
    writer.answer_all()
    assert writer.delivered[1].message.file["expires"] == 1_010_000
    writer.clock.now = 10.0
    writer.ask("2", "friend_accept", "bob", "alice")
    assert writer.answers()[-1] == ("2", Code.EXPIRED)


# --- system messages that follow --------------------------------------------------------------------------------------


def test_consequences_go_to_those_whom_they_concern_once_they_are_stored(team):
    team.change("1", "kick", "bob")
    team.clock.now = 5.0
    assert team.delivered == []
    team.answer()
    kick, told = team.delivered
    assert (kick.message.seq, kick.origin) == (2, session())
    assert (told.users, told.origin) == (("bob",), None)
    one = told.message
    assert (one.conversation_id, one.seq, one.id, one.id_client) == ("system:bob", 1, "system:bob:1", "group:team:2")
    assert (one.scene, one.type, one.sender, one.to) == ("system", "group_kicked", "alice", "bob")
    assert one.file == {"conversationId": TEAM, "title": ""}
    assert one.time == kick.message.time


def test_news_of_an_answer_name_what_was_answered(opened):
    opened.ask("1", "friend_request")
    opened.ask("2", "friend_accept", "bob", "alice")
    opened.answer_all()
    resolution = opened.delivered[-2].message
    assert (resolution.conversation_id, resolution.type, resolution.id_client) == (
        "system:bob",
        "notification",
        f"{AB}:3>{AB}:2",
    )
    assert resolution.file == {
        "event": "resolve",
        "operator": "bob",
        "targets": [f"{AB}:2"],
        "data": {"state": "passed"},
    }
    assert opened.delivered[-1].message.type == "friend_accepted"
