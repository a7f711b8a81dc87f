"""The digest of the rows of a run."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa

from imsim.results.columns import Words, integers
from imsim.results.schema import DELIVERIES, MESSAGES


class Rows(Protocol):
    """Rows in memory or in files, by column."""

    def count(self, table: str) -> int: ...
    def column(self, table: str, name: str) -> pa.ChunkedArray: ...


def digest(rows: Rows) -> str:
    """Return the SHA-256 (hex) of all cells of the messages and deliveries. Runs with equal digests have equal rows.

    The digest depends only on the names of the columns, the order of the rows, and the values. It does not depend on
    chunks, the order of dictionaries, the width of integers, the versions of Arrow and pandas, or the platform. The
    lengths of the parts are included, so different cells give different bytes. Only one column is in memory at a time.
    """
    sha = hashlib.sha256()
    for table, schema in (("messages", MESSAGES), ("deliveries", DELIVERIES)):
        sha.update(_int(len(schema)) + _int(rows.count(table)))
        for name in schema.names:
            sha.update(_text(name))
            for part in _canonical(rows.column(table, name)):
                sha.update(part)
    return sha.hexdigest()


def _canonical(cells: pa.ChunkedArray) -> list[bytes | memoryview]:
    if not (pa.types.is_dictionary(cells.type) or pa.types.is_string(cells.type)):
        values, is_valid = integers(cells, 0)
        return [b"i", is_valid.data, values.astype("<i8", copy=False).data]

    # Texts: the used values in their order, and the index of each row's value among them (-1 is null).
    words = Words(cells)
    used = sorted({words.texts[number] for number in np.unique(words.index) if number >= 0})
    index = {text: number for number, text in enumerate(used)}
    # The last entry is for null: the index -1 selects it.
    indices = np.array([*(index.get(text, -1) for text in words.texts), -1], "<i8")
    return [b"s", _int(len(used)), *map(_text, used), indices[words.index].data]


def _int(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return _int(len(data)) + data
