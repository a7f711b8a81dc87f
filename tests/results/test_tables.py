import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.model import Code, Route, Scene
from imsim.results import DELIVERIES, MESSAGES, Assembly, Kind, Offers, Recorder, SpooledFacts, Tables, assemble, digest
from imsim.results.tables import Withdrawn
from imsim.scenario import Action, Extra, Scenario
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
    rows = assemble(plan, recorder.facts()).messages.to_pylist()[:3]
    assert [row["outcome"] for row in rows] == ["stored", "unknown", "unknown"]
    assert [row["received_at"] for row in rows] == [2 * 10**9] * 3


def test_every_intended_message_has_a_row_without_any_fact(plan, recorder):
    tables = assemble(plan, recorder.facts())
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
    tables = assemble(plan, recorder.facts())

    columns = ("sent_at", "stored_at", "acked_at", "attempts", "outcome", "error")
    assert rows(tables.messages, *columns)[0] == (110, 160, 170, 2, "stored", None)
    assert rows(tables.deliveries, *DELIVERIES.names)[:3] == [
        (0, "ann", "d1", "own", None, 165, None, None, 1, 0, "lost"),
        (0, "bob", "d0", "recipient", "push", 165, 280, None, 2, 1, "delivered"),
        (0, "bob", "d1", "recipient", "sync", 165, 300, 310, 1, 0, "delivered"),
    ]


def test_live_run_has_no_pushes(plan, recorder):
    recorder.acked(0, 1.0)
    tables = assemble(plan, recorder.facts(), Offers(pushes=False))
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
    tables = assemble(plan, recorder.facts())
    assert rows(tables.messages, "outcome", "error")[0] == (outcome, error)
    due = [row for row in rows(tables.deliveries, "intent", "outcome") if row[0] == 0]
    assert len(due) == (0 if outcome == "rejected" else 3), "a message without an answer still has its deliveries"
    if outcome != "stored":
        assert {state for _, state in due} <= {"lost"}


def test_deliveries_to_guests_are_neither_rows_nor_strays(plan, recorder):
    """Cyd is a guest only in the conversation of Ann and Bob."""
    with_guest = replace(plan, actions=[Action(0, "invite", 0, conversation=0, other=2)])
    cyd, nobody = 4, 6
    for intent in (0, 2):
        recorder.pushed(intent, cyd, 1.0)
        recorder.delivered(intent, cyd, 2.0, Route.PUSH)
        recorder.duplicate(intent, cyd, 3.0)
    tables = assemble(with_guest, recorder.facts())
    assert (tables.stray, tables.deliveries.num_rows) == (0, 3 + 5 + 3)
    assert set(rows(tables.deliveries, "outcome")) == {("lost",)}
    recorder.delivered(0, nobody, 2.0, Route.PUSH)
    recorder.delivered(0, -1, 2.0, Route.PUSH)
    assert assemble(with_guest, recorder.facts()).stray == 2
    assert assemble(plan, recorder.facts()).stray == 4


def test_messages_have_their_types(plan, recorder):
    with_types = replace(plan, types=["text", "image", "geo"], type=np.array([1, 0, 2], np.int8))
    tables = assemble(with_types, recorder.facts())
    assert rows(tables.messages, "type") == [("image",), ("text",), ("geo",)]
    assert digest(tables) != digest(assemble(plan, recorder.facts()))


def test_shed_delivery_that_arrives_is_delivered(plan, recorder):
    recorder.acked(0, 1.0)
    for device in (1, 2):
        recorder.shed(0, device, 2.0)
    recorder.delivered(0, 2, 3.0, Route.PUSH)
    tables = assemble(plan, recorder.facts())
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
    tables = assemble(plan, recorder.facts())
    assert rows(tables.deliveries, "outcome")[:4] == [("shed",), ("delivered",), ("recalled",), ("lost",)]
    assert rows(tables.messages, "outcome")[0] == ("stored",)
    assert tables.stray == 0


