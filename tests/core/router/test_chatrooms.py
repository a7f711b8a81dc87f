"""The chatrooms machine: sessions in a room, their messages, and the end of an empty room."""

from __future__ import annotations

import pytest
from core.builders import change, session

from imsim.core import events, frames, internal_frames
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.core.router.chatrooms import _REMEMBERED, Chatrooms
from imsim.testing import RecordingPort

LOUNGE = "chatroom:lounge"


ALICE, BOB = session("alice", connection=1), session("bob", connection=2)


OTHER = session("alice", "d1", 2, "g1", connection=3)


CAROL = session("carol", connection=4)


class Lounge:
    def __init__(self, **policies):
        self.port = RecordingPort()
        self.machine = Chatrooms(self.port, Policies(**policies), epoch=1_000.0)
        self.now = 0.0

    def up(self, one, frame, room=LOUNGE):
        """Send a frame. Returns the answers, and keeps (user, device, content) of each push in `pushed`."""
        self.machine.receive(internal_frames.Up(one, frame, room), self.now)
        self.committed, answers, pushed = [], [], []
        for method, arguments in self.port.take():
            if method == "emit":
                assert isinstance(arguments[0], events.Committed)
                self.committed.append(arguments[0].message)
            else:
                gateway, down = arguments
                assert all(to.gateway == gateway for to in down.sessions)
                if isinstance(down.frame, frames.Push):
                    pushed += [(to.user, to.device, down.frame.message.content) for to in down.sessions]
                else:
                    assert down.sessions == (one,)
                    answers.append(down.frame)
        self.pushed = pushed
        return answers

    def enter(self, *sessions, recent=0):
        return [answer for one in sessions for answer in self.up(one, frames.Enter("lounge", recent))]

    def leave(self, one):
        return self.up(one, frames.Leave("lounge"))

    def say(self, one, id_client, content="text"):
        return self.up(one, frames.Send(id_client, Scene.CHATROOM, "lounge", content))


@pytest.fixture
def lounge():
    return Lounge()


def codes(answers):
    return [(answer.ref, answer.code) for answer in answers if isinstance(answer, frames.Rejected)]


def test_room_counts_users_and_not_devices(lounge):
    assert [answer.users for answer in lounge.enter(ALICE, BOB, OTHER, OTHER)] == [1, 2, 2, 2]
    assert lounge.leave(OTHER) == [frames.Done("leave", "lounge")]
    assert lounge.enter(CAROL) == [frames.Entered("lounge", 3, [])]
    lounge.leave(ALICE)
    assert lounge.enter(CAROL)[0].users == 2


def test_message_is_sent_once_to_each_other_device(lounge):
    lounge.enter(ALICE, OTHER, BOB)
    lounge.now = 2.5
    (received,) = lounge.say(ALICE, "1", "hi")
    assert sorted(lounge.pushed) == [("alice", "d1", "hi"), ("bob", "d0", "hi")]
    (one,) = lounge.committed
    assert received == frames.Received("1", one.seq)
    assert (one.conversation_id, one.id, one.sender, one.to) == (LOUNGE, f"{LOUNGE}:{one.seq}", "alice", "lounge")
    assert (one.scene, one.time) == (Scene.CHATROOM, 1_002_500)
    lounge.say(BOB, "1")
    assert lounge.committed[0].seq == one.seq + 1


def test_repeated_send_is_answered_but_not_sent_again(lounge):
    lounge.enter(ALICE, BOB)
    first = lounge.say(ALICE, "1")
    assert lounge.say(ALICE, "1") == first
    assert (lounge.pushed, lounge.committed) == ([], [])
    assert codes(lounge.say(ALICE, "1", "other")) == [("1", Code.CONFLICT)]
    assert (lounge.pushed, lounge.committed) == ([], [])
    lounge.say(BOB, "1")
    assert len(lounge.pushed) == 1
    for number in range(2, _REMEMBERED + 1):
        lounge.say(ALICE, str(number))
    lounge.say(ALICE, "2")
    assert lounge.pushed == []
    lounge.say(ALICE, "1")  # the room has forgotten the first one
    assert len(lounge.pushed) == 1


