"""Conversions between numpy arrays and columns of Arrow tables, without pandas.

pyarrow's own conversions (`pa.array`, `np.asarray`) import pandas, which costs half a second and 45 MiB. A run that
does not use pandas avoids this cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def column(values: NDArray[Any], kind: pa.DataType, is_null: NDArray[np.bool_] | None = None) -> pa.Array:
    """Return a column of numbers of the type `kind`. It is null where `is_null` is true."""
    valid = None if is_null is None else pa.py_buffer(np.packbits(~is_null, bitorder="little"))
    data = pa.py_buffer(np.ascontiguousarray(values, kind.to_pandas_dtype()))
    return pa.Array.from_buffers(kind, len(values), [valid, data])


def texts(values: Sequence[str]) -> pa.Array:
    """Return a column of texts."""
    data = [value.encode() for value in values]
    ends = np.fromiter(accumulate(map(len, data), initial=0), np.int32, len(data) + 1)
    return pa.Array.from_buffers(pa.string(), len(data), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data))])


def integers(column: pa.Array, missing: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the integers of a column, with `missing` for null, and an array that is true where they are not null."""
    column = column.cast(pa.int64())
    first, end = column.offset, column.offset + len(column)
    validity, data = column.buffers()
    values = np.frombuffer(data or b"", np.int64)[first:end].copy()
    is_valid = np.ones(len(column), np.bool_)
    if validity is not None:
        is_valid[:] = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[first:end]
        values[~is_valid] = missing
    return values, is_valid