def test_chatroom_delivery_to_disconnected_device_is_absent(plan, recorder):
    """Message 1 is accepted at 10 s. A device that is offline within a second of that is excused."""
    p2p, group = plan.conversations
    lobby = replace(group, scene=Scene.CHATROOM)
    room = replace(plan, conversations=[p2p, lobby], room_patience=10**9)
    recorder.stored(1, 10.0)
    for device, at, back in ((0, 5.0, 8.9), (1, 5.0, 9.1), (2, 10.9, 20.0), (4, 11.1, 20.0), (5, 3.0, None)):
        recorder.disconnected(device, 2.0)
        recorder.entered(device, 2.5)
        recorder.disconnected(device, at)
        if back is not None:
            recorder.entered(device, back)
    tables = assemble(room, recorder.facts())
    of_room = [row for row in rows(tables.deliveries, "intent", "recipient", "device", "outcome") if row[0] == 1]
    assert [outcome for *_, outcome in of_room] == ["lost", "absent", "absent", "lost", "absent"]
    assert tables.stray == 0
    assert set(rows(assemble(plan, recorder.facts()).deliveries, "outcome")) == {("lost",)}
    nowhere = assemble(room, recorder.facts()[1:])
    assert set(rows(nowhere.deliveries, "outcome")) == {("lost",)}, "a message that the chatroom did not accept is lost"


def test_first_showing_is_the_delivery_and_others_are_duplicates(plan, recorder):
    recorder.delivered(0, 2, 9e-9, Route.PUSH)
    recorder.delivered(0, 2, 5e-9, Route.SYNC)
    recorder.duplicate(0, 2, 7e-9)
    recorder.duplicate(0, 3, 7e-9)
    tables = assemble(plan, recorder.facts())
    columns = ("device", "route", "delivered_at", "duplicates", "outcome")
    assert rows(tables.deliveries, *columns)[1:3] == [
        ("d0", "sync", 5, 2, "delivered"),
        ("d1", None, None, 1, "lost"),
    ]


def test_shed_delivery_has_no_attempts_and_no_stray(plan, recorder):
    recorder.shed(0, 2, 5e-9)
    recorder.shed(0, 3, 5e-9)
    recorder.delivered(0, 3, 9e-9, Route.PUSH)
    tables = assemble(plan, recorder.facts())
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
    tables = assemble(plan, recorder.facts())
    assert tables.stray == 4
    assert rows(tables.messages, "outcome") == [("stored",)] * 3
    assert set(tables.deliveries.column("outcome").to_pylist()) == {"lost"}


def test_device_number_beyond_population_does_not_match_next_message(plan, recorder):
    # (intent 0, device 6 + 1) would have the same combined number as (intent 1, device 1), which is entitled.
    recorder.delivered(0, 7, 1.0, Route.PUSH)
    recorder.acked(1, 1.0)
    tables = assemble(plan, recorder.facts())
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
    one, other = (assemble(plan, some) for some in (facts, shuffled))
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
    tables = assemble(real, recorder.facts())
    assert len(real) > 0
    assert tables.stray == 0
    assert tables.messages.column("intended_at").to_pylist() == real.at.tolist()
    assert set(tables.messages.column("scene").to_pylist()) == {"p2p", "group"}
    assert set(tables.deliveries.column("outcome").to_pylist()) == {"delivered"}
    assert tables.deliveries.num_rows == len(intents)


# --- parts -----------------------------------------------------------------------------------------------------------


MANY = Scenario(duration=3.0).replace(
    {"population.devices": 2, "conversations.groups": 3, "conversations.p2p_share": 0.5, "workload.rate": 1}
)


@pytest.fixture(scope="module")
def many():
    return plan_of(MANY)


