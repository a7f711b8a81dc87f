from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.model import Code, Route
from imsim.results import DELIVERIES, MESSAGES, Recorder, Tables, assemble, digest
from imsim.scenario import Scenario
from imsim.scenario import plan as plan_of


def rows(table: pa.Table, *columns: str) -> list[tuple]:
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_received_message_is_not_necessarily_stored(plan, recorder):
    for intent in (0, 1, 2):
        recorder.sent(intent, 1.0)
        recorder.received(intent, 2.0)
    recorder.received(0, 3.0)
    recorder.acked(0, 2.5)
    recorder.failed(1, 4.0, Code.TIMEOUT)
    rows = assemble(plan, recorder.facts(), knows_server=True).messages.to_pylist()[:3]
    assert [row["outcome"] for row in rows] == ["stored", "unknown", "unknown"]
    assert [row["received_at"] for row in rows] == [2 * 10**9] * 3


def test_every_intended_message_has_a_row_without_any_fact(plan, recorder):
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert tables.messages.schema == MESSAGES
    assert tables.deliveries.schema == DELIVERIES
    assert set(tables.deliveries.column("outcome").to_pylist()) == {"lost"}
    assert tables.deliveries.num_rows == 3 + 5 + 3
    assert tables.stray == 0
    assert tables.messages.to_pylist()[1] == {
        "intent": 1,
        "sender": "bob",
        "device": "d1",
        "conversation": "group:all",
        "scene": "group",
        "type": "text",
        "size": 20,
        "intended_at": 200,
        "sent_at": None,
        "stored_at": None,
        "received_at": None,
        "acked_at": None,
        "attempts": 0,
        "outcome": "unsent",
        "error": None,
    }


def test_facts_of_one_message_fill_its_rows(plan, recorder):
    recorder.sent(0, 110e-9)
    recorder.sent(0, 150e-9)
    recorder.stored(0, 160e-9)
    recorder.acked(0, 170e-9)
    for device in (1, 2, 3):
        recorder.pushed(0, device, 165e-9)
    recorder.pushed(0, 2, 265e-9)
    recorder.delivered(0, 2, 280e-9, Route.PUSH)
    recorder.duplicate(0, 2, 290e-9)
    recorder.delivered(0, 3, 300e-9, Route.SYNC)
    recorder.read(0, 3, 310e-9)
    tables = assemble(plan, recorder.facts(), knows_server=True)

    columns = ("sent_at", "stored_at", "acked_at", "attempts", "outcome", "error")
    assert rows(tables.messages, *columns)[0] == (110, 160, 170, 2, "stored", None)
    assert rows(tables.deliveries, *DELIVERIES.names)[:3] == [
        (0, "ann", "d1", "own", None, 165, None, None, 1, 0, "lost"),
        (0, "bob", "d0", "recipient", "push", 165, 280, None, 2, 1, "delivered"),
        (0, "bob", "d1", "recipient", "sync", 165, 300, 310, 1, 0, "delivered"),
    ]


def test_live_run_has_no_pushes(plan, recorder):
    recorder.acked(0, 1.0)
    tables = assemble(plan, recorder.facts(), knows_server=False)
    assert rows(tables.deliveries, "pushed_at", "attempts")[:3] == [(None, None)] * 3


@pytest.mark.parametrize(
    ("notes", "outcome", "error"),
    [
        ([], "unsent", None),
        (["sent"], "unknown", None),
        (["sent", Code.TIMEOUT], "unknown", "timeout"),
        (["sent", Code.UNAVAILABLE], "unknown", "unavailable"),
        (["sent", Code.NOT_MEMBER], "rejected", "not_member"),
        ([Code.TOO_LARGE], "rejected", "too_large"),
        ([Code.TIMEOUT], "unsent", "timeout"),
        (["sent", Code.TIMEOUT, Code.CONFLICT], "rejected", "conflict"),
        (["sent", Code.TIMEOUT, "acked"], "stored", None),
        (["sent", Code.CONFLICT, "acked"], "stored", None),
        (["sent", "stored", Code.TIMEOUT], "stored", None),
        (["sent", "delivered"], "stored", None),
        (["acked"], "stored", None),
    ],
)
def test_facts_determine_outcome_of_message(plan, notes, outcome, error):
    recorder = Recorder()
    for second, note in enumerate(notes):
        if isinstance(note, Code):
            recorder.failed(0, second, note)
        elif note == "delivered":
            recorder.delivered(0, 2, second, Route.PUSH)
        else:
            getattr(recorder, note)(0, second)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert rows(tables.messages, "outcome", "error")[0] == (outcome, error)
    due = [row for row in rows(tables.deliveries, "intent", "outcome") if row[0] == 0]
    assert len(due) == (0 if outcome == "rejected" else 3), "a message without an answer still has its deliveries"
    if outcome != "stored":
        assert {state for _, state in due} <= {"lost"}


