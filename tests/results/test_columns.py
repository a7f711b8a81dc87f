import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from imsim.results.columns import column, integers, texts

NULLS = np.array([False, True, False, True, False, False, False, True, False, True])


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64()])
@pytest.mark.parametrize("is_null", [None, NULLS])
def test_column_equals_array_of_arrow(kind, is_null):
    made = column(np.arange(10)[::-1], kind, is_null)
    made.validate(full=True)
    assert made.equals(pa.array(np.arange(10)[::-1], kind, mask=is_null))


@pytest.mark.parametrize("values", [[], ["a"], ["", "Zoë", "b"]])
def test_texts_equal_array_of_arrow(values):
    made = texts(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([1, None, 3], pa.int32()),
        pa.array([4, 5], pa.int64()),
        pa.array([], pa.int64()),
        pa.array([*range(10), None, 12], pa.int64()).slice(9, 3),
        pa.nulls(3),
        pa.array([1, 2, None], pa.int8()).slice(1),
    ],
)
def test_integers_returns_values_and_validity(cells):
    values, is_valid = integers(cells, -1)
    assert values.tolist() == [-1 if value is None else value for value in cells.to_pylist()]
    assert is_valid.tolist() == [value is not None for value in cells.to_pylist()]


def test_run_does_not_import_pandas():
    code = (
        "import sys, imsim; run = imsim.simulate(imsim.Scenario(), duration=1); "
        "assert run.tables.deliveries.num_rows and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
