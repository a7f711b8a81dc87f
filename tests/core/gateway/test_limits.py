"""How often a user may ask for something, and how many requests of a connection may be under way."""

from __future__ import annotations

import pytest
from core.builders import AB, Access, send

from imsim.core import frames, internal_frames
from imsim.core.gateway.connection import CHANGES, READS
from imsim.core.limits import CURSORS
from imsim.core.model import Code

REQUESTS = [
    frames.Read(AB, 1, 7),
    frames.SetConversation(AB, pinned=True, number=8),
    frames.History(AB, 1, 2),
    frames.ReadCount(AB, 1),
    frames.Enter("lounge"),
    frames.Leave("lounge"),
    frames.EndSession("d1"),
]

READ = [frames.History(AB, 1, 2, 5), frames.ReadCount(AB, 1, 5), frames.Sync({AB: 1}, number=5)]


ANSWERS = [
    frames.HistoryPage(AB, 1, 2, [], number=5),
    frames.ReadCounted(AB, 1, 0, 1, 5),
    frames.SyncDone([], {}, [], 0, number=5),
    frames.Page([], {}, number=5),
    frames.Rejected("history", f"{AB}:1-2", Code.UNAVAILABLE, number=5),
]


def passed_on(access):
    return sum(method == "to_router" for method, _ in access.port.take())


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda frame: frame.op)
def test_every_request_counts_for_the_rate_and_is_refused_with_its_number(request_):
    access = Access(user_rate=0.5, user_burst=1)
    access.live()
    access.receive(request_)
    assert [method for method, _ in access.port.take()] == ["to_router"]
    access.receive(request_)
    ((_, frame),) = access.sent()
    assert (frame.request, frame.ref, frame.number) == (request_.op, request_.ref, request_.number)
    assert (frame.code, frame.retry_after, frame.text) == (Code.RATE_LIMITED, 2.0, "more than 0.5 requests a second")


def test_syncs_have_a_limit_of_their_own_and_acknowledge_all_the_same():
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
    assert access.sent() == []  # no resync comes again


def test_while_typing_is_off_nothing_is_kept_of_the_users_who_type():
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


@pytest.mark.parametrize("frame", READ, ids=lambda frame: frame.op)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda frame: frame.op)
def test_the_reads_under_way_of_a_connection_are_bounded(access, frame, answer):
    one = access.live()
    for _ in range(READS):
        access.receive(frame)
    assert passed_on(access) == READS
    access.receive(frame)
    ((to, rejected),) = access.sent()
    assert (to, rejected.request, rejected.ref, rejected.number) == (1, frame.op, frame.ref, 5)
    assert (rejected.code, rejected.retry_after) == (Code.RATE_LIMITED, 1.0)
    access.from_router(internal_frames.Down((one,), answer))
    access.port.take()
    access.receive(frame)
    access.receive(frame)
    assert passed_on(access) == 1


def test_only_an_answer_to_a_read_makes_room_for_another_read(access):
    one = access.live()
    for _ in range(READS):
        access.receive(READ[0])
    access.push(one)
    for frame in (frames.Done("read", AB), frames.Rejected("read", AB, Code.UNAVAILABLE)):
        access.from_router(internal_frames.Down((one,), frame))
    access.port.take()
    access.receive(frames.Read(AB, 1))
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_a_read_whose_answer_was_lost_does_not_count_for_ever(access):
    access.live()
    for _ in range(READS):
        access.receive(READ[0])
    access.advance(access.policies.storage_timeout)
    access.port.take()
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_changes_under_way_are_bounded_apart_from_reads(access):
    one = access.live()
    changes = [frames.Read(AB, 1, 5), frames.SetConversation(AB, pinned=True, number=5), frames.EndSession("d1", 5)]
    for at in range(CHANGES):
        access.receive(changes[at % 3])
    assert passed_on(access) == CHANGES
    for frame in changes:
        access.receive(frame)
        ((_, rejected),) = access.sent()
        assert (rejected.request, rejected.code, rejected.number) == (frame.op, Code.RATE_LIMITED, 5)
    access.receive(frames.History(AB, 1, 2))
    assert passed_on(access) == 1
    for answer in (frames.Done("read", AB, 5), frames.Rejected("set_conversation", AB, Code.UNAVAILABLE, number=5)):
        access.from_router(internal_frames.Down((one,), answer))
        access.port.take()
        access.receive(changes[0])
        assert passed_on(access) == 1
    access.advance(access.policies.storage_timeout)
    access.port.take()
    access.receive(changes[0])
    assert passed_on(access) == 1
