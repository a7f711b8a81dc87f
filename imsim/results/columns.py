"""Conversions between numpy arrays and columns of Arrow tables, without pandas.

pyarrow's own conversions (`pa.array`, `np.asarray`) import pandas, which costs half a second and 45 MiB. A run that
does not use pandas avoids this cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_Integer = TypeVar("_Integer", np.int32, np.int64)


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


class Names:
    """The texts of columns that are given by numbers, for example the names of users."""

    def __init__(self, values: Sequence[str]) -> None:
        # Arrow requires a dictionary without repetitions; for example, conversations have only a few different scenes.
        position: dict[str, int] = {}
        index = [position.setdefault(str(value), len(position)) for value in values]
        self._index = None if len(position) == len(values) else np.array(index)
        self._texts = texts(list(position))

    def column(self, numbers: NDArray[np.integer]) -> pa.DictionaryArray:
        """Return the text of each number; null if the number is negative."""
        is_null = numbers < 0
        if self._index is not None:
            numbers = np.where(is_null, -1, self._index[numbers])
        names = self._texts
        if len(names) > len(numbers):  # a file would have all of them, used or not
            used, numbers = np.unique(numbers[~is_null], return_inverse=True)
            names = names.take(column(used, pa.int64()))
            if is_null.any():
                index = np.zeros(len(is_null), np.int64)
                index[~is_null] = numbers
                numbers = index
        return pa.DictionaryArray.from_arrays(column(numbers, pa.int32(), is_null), names)


def integers(column: pa.Array | pa.ChunkedArray, missing: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the integers of a column, with `missing` for null, and an array that is true where they are not null."""
    if pa.types.is_null(column.type):
        column = column.cast(pa.int64())
    values, is_valid = _integers(column.chunks if isinstance(column, pa.ChunkedArray) else [column], np.int64, missing)
    return values, np.ones(len(values), np.bool_) if is_valid is None else is_valid


def _integers(
    chunks: Sequence[pa.Array], kind: type[_Integer], missing: int
) -> tuple[NDArray[_Integer], NDArray[np.bool_] | None]:
    """Return the integers of chunks as a type, and where they are not null; None if none is null.

    A long column has a chunk for each part of its file. Each is copied once, into the result.
    """
    count = sum(map(len, chunks))
    values = np.empty(count, kind)
    is_valid = np.ones(count, np.bool_) if any(chunk.null_count for chunk in chunks) else None
    start = 0
    for chunk in chunks:
        first, end = chunk.offset, chunk.offset + len(chunk)
        validity, data = chunk.buffers()
        part = values[start : start + len(chunk)]
        part[:] = np.frombuffer(data or b"", chunk.type.to_pandas_dtype())[first:end]
        if is_valid is not None and validity is not None:
            bits = np.frombuffer(validity, np.uint8)[first // 8 : (end + 7) // 8]
            valid = np.unpackbits(bits, bitorder="little")[first % 8 :][: len(chunk)].astype(np.bool_)
            is_valid[start : start + len(chunk)] = valid
            part[~valid] = missing
        start += len(chunk)
    return values, is_valid


class Words:
    """A column of texts, as numbers of its different texts.

    index: the number of each row's text in `texts`; -1 for null.
    """

    def __init__(self, cells: pa.ChunkedArray) -> None:
        if pa.types.is_string(cells.type):
            cells = cells.dictionary_encode()
        chunks = cells.unify_dictionaries().chunks
        self.texts: list[str] = chunks[0].dictionary.to_pylist() if chunks else []
        self.index, _ = _integers([chunk.indices for chunk in chunks], np.int32, -1)

    def __len__(self) -> int:
        return len(self.index)

    def count(self, text: str) -> int:
        """Return the number of rows with this text."""
        return int(self.equal(text).sum())

    def equal(self, *texts: str) -> NDArray[np.bool_]:
        """Return whether each row has one of these texts."""
        # The last entry is for null: the index -1 selects it.
        found: NDArray[np.bool_] = np.array([*(text in texts for text in self.texts), False])[self.index]
        return found
