"""The limits on the unanswered requests of a connection."""

from __future__ import annotations

import pytest
from core.builders import AB

from imsim.core import frames, internal_frames
from imsim.core.gateway.connection import CHANGES, READS
from imsim.core.model import Code

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


def test_only_the_answer_to_a_read_makes_room_for_another_read(access):
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


def test_a_read_whose_answer_was_lost_stops_counting_after_the_storage_timeout(access):
    access.live()
    for _ in range(READS):
        access.receive(READ[0])
    access.advance(access.policies.storage_timeout)
    access.port.take()
    access.receive(READ[0])
    assert passed_on(access) == 1


def test_changes_under_way_have_a_separate_bound(access):
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