def random_facts(plan, rng: np.random.Generator, count: int):
    """Return facts about messages and devices of the plan, and about some that do not exist."""
    devices = len(plan.users) * len(plan.devices)
    facts = np.zeros(count, Recorder().facts().dtype)
    facts["kind"] = rng.integers(0, len(Kind), count)
    facts["intent"] = rng.integers(0, len(plan) + 2, count)
    facts["device"] = rng.integers(-1, devices + 2, count)
    facts["at"] = rng.integers(0, 3 * 10**9, count)
    of_devices = (Kind.DISCONNECTED, Kind.ENTERED, Kind.WITHDRAWN, Kind.RETURNED)
    facts["intent"][np.isin(facts["kind"], of_devices)] = -1
    return facts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offers", [Offers(), Offers(pushes=False, acks=False, resume=False, own_devices=False)])
def test_rows_do_not_depend_on_the_size_of_parts_and_pieces(many, monkeypatch, seed, offers):
    rng = np.random.default_rng(seed)
    facts = random_facts(many, rng, 3000)
    whole = Assembly(many, facts, offers)
    tables = whole.tables()
    monkeypatch.setattr("imsim.results.tables._PART", int(rng.integers(1, 300)))
    monkeypatch.setattr("imsim.results.pieces._PIECE", int(rng.integers(1, 500)))
    parts = Assembly(many, facts, offers)
    small = parts.tables()
    assert small.messages.column("intent").num_chunks > 1
    assert digest(small) == digest(tables)
    assert (small.stray, parts.withdrawn) == (tables.stray, whole.withdrawn)
    assert small.withdrawals.equals(tables.withdrawals)


def test_part_of_a_large_group_has_at_least_one_message(many, monkeypatch):
    monkeypatch.setattr("imsim.results.tables._PART", 1)
    parts = list(Assembly(many, Recorder().facts()).parts())
    assert [messages.num_rows for messages, _ in parts] == [1] * len(many)


def test_plan_without_messages_has_tables_without_rows(many):
    tables = assemble(many.part(0, 0), Recorder().facts())
    assert (tables.messages.num_rows, tables.deliveries.num_rows) == (0, 0)
    assert tables.messages.schema == MESSAGES
    assert tables.deliveries.schema == DELIVERIES


def peak_of_parts(duration: float, folder: Path) -> tuple[int, int]:
    """Return the peak of the memory (bytes) that the parts of a run take, and the number of its rows."""
    planned = plan_of(Scenario(duration=duration).replace({"population.users": 200, "workload.rate": 10}))
    rows = planned.entitled()
    facts = np.zeros(len(rows.intent), Recorder().facts().dtype)
    facts["kind"], facts["intent"], facts["device"] = Kind.DELIVERED, rows.intent, rows.device
    facts["at"] = planned.at[rows.intent] + 5_000_000
    spool = folder / f"{duration}.spool"
    facts.tofile(spool)
    del rows, facts
    tracemalloc.start()
    count = sum(deliveries.num_rows for _, deliveries in Assembly(planned, SpooledFacts([(spool, 0)])).parts())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, count


def test_assembly_takes_few_bytes_for_each_further_delivery(monkeypatch, tmp_path):
    """The ranges of intents take 24 bytes for each message. All rows at once would take about 260."""
    monkeypatch.setattr("imsim.results.tables._PART", 10_000)
    monkeypatch.setattr("imsim.results.pieces._PIECE", 5_000)
    (small, few), (large, many) = (peak_of_parts(duration, tmp_path) for duration in (10.0, 60.0))
    assert (large - small) / (many - few) < 40


# --- withdrawn devices -----------------------------------------------------------------------------------------------


def of_message(tables: Tables, intent: int) -> list[str]:
    return [outcome for number, outcome in rows(tables.deliveries, "intent", "outcome") if number == intent]


def test_deliveries_that_a_withdrawn_device_misses_are_absent(plan, recorder):
    recorder.acked(0, 120e-9)
    recorder.delivered(0, 1, 130e-9, Route.PUSH)
    recorder.delivered(0, 2, 130e-9, Route.PUSH)
    for device in (2, 3):
        recorder.withdrawn(device, 140e-9)
    assembly = Assembly(plan, recorder.facts())
    tables = assembly.tables()
    assert of_message(tables, 0) == ["delivered", "delivered", "absent"]
    assert rows(tables.withdrawals, "user", "device", "since", "until") == [
        ("bob", "d0", 140, None),
        ("bob", "d1", 140, None),
    ]
    assert assembly.withdrawn == Withdrawn(devices=2, messages=1, deliveries=1 + 5 + 2)  # bob's d1 sends message 1


