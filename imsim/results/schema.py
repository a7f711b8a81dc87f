"""The two tables of a run: their columns, types and vocabularies.

All times are int64 nanoseconds from the run's start, null where something did not happen or could not be known;
durations are always derived. Arrow types are the contract; pandas gets nullable integers and plain strings.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

from imsim.core.model import Route, Scene

VERSION = 3
"""Raised whenever a column or its meaning changes; a run folder of another version is refused."""


class World(StrEnum):
    SIM = "sim"
    LIVE = "live"


class Outcome(StrEnum):
    """How an intended message ended."""

    STORED = "stored"  # or, in a chatroom, which stores nothing: taken by the room
    REJECTED = "rejected"  # the server refused it for good
    UNKNOWN = "unknown"  # sent, but it is not known whether it is stored
    UNSENT = "unsent"  # the run ended before it ever left its device


class DeliveryOutcome(StrEnum):
    """How the delivery of a message to one device that it was due to ended. Each has one of them, the first that holds;
    only what is delivered or lost counts in latencies."""

    DELIVERED = "delivered"
    SHED = "shed"  # left out on purpose (chatrooms only); in a live run, whose clients cannot tell, it is lost
    RECALLED = "recalled"  # taken back by its sender before the device had shown it: never to be shown
    ABSENT = "absent"  # not there, and rightly so: the device, or the sender's with the message, was offline
    LOST = "lost"  # not there when the run ended, and due


class Role(StrEnum):
    """Whose device: another member's, or another one of the sender's own."""

    RECIPIENT = "recipient"
    OWN = "own"


_STRING = pa.dictionary(pa.int32(), pa.string())


def _always(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MESSAGES = pa.schema(
    [
        _always("intent", pa.int64()),  # from the workload: the same in every world
        _always("sender", _STRING),
        _always("device", _STRING),
        _always("conversation", _STRING),
        _always("scene", _STRING),
        _always("type", _STRING),
        _always("size", pa.int32()),  # bytes: of content, of custom, or of what the attachment points to
        _always("intended_at", pa.int64()),
        pa.field("sent_at", pa.int64()),  # the first attempt
        pa.field("stored_at", pa.int64()),  # server time: null in a live run; in a chatroom, when the room took it
        pa.field("received_at", pa.int64()),  # when the sender heard that the router has it, before it is stored
        pa.field("acked_at", pa.int64()),  # in a chatroom: when the sender knew that the room took it
        _always("attempts", pa.int32()),
        _always("outcome", _STRING),
        pa.field("error", _STRING),  # the code of a failure that was not corrected
    ]
)
"""One row per intended message, ordered by intent."""

SPANS = pa.schema(
    [
        _always("intent", pa.int64()),
        _always("recipient", _STRING),
        _always("device", _STRING),
        _always("number", pa.int32()),  # from 0
        _always("kind", _STRING),  # see imsim.results.spans.KINDS
        _always("where", _STRING),  # a node (router0), a link (uplink, gateway-router), or client
        _always("op", _STRING),  # the operation, where there is one
        _always("start", pa.int64()),
        _always("end", pa.int64()),
    ]
)
"""Where the time of each delivery went: one span begins where the one before it ended, the first at the message's
intended_at, and the last ends at delivered_at. Ordered as the deliveries are, then by number."""

NODES = pa.schema(
    [
        _always("node", _STRING),
        _always("tier", _STRING),
        _always("at", pa.int64()),  # where the bucket begins
        _always("busy", pa.float64()),  # share of the workers' time, 0 to 1
        _always("queue", pa.float64()),  # jobs that waited, on average
        _always("jobs", pa.int64()),  # taken on
        _always("drops", pa.int64()),
    ]
)
"""How busy the nodes were: one row per node and bucket of time."""

DELIVERIES = pa.schema(
    [
        _always("intent", pa.int64()),
        _always("recipient", _STRING),
        _always("device", _STRING),
        _always("role", _STRING),
        pa.field("route", _STRING),  # null until delivered
        pa.field("pushed_at", pa.int64()),  # server time, the first push: null in a live run
        pa.field("delivered_at", pa.int64()),
        pa.field("read_at", pa.int64()),
        pa.field("attempts", pa.int32()),  # pushes; null in a live run
        _always("duplicates", pa.int32()),
        _always("outcome", _STRING),
    ]
)
"""One row per stored message and device entitled to it by membership, so that a lost one is a row and not an absence.
Ordered by intent, then by the recipient's place in the population, then by device."""

MESSAGE_WORDS: dict[str, tuple[str, ...]] = {"scene": tuple(Scene), "outcome": tuple(Outcome)}
DELIVERY_WORDS: dict[str, tuple[str, ...]] = {
    "role": tuple(Role),
    "route": tuple(Route),
    "outcome": tuple(DeliveryOutcome),
}
"""The columns that have words of a vocabulary; a file with another word is refused."""
