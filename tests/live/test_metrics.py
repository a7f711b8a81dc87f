"""Tests of the server's counts."""

from __future__ import annotations

from collections import deque

import pytest

from imsim.core import events, frames
from imsim.core.model import Code, Message, Session
from imsim.live.metrics import BOUNDS, CLIENT_LEFT, INVALID_OP, NO_FILES, Histogram, Metrics, quantile


class Peer:
    """The parts of a connection that metrics use."""

    def __init__(self, *, is_newcomer: bool) -> None:
        self.is_newcomer = is_newcomer
        self.end = ""


def test_histogram_sorts_recent_durations_into_buckets():
    histogram = Histogram()
    histogram.recent.extend([0.0, 0.0005, 0.0006, 10.0, 11.0])
    assert sum(histogram.counts) == 0
    histogram.sort()
    histogram.sort()
    assert histogram.counts == [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1]
    assert histogram.sum == pytest.approx(21.0011)


def test_histogram_takes_durations_from_a_queue_of_the_core():
    times = deque([0.3])
    histogram = Histogram(times)
    histogram.sort()
    assert (sum(histogram.counts), list(times)) == (1, [])


@pytest.mark.parametrize(
    ("durations", "share", "found"),
    [
        ([], 0.99, None),
        ([0.0005] * 100, 0.5, 0.00025),
        ([0.04] * 99 + [0.2], 0.99, 0.05),
        ([0.04] * 99 + [0.2], 1.0, 0.25),
        ([60.0], 0.99, BOUNDS[-1]),
    ],
)
def test_quantile_interpolates_within_a_bucket(durations, share, found):
    histogram = Histogram()
    histogram.recent.extend(durations)
    histogram.sort()
    assert quantile(histogram.counts, share) == (found if found is None else pytest.approx(found))


def test_every_op_and_code_has_a_count_in_advance():
    metrics = Metrics()
    assert {"login", "send", "delivered", INVALID_OP} <= metrics.received.keys()
    assert {"logged_in", "push", "stored", "refused"} <= metrics.sent.keys()
    assert {code.value for code in Code} <= metrics.rejected.keys() & metrics.disconnects.keys() & metrics.logins.keys()


def test_op_that_a_client_invents_is_counted_as_invalid():
    metrics = Metrics()
    labels = set(metrics.received)
    for op in ("send", "fly", "op\n2", ""):
        metrics.invalid_received(op)
    assert metrics.received.keys() == labels
    assert (metrics.received["send"], metrics.received[INVALID_OP]) == (1, 3)


def test_refusal_counts_as_a_failed_login_only_before_the_login():
    metrics = Metrics()
    for is_newcomer in (True, False):
        peer = Peer(is_newcomer=is_newcomer)
        metrics.note(peer, frames.Refused(Code.UNAVAILABLE, reconnect=True))
        metrics.connection_lost(peer)
    metrics.connection_lost(Peer(is_newcomer=False))
    assert metrics.logins["unavailable"] == 1
    assert (metrics.disconnects["unavailable"], metrics.disconnects[CLIENT_LEFT]) == (2, 1)


def test_connection_that_makes_room_for_another_has_a_reason_of_its_own():
    metrics = Metrics()
    peer = Peer(is_newcomer=True)
    metrics.dropped(peer)
    metrics.connection_lost(peer)
    assert (metrics.disconnects[NO_FILES], metrics.disconnects[CLIENT_LEFT]) == (1, 0)


def test_events_of_chatrooms_and_repeated_pushes_are_counted():
    metrics = Metrics()
    session = Session("bob", "phone", 1, "gateway0", 1)
    message = Message("chatroom:lounge", 1, "chatroom:lounge:1", "a-1", "chatroom", "text", "alice", "lounge", 0, "x")
    metrics.event(events.Committed(message))
    metrics.event(events.Shed(session, message))
    metrics.event(events.Pushed(session, message, 2))
    assert (metrics.chatroom_messages, metrics.shed, metrics.repeated_pushes) == (1, 1, 1)


def test_tokens_are_counted_from_the_answers_to_token_requests():
    metrics = Metrics()
    for path, status in (("/token", 200), ("/token", 401), ("/token", 200), ("/healthz", 200)):
        metrics.answered(path, status)
    assert metrics.tokens_issued == 2
    assert metrics.http == {("/token", 200): 2, ("/token", 401): 1, ("/healthz", 200): 1}
