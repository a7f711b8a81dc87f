"""The tables of spans (where the time of a delivery went) and of nodes (how busy they were) of a traced run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.results.schema import NODES, SPANS

if TYPE_CHECKING:
    from imsim.scenario import Plan

#: The kinds of spans.
KINDS = (
    "offline",  # the device was not logged in
    "link",  # on a link: sending and latency
    "link_queue",  # waiting for earlier frames on the link
    "retransmit",  # lost on the link and sent again
    "queue",  # waiting for a worker
    "service",  # processed by a worker
    "retry",  # waiting for a repetition, because no answer arrived
    "hold",  # held back: by its turn in the log, a stall or a missing message before it, or until it is requested
)


def span_table(
    plan: Plan,
    shown: NDArray[np.int64],
    spans: NDArray[np.int64],
    ends: NDArray[np.float64],
    names: Sequence[str],
    deliveries: pa.Table,
) -> pa.Table:
    """Return the table of the spans of these deliveries.

    shown: rows (intent, device, last span, time in ns) in any order; device is the global device number.
    spans: rows (parent, kind, where, op). Each span begins where its parent ends. A parent precedes its child in the
        array; the parent of a first span is 0. kind is an index into KINDS; where and op are indexes into `names`.
    ends: the end of each span, in seconds.
    """
    per_user = len(plan.devices)
    due = np.asarray(deliveries["intent"]) * len(plan.users) * per_user
    due += _numbers(deliveries["recipient"], plan.users) * per_user + _numbers(deliveries["device"], plan.devices)
    key = shown[:, 0] * len(plan.users) * per_user + shown[:, 1]
    order = np.argsort(key)
    intent, device, last, shown_at = shown[order[np.isin(key[order], due)]].T
    chain, delivery = _chains(spans[:, 0], last)
    since = np.asarray(plan.at, np.int64)[intent[delivery]]
    end = np.clip(np.rint(ends * 1e9).astype(np.int64)[chain], since, shown_at[delivery])
    is_first = np.diff(delivery, prepend=-1) > 0
    start = np.where(is_first, since, np.roll(end, 1))
    lasts = end > start
    chain, delivery, start, end = chain[lasts], delivery[lasts], start[lasts], end[lasts]
    number = np.arange(len(delivery)) - np.searchsorted(delivery, delivery)
    _, kind, where, op = spans[chain].T
    columns = [
        pa.array(intent[delivery]),
        _named(device[delivery] // per_user, plan.users),
        _named(device[delivery] % per_user, plan.devices),
        pa.array(number, pa.int32()),
        _named(kind, KINDS),
        _named(where, names),
        _named(op, names),
        pa.array(start),
        pa.array(end),
    ]
    return pa.table(columns, schema=SPANS)


def _chains(parents: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the spans that lead to each span of `last`, in order, and for each of them its position in `last`."""
    lengths, span = np.zeros(len(last), np.int64), last
    while span.any():
        lengths += span > 0
        span = parents[span]
    position = np.cumsum(lengths) - 1  # where the last span of each chain belongs; earlier ones go before it
    chain, left = np.empty(lengths.sum(), np.int64), last > 0
    position, span = position[left], last[left]
    while len(span):
        chain[position] = span
        position, span = position - 1, parents[span]
        position, span = position[span > 0], span[span > 0]
    return chain, np.repeat(np.arange(len(last)), lengths)


def node_table(columns: Iterable[Iterable[object]]) -> pa.Table:
    """Return the table of nodes from its columns, which have the order of schema.NODES."""
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, NODES, strict=True)]
    return pa.table(arrays, schema=NODES)


def _numbers(names: pa.ChunkedArray, known: Sequence[str]) -> NDArray[np.int64]:
    position = {name: number for number, name in enumerate(known)}
    return np.array([position[name] for name in names.to_pylist()], np.int64)


def _named(numbers: NDArray[np.int64], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(list(names), pa.string()))
