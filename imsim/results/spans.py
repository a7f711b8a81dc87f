"""Where the time went, and how busy the nodes were, as tables: from the numbers that a traced run leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.results.schema import NODES, SPANS

if TYPE_CHECKING:
    from imsim.scenario import Plan

#: What a span can be.
KINDS = (
    "offline",  # the device was not logged in, or not yet
    "link",  # on its way over a link: sending and latency
    "link_queue",  # waiting for frames before it on the link
    "retransmit",  # lost on the way, and sent again
    "queue",  # waiting for a worker
    "service",  # being worked at
    "retry",  # until it was sent or pushed again, for want of an answer
    "hold",  # kept by somebody: its turn in the log, a stall, a gap before it, until somebody asks for it
)


def span_table(plan: Plan, rows: NDArray[np.int64], names: Sequence[str], deliveries: pa.Table) -> pa.Table:
    """The spans of these deliveries. Rows, in any order: (intent, device, number, kind, where, op, start, end); device
    is the global device number, kind an index into KINDS, where and op are indexes into `names`."""
    per_user = len(plan.devices)
    due = np.asarray(deliveries["intent"]) * len(plan.users) * per_user
    due += _numbers(deliveries["recipient"], plan.users) * per_user + _numbers(deliveries["device"], plan.devices)
    rows = rows[np.isin(rows[:, 0] * len(plan.users) * per_user + rows[:, 1], due)]
    intent, device, number, kind, where, op, start, end = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))].T
    columns = [
        pa.array(intent),
        _named(device // per_user, plan.users),
        _named(device % per_user, plan.devices),
        pa.array(number, pa.int32()),
        _named(kind, KINDS),
        _named(where, names),
        _named(op, names),
        pa.array(start),
        pa.array(end),
    ]
    return pa.table(columns, schema=SPANS)


def node_table(columns: Iterable[Iterable[object]]) -> pa.Table:
    """The series of the nodes, column by column as in schema.NODES."""
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, NODES, strict=True)]
    return pa.table(arrays, schema=NODES)


def _numbers(names: pa.ChunkedArray, known: Sequence[str]) -> NDArray[np.int64]:
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in names.to_pylist()], np.int64)


def _named(numbers: NDArray[np.int64], names: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(list(names), pa.string()))