def test_device_that_returned_misses_nothing_if_the_server_keeps_messages(plan, recorder):
    recorder.acked(0, 120e-9)
    recorder.withdrawn(3, 110e-9)
    recorder.returned(3, 150e-9)
    tables = assemble(plan, recorder.facts())
    assert of_message(tables, 0) == ["lost", "lost", "lost"]
    assert rows(tables.withdrawals, "device", "since", "until") == [("d1", 110, 150)]


def test_message_without_an_answer_from_a_withdrawn_device_does_not_charge_the_server(plan, recorder):
    """Ann's first device sends message 0 and is withdrawn afterwards; Bob's second device is away at 200 ns."""
    recorder.sent(0, 110e-9)
    recorder.withdrawn(0, 120e-9)
    recorder.withdrawn(3, 150e-9)
    recorder.returned(3, 250e-9)
    assembly = Assembly(plan, recorder.facts())
    tables = assembly.tables()
    assert rows(tables.messages, "outcome") == [("unknown",), ("unsent",), ("unsent",)]
    assert set(of_message(tables, 0)) == {"absent"}
    assert set(of_message(tables, 1)) == {"absent"}
    assert of_message(tables, 2) == ["absent", "lost", "lost"]  # ann's d0 is withdrawn; the others wait for ann's d1
    assert assembly.withdrawn == Withdrawn(devices=2, messages=2, deliveries=3 + 5 + 1)


def test_stored_message_of_a_withdrawn_device_is_lost_where_it_is_missing(plan, recorder):
    recorder.sent(0, 110e-9)
    recorder.delivered(0, 2, 115e-9, Route.PUSH)
    recorder.withdrawn(0, 120e-9)
    assert of_message(assemble(plan, recorder.facts()), 0) == ["lost", "delivered", "lost"]


def test_repeated_withdrawals_and_returns_change_nothing(plan, recorder):
    recorder.returned(2, 5e-9)
    for at in (10e-9, 20e-9):
        recorder.withdrawn(2, at)
    for at in (30e-9, 40e-9):
        recorder.returned(2, at)
    recorder.withdrawn(2, 50e-9)
    tables = assemble(plan, recorder.facts())
    assert rows(tables.withdrawals, "since", "until") == [(10, 30), (50, None)]


def test_undecided_deliveries_are_absent(plan, recorder):
    for intent in range(3):
        recorder.acked(intent, 400e-9)
    recorder.delivered(1, 0, 500e-9, Route.PUSH)
    tables = Assembly(plan, recorder.facts(), undecided_since=200).tables()
    assert [set(of_message(tables, intent)) for intent in range(3)] == [{"lost"}, {"delivered", "absent"}, {"absent"}]


# --- servers that do not offer everything ---------------------------------------------------------------------------


def test_without_acks_only_a_delivery_proves_that_a_message_is_stored(plan, recorder):
    recorder.sent(0, 1e-9)
    recorder.sent(1, 2e-9)
    recorder.delivered(0, 2, 3e-9, Route.PUSH)
    tables = assemble(plan, recorder.facts(), Offers(acks=False))
    assert rows(tables.messages, "outcome", "acked_at") == [("stored", None), ("unknown", None), ("unsent", None)]
    assert of_message(tables, 0) == ["lost", "delivered", "lost"]


def test_without_own_devices_missing_rows_of_the_sender_are_absent(plan, recorder):
    recorder.acked(0, 1e-9)
    recorder.delivered(2, 0, 2e-9, Route.PUSH)  # it arrives all the same
    tables = assemble(plan, recorder.facts(), Offers(own_devices=False))
    own = [row[0] for row in rows(tables.deliveries, "outcome", "role") if row[1] == "own"]
    assert own == ["absent", "absent", "delivered"]
    assert {row[0] for row in rows(tables.deliveries, "outcome", "role") if row[1] == "recipient"} == {"lost"}


