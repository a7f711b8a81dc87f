"""The rate limits of users, and the limit on cursors."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, Access, send, session

from imsim.core import frames, internal_frames
from imsim.core.limits import CURSORS
from imsim.core.model import Code
from imsim.core.policies import Policies

REQUESTS = [
    frames.Read(AB, 1, 7),
    frames.SetConversation(AB, pinned=True, number=8),
    frames.History(AB, 1, 2),
    frames.ReadCount(AB, 1),
    frames.Group(TEAM, number=9),
    frames.Friends(number=10),
    frames.Enter("lounge"),
    frames.Leave("lounge"),
    frames.EndSession("d1"),
]

# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda frame: frame.op)
def test_every_request_is_rate_limited_and_rejected_with_its_number(request_):
    access = Access(user_rate=0.5, user_burst=1)
    access.live()
    access.receive(request_)
    assert [method for method, _ in access.port.take()] == ["to_router"]
    access.receive(request_)
    ((_, frame),) = access.sent()
    assert (frame.request, frame.ref, frame.number) == (request_.op, request_.ref, request_.number)
    assert (frame.code, frame.retry_after, frame.text) == (Code.RATE_LIMITED, 2.0, "more than 0.5 requests a second")


def test_syncs_have_a_separate_rate_limit_and_a_rejected_sync_still_acknowledges():
    access = Access(user_rate=0.5, user_burst=1)
    one = access.live()
    access.receive(send("1"))
    access.receive(frames.Sync({}, number=1))
    access.from_router(internal_frames.Down((one,), frames.Resync()))
    access.port.take()
    access.receive(frames.Sync({}, number=2, resync=1))
    ((method, (_, frame)),) = access.port.take()
    assert (method, frame.request, frame.number, frame.code) == ("send", "sync", 2, Code.RATE_LIMITED)
    assert (frame.retry_after, frame.text) == (2.0, "more than 0.5 syncs a second")
    access.advance(10.0)
    assert access.sent() == []  # the resync is not repeated


def test_gateway_keeps_no_buckets_while_typing_is_off():
    access = Access(typing_rate=0.0)
    access.live()
    access.receive(frames.Typing(AB))
    assert len(access.machine._typing_rates) == 0


def test_the_cursors_of_a_sync_are_bounded(access):
    access.live()
    cursors = {f"p2p:alice:{number}": 1 for number in range(CURSORS)}
    access.receive(frames.Sync(cursors))
    assert [method for method, _ in access.port.take()] == ["to_router"]
    access.receive(frames.Sync({**cursors, "group:one": 1}, number=3))
    ((_, frame),) = access.sent()
    assert (frame.request, frame.number, frame.code) == ("sync", 3, Code.BAD_REQUEST)


def test_a_sync_with_a_negative_newest_is_rejected(access):
    access.live()
    access.receive(frames.Sync(newest=-1, number=2))
    ((_, frame),) = access.sent()
    assert (frame.request, frame.number, frame.code) == ("sync", 2, Code.BAD_REQUEST)
    assert frame.text == "newest: expected 0 or more, got -1"


def test_a_login_reports_the_limits_of_the_gateway():
    access = Access(page=7, edit_window=3.0)
    access.connect()
    access.receive(frames.Login("token", "d0"))
    access.machine.authenticated(1, "bob", None, access.clock.now)
    access.from_router(internal_frames.Attached(1, session("bob", "d0", 1, "g7", 1)))
    (frame,) = [frame for _, frame in access.sent() if isinstance(frame, frames.LoggedIn)]
    assert (frame.limits.page, frame.windows.edit) == (7, 3.0)
    assert frames.LoggedIn("alice", "d0", 0, 1.0).limits == frames.Limits.of(Policies())


def test_send_that_has_waited_too_long_is_refused_and_so_is_what_follows_it():
    access = Access(longest_wait=0.5)
    access.live()
    access.port.wait_time = 0.6
    access.receive(send("1"))
    access.port.wait_time = 0.0
    access.advance(0.2)
    access.receive(send("2", to="carol"))
    found = [(frame.ref, frame.code, round(frame.retry_after, 3)) for _, frame in access.sent()]
    assert found == [("1", Code.BUSY, 0.5), ("2", Code.BUSY, 0.3)]
    access.advance(0.3)
    access.receive(send("1"))
    assert [frame.id_client for frame, _ in access.ups()] == ["1"]


def test_router_that_is_busy_gets_the_same_retry_times_from_the_gateway():
    access = Access(longest_wait=0.5)
    one, two = access.live(1, "bob"), access.live(2, "carol")
    for refused in (one, two):
        rejected = frames.Rejected("send", "1", Code.BUSY)
        access.from_router(internal_frames.Down((refused,), rejected))
    times = [frame.retry_after for _, frame in access.sent()]
    assert times[0] == 0.5
    assert times[1] > 0.5
    assert rejected.retry_after == 0.0  # frames are not changed
