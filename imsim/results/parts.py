"""Parts of a run: the rows of some messages and deliveries, such as those to groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.core.exceptions import UsageError
from imsim.core.model import MessageType, Route, Scene
from imsim.results.columns import Words, column, integers
from imsim.results.files import RowFiles
from imsim.results.tables import Tables

#: The columns by which rows can be chosen: column -> its table, and its values if they are known.
_COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "scene": ("messages", tuple(map(str, Scene))),
    "type": ("messages", tuple(map(str, MessageType))),
    "conversation": ("messages", ()),
    "sender": ("messages", ()),
    "recipient": ("deliveries", ()),
    "route": ("deliveries", tuple(map(str, Route))),
}


def check_where(where: Mapping[str, str]) -> None:
    """Raise UsageError if `where` names an unknown column, or a value that it cannot have."""
    for name, value in where.items():
        if name not in _COLUMNS:
            raise UsageError(f"where.{name}: unknown column; known here: {', '.join(_COLUMNS)}")
        known = _COLUMNS[name][1]
        if known and value not in known:
            raise UsageError(f"where.{name}: expected one of {', '.join(known)}, got {value!r}")


def part_of(rows: Tables | RowFiles, where: Mapping[str, str]) -> Tables:
    """Return the rows of the messages, and of their deliveries, that have all these values."""
    check_where(where)
    tables = {name: rows.table(name) for name in ("messages", "deliveries")}
    for name, value in where.items():
        table = _COLUMNS[name][0]
        tables[table] = _rows(tables[table], Words(tables[table].column(name)).equal(value))
    intents = {name: integers(table.column("intent"), -1)[0] for name, table in tables.items()}
    is_of_part = np.isin(intents["deliveries"], intents["messages"])
    return Tables(tables["messages"], _rows(tables["deliveries"], is_of_part))


def _rows(table: pa.Table, is_chosen: NDArray[np.bool_]) -> pa.Table:
    return table.take(column(np.flatnonzero(is_chosen), pa.int64()))
