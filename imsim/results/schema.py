"""The tables of a run: their columns, types and possible values.

All times are int64 nanoseconds from the start of the run. A time is null if something did not happen or could not be
known. Durations are not stored: they are differences of times. The Arrow types are the contract; in pandas, the columns
are nullable integers and plain strings.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

from imsim.core.model import Route, Scene

VERSION = 3
"""The version of the schema. It is raised when a column or its meaning changes; other versions are refused."""


class World(StrEnum):
    """The two kinds of runs: simulated and live."""

    SIM = "sim"
    LIVE = "live"


class Outcome(StrEnum):
    """How an intended message ended."""

    STORED = "stored"  # by storage; in a chatroom, which stores nothing: accepted by the chatroom
    REJECTED = "rejected"  # permanently refused by the server
    UNKNOWN = "unknown"  # sent, but without an answer that tells whether it is stored
    UNSENT = "unsent"  # the run ended before the device sent it, or the tester had withdrawn the device


class DeliveryOutcome(StrEnum):
    """How the delivery of a message to one device ended.

    The first value that applies is used. Only delivered and lost deliveries count in latencies.
    """

    DELIVERED = "delivered"
    SHED = "shed"  # left out on purpose, in chatrooms only; lost in a live run, whose clients do not know the reason
    RECALLED = "recalled"  # recalled by its sender before the device showed it
    # Not delivered, because the device, or the sender's device with the message, was offline or withdrawn, or because
    # the server does not offer such deliveries.
    ABSENT = "absent"
    LOST = "lost"  # not delivered when the run ended, for none of the reasons above


class Role(StrEnum):
    """The owner of the receiving device: another member of the conversation, or the sender (another own device)."""

    RECIPIENT = "recipient"
    OWN = "own"


_STRING = pa.dictionary(pa.int32(), pa.string())


def _always(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MESSAGES = pa.schema(
    [
        _always("intent", pa.int64()),  # number of the message in the workload, the same in every world
        _always("sender", _STRING),
        _always("device", _STRING),
        _always("conversation", _STRING),
        _always("scene", _STRING),
        _always("type", _STRING),
        _always("size", pa.int32()),  # bytes of the content, of custom, or of the attachment's file
        _always("intended_at", pa.int64()),
        pa.field("sent_at", pa.int64()),  # the first attempt
        pa.field("stored_at", pa.int64()),  # server time, null in a live run; in a chatroom, when it was accepted
        pa.field("received_at", pa.int64()),  # the sender learned that the router has it (before it is stored)
        pa.field("acked_at", pa.int64()),  # the sender learned that it is stored (in a chatroom: accepted)
        _always("attempts", pa.int32()),
        _always("outcome", _STRING),
        pa.field("error", _STRING),  # the code of a failure that was not corrected
    ]
)
"""The columns of messages: one row for each intended message, ordered by intent."""

SPANS = pa.schema(
    [
        _always("intent", pa.int64()),
        _always("recipient", _STRING),
        _always("device", _STRING),
        _always("number", pa.int32()),  # from 0
        _always("kind", _STRING),  # see imsim.results.spans.KINDS
        _always("where", _STRING),  # a node (router0), a link (uplink, gateway-router), or client
        _always("op", _STRING),  # the operation, or an empty text
        _always("start", pa.int64()),
        _always("end", pa.int64()),
    ]
)
"""The columns of spans, which show where the time of each delivery went. The first span of a delivery begins at
intended_at, each other one where the previous one ended; the last one ends at delivered_at. Spans are ordered like
their deliveries, then by number."""

NODES = pa.schema(
    [
        _always("node", _STRING),
        _always("tier", _STRING),
        _always("at", pa.int64()),  # start of the bucket
        _always("busy", pa.float64()),  # share of the workers' time, 0 to 1
        _always("queue", pa.float64()),  # mean number of waiting jobs
        _always("jobs", pa.int64()),  # accepted jobs
        _always("drops", pa.int64()),
    ]
)
"""The columns of nodes, which show how busy they were: one row for each node and time bucket."""

DELIVERIES = pa.schema(
    [
        _always("intent", pa.int64()),
        _always("recipient", _STRING),
        _always("device", _STRING),
        _always("role", _STRING),
        pa.field("route", _STRING),  # null until delivered
        pa.field("pushed_at", pa.int64()),  # server time of the first push; null in a live run
        pa.field("delivered_at", pa.int64()),
        pa.field("read_at", pa.int64()),
        pa.field("attempts", pa.int32()),  # number of pushes; null in a live run
        _always("duplicates", pa.int32()),
        _always("outcome", _STRING),
    ]
)
"""The columns of deliveries: one row for each message that was not rejected and each device that is entitled to it by
membership. So a lost delivery is a row, not a missing row. Ordered by intent, then by the recipient's position in the
population, then by device."""

WITHDRAWALS = pa.schema(
    [
        _always("user", _STRING),
        _always("device", _STRING),
        _always("since", pa.int64()),
        pa.field("until", pa.int64()),  # null if the device did not return
    ]
)
"""The columns of withdrawals: the periods in which the tester had taken devices out of a live run, for example by
lowering the number of users. Ordered by user, then by device, then by time."""

TABLES = {
    "messages": MESSAGES,
    "deliveries": DELIVERIES,
    "spans": SPANS,
    "nodes": NODES,
    "withdrawals": WITHDRAWALS,
}
"""The tables of a run by name, which is also the name of the Parquet file."""

OPTIONAL = ("spans", "nodes", "withdrawals")
"""The tables that only some runs have."""

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"scene": tuple(Scene), "outcome": tuple(Outcome)},
    "deliveries": {"role": tuple(Role), "route": tuple(Route), "outcome": tuple(DeliveryOutcome)},
}
"""By table, the columns with a fixed set of values. A file with another value is refused."""
