"""Tests of the digest of rows."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.model import Code, Route
from imsim.results import DELIVERIES, MESSAGES, Recorder, Tables, assemble, digest


def test_digest_is_stable_across_versions(tables):
    # If this digest changes, runs from before the change can no longer be compared with later ones.
    assert digest(tables) == "497ac98d4aaf91dd59d27d95adaaec1bf1f4250087d90928b15adbd237fe0340"


def test_digest_depends_on_values_only(tables):
    def chunked(table: pa.Table) -> pa.Table:
        return pa.concat_tables([table.slice(row, 1) for row in range(table.num_rows)])

    def reencoded(table: pa.Table) -> pa.Table:
        columns = []
        for column in table.columns:
            if pa.types.is_dictionary(column.type):
                names = [*reversed(column.combine_chunks().dictionary.to_pylist()), "unused"]
                numbers = [None if name is None else names.index(name) for name in column.to_pylist()]
                column = pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int8()), pa.array(names))
            columns.append(column)
        return pa.table(columns, names=table.column_names)

    def plain(table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist(table.to_pylist())

    for change in (chunked, reencoded, plain):
        other = Tables(change(tables.messages), change(tables.deliveries))
        assert digest(other) == digest(tables), change.__name__


CELLS = [(0, name) for name in MESSAGES.names] + [(1, name) for name in DELIVERIES.names]


@given(data=st.data())
def test_digest_changes_with_any_cell(plan, data):
    recorder = Recorder()
    recorder.sent(0, 1.0)
    recorder.acked(0, 2.0)
    recorder.acked(1, 2.0)
    recorder.failed(2, 3.0, Code.CONFLICT)
    recorder.delivered(0, 2, 4.0, Route.PUSH)
    tables = assemble(plan, recorder.facts())
    number, name = data.draw(st.sampled_from(CELLS))
    table = (tables.messages, tables.deliveries)[number]
    column = table.schema.get_field_index(name)
    cells = table.column(name).to_pylist()
    row = data.draw(st.integers(0, len(cells) - 1))
    kind = table.schema.field(name).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if plain == pa.string():
        other = st.none() | st.text(max_size=5) | st.sampled_from(["ann", "bob", "d0", "d1", "stored", "push"])
    else:
        width = kind.bit_width
        other = st.none() | st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1) | st.just(0)
    cells[row] = data.draw(other.filter(lambda value: value != cells[row]))

    changed = table.set_column(column, name, pa.array(cells, plain))
    both = [tables.messages, tables.deliveries]
    both[number] = changed
    assert digest(Tables(*both)) != digest(tables)


def test_digest_changes_with_the_order_of_rows(tables):
    turned = tables.messages.take(list(reversed(range(tables.messages.num_rows))))
    assert digest(Tables(turned, tables.deliveries)) != digest(tables)
