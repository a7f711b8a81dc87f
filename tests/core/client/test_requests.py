"""The requests of a client: they are repeated until answered, and newer ones replace older ones."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM

from imsim.core import frames
from imsim.core.client.requests import Requests
from imsim.core.policies import Policies
from imsim.core.timers import Timers


class Asking:
    """The requests of a client, with a manual clock and a record of the frames sent."""

    def __init__(self):
        self.timers = Timers()
        self.sent = []
        self.now = 0.0
        self.policies = Policies(send_timeout=5.0)
        self.requests = Requests(self)  # stands in for a connection

    def put(self, frame, now):
        self.sent.append(frame)

    def ask(self, frame):
        self.requests.ask(frame, self.now)

    def advance(self, seconds):
        end = self.now + seconds
        while (due := self.timers.next_deadline()) is not None and due <= end:
            self.now = due
            self.timers.handle(due)
        self.now = end

    def take(self):
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def asking():
    made = Asking()
    made.requests.logged_in(0.0)
    return made


END = frames.EndSession("d1", 1)  # with its number, as it is sent


def test_a_request_is_sent_at_once_and_repeated_until_it_is_answered(asking):
    asking.ask(END)
    assert asking.take() == [END]
    asking.advance(4.9)
    assert asking.take() == []
    asking.advance(10)
    assert asking.take() == [END, END]
    assert asking.requests.answered("end_session", "d1", 1)
    assert asking.timers.next_deadline() is None
    assert not asking.requests.answered("end_session", "d1", 1)


def test_an_answer_to_another_request_is_ignored(asking):
    asking.ask(END)
    assert not asking.requests.answered("end_session", "d2")
    assert not asking.requests.answered("create_group", "d1")
    assert asking.requests.is_waiting("end_session", "d1")


def test_requests_wait_for_the_login():
    asking = Asking()
    asking.ask(END)
    asking.advance(60)
    assert asking.take() == []
    asking.requests.logged_in(60.0)
    assert asking.take() == [END]
    asking.requests.lost()
    asking.advance(60)
    assert asking.take() == []
    assert asking.timers.next_deadline() is None
    asking.requests.logged_in(120.0)
    assert asking.take() == [END]


def test_a_newer_read_replaces_an_older_one(asking):
    asking.ask(frames.Read(AB, 3))
    asking.ask(frames.Read(TEAM, 1))
    asking.ask(frames.Read(AB, 5))
    assert asking.take() == [frames.Read(AB, 3, 1), frames.Read(TEAM, 1, 2), frames.Read(AB, 5, 3)]
    assert not asking.requests.answered("read", AB, 1)  # the answer to the older one
    asking.advance(5)
    assert asking.take() == [frames.Read(TEAM, 1, 2), frames.Read(AB, 5, 3)]
    assert asking.requests.answered("read", AB, 3)


def test_unanswered_settings_are_merged_and_newer_fields_count(asking):
    asking.ask(frames.SetConversation(AB, pinned=True, custom="a", hidden_seq=4))
    asking.ask(frames.SetConversation(AB, muted=True, custom="b", hidden_seq=3))
    asking.take()
    asking.advance(5)
    merged = frames.SetConversation(AB, True, True, 4, "b", 2)
    assert asking.take() == [merged]
    assert asking.requests.wanted(AB) == merged
    assert asking.requests.wanted(TEAM) is None
    assert not asking.requests.answered("set_conversation", AB, 1)
    assert asking.requests.answered("set_conversation", AB, 2)
    assert asking.requests.wanted(AB) is None
    asking.ask(frames.SetConversation(AB, pinned=False))
    assert asking.take() == [frames.SetConversation(AB, pinned=False, number=3)]


def test_a_late_answer_to_an_older_request_does_not_answer_a_newer_one(asking):
    """The late answer has the messages from before the newer request, which may be fewer than the range now has."""
    asking.ask(frames.History(AB, 5, 8))
    assert asking.requests.answered("history", f"{AB}:5-8", 1)
    asking.ask(frames.History(AB, 5, 8))
    assert not asking.requests.answered("history", f"{AB}:5-8", 1)
    assert asking.requests.answered("history", f"{AB}:5-8", 2)