def test_deliveries_to_guests_are_neither_rows_nor_strays(plan, recorder):
    """Cyd is a guest only in the conversation of Ann and Bob."""
    with_guest = replace(plan, guests=frozenset({(0, 2)}))
    cyd, nobody = 4, 6
    for intent in (0, 2):
        recorder.pushed(intent, cyd, 1.0)
        recorder.delivered(intent, cyd, 2.0, Route.PUSH)
        recorder.duplicate(intent, cyd, 3.0)
    tables = assemble(with_guest, recorder.facts(), knows_server=True)
    assert (tables.stray, tables.deliveries.num_rows) == (0, 3 + 5 + 3)
    assert set(rows(tables.deliveries, "outcome")) == {("lost",)}
    recorder.delivered(0, nobody, 2.0, Route.PUSH)
    recorder.delivered(0, -1, 2.0, Route.PUSH)
    assert assemble(with_guest, recorder.facts(), knows_server=True).stray == 2
    assert assemble(plan, recorder.facts(), knows_server=True).stray == 4


def test_messages_have_their_types(plan, recorder):
    with_types = replace(plan, types=["text", "image", "geo"], type=np.array([1, 0, 2], np.int8))
    tables = assemble(with_types, recorder.facts(), knows_server=True)
    assert rows(tables.messages, "type") == [("image",), ("text",), ("geo",)]
    assert digest(tables) != digest(assemble(plan, recorder.facts(), knows_server=True))


def test_shed_delivery_that_arrives_is_delivered(plan, recorder):
    recorder.acked(0, 1.0)
    for device in (1, 2):
        recorder.shed(0, device, 2.0)
    recorder.delivered(0, 2, 3.0, Route.PUSH)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert rows(tables.deliveries, "outcome", "pushed_at", "attempts")[:3] == [
        ("shed", None, 0),
        ("delivered", None, 0),
        ("lost", None, 0),
    ]
    assert tables.stray == 0


def test_recalled_message_is_recalled_only_where_it_was_not_shown(plan, recorder):
    recorder.delivered(0, 2, 1.0, Route.PUSH)
    recorder.shed(0, 1, 1.0)
    recorder.recalled(0, 2.0)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert rows(tables.deliveries, "outcome")[:4] == [("shed",), ("delivered",), ("recalled",), ("lost",)]
    assert rows(tables.messages, "outcome")[0] == ("stored",)
    assert tables.stray == 0


def test_chatroom_delivery_to_disconnected_device_is_absent(plan, recorder):
    """Message 1 is accepted at 10 s. A device that is offline within a second of that is excused."""
    room = replace(plan, to_room=np.array([False, True, False]), room_patience=10**9)
    recorder.stored(1, 10.0)
    for device, at, back in ((0, 5.0, 8.9), (1, 5.0, 9.1), (2, 10.9, 20.0), (4, 11.1, 20.0), (5, 3.0, None)):
        recorder.disconnected(device, 2.0)
        recorder.entered(device, 2.5)
        recorder.disconnected(device, at)
        if back is not None:
            recorder.entered(device, back)
    tables = assemble(room, recorder.facts(), knows_server=True)
    of_room = [row for row in rows(tables.deliveries, "intent", "recipient", "device", "outcome") if row[0] == 1]
    assert [outcome for *_, outcome in of_room] == ["lost", "absent", "absent", "lost", "absent"]
    assert tables.stray == 0
    assert set(rows(assemble(plan, recorder.facts(), knows_server=True).deliveries, "outcome")) == {("lost",)}
    nowhere = assemble(room, recorder.facts()[1:], knows_server=True)
    assert set(rows(nowhere.deliveries, "outcome")) == {("lost",)}, "a message that the chatroom did not accept is lost"


def test_first_showing_is_the_delivery_and_others_are_duplicates(plan, recorder):
    recorder.delivered(0, 2, 9e-9, Route.PUSH)
    recorder.delivered(0, 2, 5e-9, Route.SYNC)
    recorder.duplicate(0, 2, 7e-9)
    recorder.duplicate(0, 3, 7e-9)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    columns = ("device", "route", "delivered_at", "duplicates", "outcome")
    assert rows(tables.deliveries, *columns)[1:3] == [
        ("d0", "sync", 5, 2, "delivered"),
        ("d1", None, None, 1, "lost"),
    ]