def test_send_of_a_device_outside_the_room_is_refused(lounge):
    assert codes(lounge.say(ALICE, "1")) == [("1", Code.NOT_MEMBER)]
    lounge.enter(ALICE)
    assert codes(lounge.say(OTHER, "1")) == [("1", Code.NOT_MEMBER)]
    assert codes(lounge.say(session("alice", epoch=9), "1")) == [("1", Code.NOT_MEMBER)]
    assert lounge.leave(BOB) == [frames.Done("leave", "lounge")]
    assert lounge.leave(OTHER) == [frames.Done("leave", "lounge")]
    assert codes(lounge.say(ALICE, "2")) == []


def test_empty_room_is_forgotten(lounge):
    lounge.enter(ALICE, OTHER)
    lounge.leave(ALICE)
    assert set(lounge.machine._rooms[LOUNGE].sessions) == {"g1"}
    lounge.leave(OTHER)
    lounge.leave(OTHER)
    assert lounge.machine._rooms == {}


def test_seqs_grow_after_a_room_was_empty(lounge):
    lounge.enter(ALICE)
    lounge.say(ALICE, "1")
    before = lounge.committed[0].seq
    lounge.leave(ALICE)
    lounge.now = 0.001
    lounge.enter(ALICE)
    lounge.say(ALICE, "2")
    assert lounge.committed[0].seq > before


def test_full_room_accepts_devices_of_its_users_only():
    lounge = Lounge(room_size=1)
    lounge.enter(ALICE)
    assert codes(lounge.enter(BOB)) == [("lounge", Code.TOO_LARGE)]
    other = session("bob", gateway="g9")
    assert codes(lounge.enter(other)) == [("lounge", Code.TOO_LARGE)]
    assert set(lounge.machine._rooms[LOUNGE].sessions) == {"g0"}
    assert lounge.enter(OTHER)[0].users == 1
    lounge.leave(OTHER)
    lounge.leave(ALICE)
    assert lounge.enter(BOB)[0].users == 1


def test_lost_gateway_removes_its_sessions_from_the_rooms(lounge):
    lounge.enter(ALICE, OTHER, BOB)
    lounge.machine.gateway_lost("g0")
    lounge.machine.gateway_lost("g7")
    assert lounge.enter(CAROL)[0].users == 2
    lounge.leave(CAROL)
    lounge.machine.gateway_lost("g1")
    assert lounge.machine._rooms == {}


def amend(lounge, one, id_client, event, **data):
    return lounge.up(one, change(id_client, event, by=one.user, scene=Scene.CHATROOM, to="lounge", **data))


def test_recall_reaches_the_room_and_changes_its_recent_messages(lounge):
    lounge.enter(ALICE, BOB)
    (said,) = lounge.say(ALICE, "1", "oops")
    amend(lounge, ALICE, "2", "edit", seq=said.seq, content="draft")
    (recalled,) = amend(lounge, ALICE, "3", "recall", seq=said.seq)
    assert isinstance(recalled, frames.Received)
    assert lounge.pushed == [("bob", "d0", "")]
    assert amend(lounge, ALICE, "3", "recall", seq=said.seq) == [recalled]
    assert lounge.pushed == []
    assert codes(amend(lounge, ALICE, "4", "recall", seq=said.seq)) == [("4", Code.CONFLICT)]
    (entered,) = lounge.enter(CAROL, recent=9)
    assert [message.recalled for message in entered.messages] == [True, True, False]
    assert "draft" not in str(entered)
    assert "oops" not in str(entered)


def test_forgotten_message_cannot_be_edited(lounge):
    lounge.enter(ALICE)
    (said,) = lounge.say(ALICE, "0")
    for number in range(1, _REMEMBERED):
        lounge.say(ALICE, str(number))
    assert codes(amend(lounge, ALICE, "r1", "recall", seq=said.seq)) == []
    assert codes(amend(lounge, ALICE, "r2", "edit", seq=said.seq, content="x")) == [("r2", Code.BAD_REQUEST)]
    room = lounge.machine._rooms[LOUNGE]
    assert len(room.messages) == len(room.seqs) == _REMEMBERED


def test_seqs_grow_if_a_room_ends_and_begins_at_the_same_moment(lounge):
    seqs = []
    for number in range(3):
        lounge.enter(ALICE)
        lounge.say(ALICE, f"{number}")
        seqs += [message.seq for message in lounge.committed]
        lounge.leave(ALICE)
    assert len(seqs) == 3
    assert seqs == sorted(set(seqs))