@pytest.mark.parametrize("resume", [True, False])
def test_without_resume_a_device_that_was_away_misses_messages(plan, recorder, resume):
    """Message 1 is accepted at 10 s, message 0 at 20 s. The patience is one second."""
    patient = replace(plan, room_patience=10**9)
    recorder.acked(1, 10.0)
    recorder.acked(0, 20.0)
    recorder.withdrawn(2, 5.0)
    recorder.returned(2, 15.0)
    recorder.disconnected(3, 9.5)
    recorder.entered(3, 11.5)
    tables = assemble(patient, recorder.facts(), Offers(resume=resume))
    found = {(i, u, d): o for i, u, d, o in rows(tables.deliveries, "intent", "recipient", "device", "outcome")}
    missed = "lost" if resume else "absent"
    assert found[1, "bob", "d0"] == missed
    assert found[0, "bob", "d0"] == found[0, "bob", "d1"] == "lost"
    assert found[1, "cyd", "d0"] == "lost"


def test_without_resume_a_device_that_is_offline_by_plan_misses_messages():
    mobile = Scenario.load("mobile", {"population.users": 20, "duration": "20s", "warmup": 0})
    planned = plan_of(mobile)
    recorder = Recorder()
    for intent, at in enumerate(planned.at.tolist()):
        recorder.acked(intent, at / 1e9)
    outcomes = [
        np.array(assemble(planned, recorder.facts(), Offers(resume=resume)).deliveries.column("outcome").to_pylist())
        for resume in (True, False)
    ]
    assert ((outcomes[0] == "absent") <= (outcomes[1] == "absent")).all()
    assert (outcomes[1] == "absent").sum() > (outcomes[0] == "absent").sum()


def test_without_membership_a_device_misses_what_was_sent_before_it_entered_for_the_first_time(plan, recorder):
    """Message 1 is accepted at 10 s, message 0 at 20 s. The patience is one second."""
    patient = replace(plan, room_patience=10**9)
    recorder.acked(1, 10.0)
    recorder.acked(0, 20.0)
    recorder.disconnected(2, 0.0)
    recorder.entered(2, 12.0)
    recorder.disconnected(3, 5.0)  # the server keeps its messages
    recorder.entered(3, 25.0)
    for offers, missed in ((Offers(), "lost"), (Offers(membership=False), "absent")):
        tables = assemble(patient, recorder.facts(), offers)
        found = {(i, u, d): o for i, u, d, o in rows(tables.deliveries, "intent", "recipient", "device", "outcome")}
        assert found[1, "bob", "d0"] == missed
        assert found[0, "bob", "d0"] == found[0, "bob", "d1"] == found[1, "cyd", "d0"] == "lost"


def test_without_membership_a_device_misses_the_group_that_a_task_opened_while_it_was_away(plan, recorder):
    first = len(plan)
    extras = [
        Extra(first, 10**10, 0, 0, Scene.GROUP, "new", (0, 1), "text", 4),
        Extra(first + 1, 10**10, 0, 0, Scene.P2P, "", (0, 1), "text", 4),
    ]
    extended = plan.extended(extras)
    for intent in (first, first + 1):
        recorder.acked(intent, 10.0)
    recorder.withdrawn(2, 9.0)
    recorder.returned(2, 11.0)
    for offers, missed in ((Offers(), "lost"), (Offers(membership=False), "absent")):
        tables = assemble(extended, recorder.facts(), offers)
        found = {(i, u, d): o for i, u, d, o in rows(tables.deliveries, "intent", "recipient", "device", "outcome")}
        assert found[first, "bob", "d0"] == missed
        assert found[first, "bob", "d1"] == found[first + 1, "bob", "d0"] == "lost"