def test_shed_delivery_has_no_attempts_and_no_stray(plan, recorder):
    recorder.shed(0, 2, 5e-9)
    recorder.shed(0, 3, 5e-9)
    recorder.delivered(0, 3, 9e-9, Route.PUSH)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    columns = ("device", "pushed_at", "delivered_at", "attempts", "outcome")
    assert rows(tables.deliveries, *columns)[:3] == [
        ("d1", None, None, 0, "lost"),
        ("d0", None, None, 0, "shed"),
        ("d1", None, 9, 0, "delivered"),
    ]
    assert tables.stray == 0


def test_deliveries_to_devices_without_entitlement_are_strays(plan, recorder):
    recorder.delivered(0, 4, 1.0, Route.PUSH)  # cyd is not a member; one stray, however many facts
    recorder.pushed(0, 4, 0.5)
    recorder.delivered(2, 5, 1.0, Route.PUSH)
    recorder.delivered(1, 99, 1.0, Route.PUSH)  # no such device
    recorder.delivered(77, 0, 1.0, Route.PUSH)  # no such message
    recorder.delivered(0, 0, 1.0, Route.SYNC)  # the sending device shows its own message: not a stray
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert tables.stray == 4
    assert rows(tables.messages, "outcome") == [("stored",)] * 3
    assert set(tables.deliveries.column("outcome").to_pylist()) == {"lost"}


def test_device_number_beyond_population_does_not_match_next_message(plan, recorder):
    # (intent 0, device 6 + 1) would have the same combined number as (intent 1, device 1), which is entitled.
    recorder.delivered(0, 7, 1.0, Route.PUSH)
    recorder.acked(1, 1.0)
    tables = assemble(plan, recorder.facts(), knows_server=True)
    assert tables.stray == 1
    assert "delivered" not in tables.deliveries.column("outcome").to_pylist()


@given(data=st.data())
def test_rows_do_not_depend_on_order_of_facts(plan, data):
    recorder = Recorder()
    numbers = st.integers(0, 5)
    for _ in range(data.draw(st.integers(0, 30))):
        intent, device, at = data.draw(numbers) % 3, data.draw(numbers), data.draw(numbers) * 1e-9
        match data.draw(st.integers(0, 7)):
            case 0:
                recorder.sent(intent, at)
            case 1:
                recorder.acked(intent, at)
            case 2:
                recorder.failed(intent, at, data.draw(st.sampled_from(Code)))
            case 3:
                recorder.pushed(intent, device, at)
            case 4:
                recorder.delivered(intent, device, at, data.draw(st.sampled_from(Route)))
            case 5:
                recorder.duplicate(intent, device, at)
            case 6:
                recorder.read(intent, device, at)
            case 7:
                recorder.shed(intent, device, at)
    facts = recorder.facts()
    shuffled = facts[data.draw(st.permutations(range(len(facts))))]
    one, other = (assemble(plan, some, knows_server=True) for some in (facts, shuffled))
    assert one.messages.equals(other.messages)
    assert one.deliveries.equals(other.deliveries)
    assert one.stray == other.stray
    assert digest(one) == digest(other)
    delivered = one.deliveries.column("outcome").to_pylist().count("delivered")
    assert delivered == len(one.deliveries.column("delivered_at").drop_null())


def test_assemble_works_with_a_real_plan(recorder):
    scenario = Scenario(duration=2.0).replace(
        {"population.devices": 2, "conversations.groups": 3, "conversations.p2p_share": 0.5}
    )
    real = plan_of(scenario)
    intents, devices, _ = real.entitled()
    for intent in range(len(real)):
        recorder.acked(intent, 3.0)
    for intent, device in zip(intents.tolist(), devices.tolist(), strict=True):
        recorder.delivered(intent, device, 3.0, Route.PUSH)
    tables = assemble(real, recorder.facts(), knows_server=True)
    assert len(real) > 0
    assert tables.stray == 0
    assert tables.messages.column("intended_at").to_pylist() == real.at.tolist()
    assert set(tables.messages.column("scene").to_pylist()) == {"p2p", "group"}
    assert set(tables.deliveries.column("outcome").to_pylist()) == {"delivered"}
    assert tables.deliveries.num_rows == len(intents)


# --- digest ---------------------------------------------------------------------------------------------------------


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
    tables = assemble(plan, recorder.facts(), knows_server=True)
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
