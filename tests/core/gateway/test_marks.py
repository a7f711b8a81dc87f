"""The delivered marks that a gateway passes on to the router of their user."""

from __future__ import annotations

from core.builders import AB, Access

from imsim.core import frames
from imsim.core.limits import CURSORS
from imsim.core.model import Code


def marks(access):
    """Return (conversation, seq) of the marks passed on, and clear the record."""
    sent = [arguments[1].frame for method, arguments in access.port.take() if method == "to_router"]
    return [(frame.conversation_id, frame.seq) for frame in sent]


def test_marks_beyond_the_rate_wait_and_only_the_latest_of_each_conversation_is_passed_on():
    access = Access(user_rate=0.5, user_burst=1, receipts="delivered")
    access.live()
    for conversation, seq in ((AB, 1), (AB, 2), ("p2p:alice:carol", 7), (AB, 5), (AB, 4)):
        access.receive(frames.Delivered(conversation, seq))
    assert marks(access) == [(AB, 1)]
    access.advance(2.1)
    assert marks(access) == [(AB, 5)]
    access.receive(frames.Delivered(AB, 6))
    access.advance(10.0)
    assert marks(access) == [("p2p:alice:carol", 7), (AB, 6)]
    access.receive(frames.Delivered(AB, 8))
    access.receive(frames.Delivered(AB, 9))
    assert marks(access) == [(AB, 8)]
    access.machine.disconnected(1, access.clock.now)
    access.port.take()
    access.advance(10.0)
    assert marks(access) == []


def test_gateway_closes_a_connection_with_marks_in_too_many_conversations():
    access = Access(user_rate=0.01, user_burst=1, receipts="delivered")
    access.live()
    for number in range(CURSORS + 1):
        access.receive(frames.Delivered(f"p2p:alice:{number}", 1))
    access.port.take()
    access.receive(frames.Delivered("p2p:alice:one", 1))
    assert [frame.code for _, frame in access.sent()] == [Code.BAD_REQUEST]


def test_an_acknowledgement_with_too_long_a_conversation_id_is_dropped():
    access = Access(receipts="delivered", user_rate=0.001, user_burst=1)
    access.live()
    access.receive(frames.Delivered(AB, 1))
    assert marks(access) == [(AB, 1)]
    access.receive(frames.Delivered("p2p:" + "x" * 1_000, 1))
    assert access.machine.held_marks == 0
