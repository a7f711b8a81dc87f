"""Tests of `Recording`: its counts of messages in flight, its reports and its facts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from imsim.core import events
from imsim.core.model import Code, Route
from imsim.load.adapters import Acked, Delivered, Failed, Read, Received, Sent
from imsim.load.awaited import Awaited
from imsim.load.collect import extras_name, spool_name
from imsim.load.extras import Extras
from imsim.load.recording import Recording
from imsim.results import Kind, read_facts
from imsim.results.recorder import CODES, ROUTES
from imsim.scenario import Scenario, actor, plan

from .conftest import TINY


@pytest.fixture
def scenario(tiny):
    return tiny


def made_in(
    folder, the_plan, index=0, report=lambda *report: None, forward=lambda *seen: None, warmup=0.0
) -> Recording:
    """Return the recording of one of two processes."""
    extras = Extras(len(the_plan), index, 2, folder / extras_name(index))
    return Recording(the_plan, "ns:", folder / spool_name(index), report, extras, forward, warmup=warmup)


@pytest.fixture
def made(scenario, tmp_path):
    """A recording with t = 0 at 100 s, its plan, and its reports to Locust."""
    reports = []
    the_plan = plan(scenario)
    recording = made_in(tmp_path, the_plan, report=lambda *report: reports.append(report))
    recording.begin(100.0)
    yield SimpleNamespace(recording=recording, plan=the_plan, reports=reports, folder=tmp_path)
    recording.close()


def entitled(the_plan, intent: int) -> list[int]:
    rows = the_plan.entitled()
    return rows.device[rows.intent == intent].tolist()


def test_message_is_in_flight_until_acknowledged_and_delivered_to_every_device(made):
    devices = entitled(made.plan, 0)
    made.recording.asked(0, 0.0)  # the device may have to connect first
    assert made.recording.in_flight == 1 + len(devices)
    made.recording.sent(0, 0.1)
    made.recording.sent(0, 0.2)  # a retry
    assert made.recording.in_flight == 1 + len(devices)
    made.recording.acked(0, 0.3)
    assert made.recording.in_flight == len(devices)
    for device in devices:
        made.recording.delivered(0, device, 0.4, Route.PUSH)
    assert made.recording.in_flight == 0
    made.recording.close()
    to_others = [device for device in devices if device // 2 != made.plan.sender[0]]
    assert [name for name, *_ in made.reports] == ["send -> stored"] + ["send -> delivered"] * len(to_others)
    late = 0.3 - made.plan.at[0] / 1e9
    assert made.reports[0][1] == pytest.approx(late * 1e3)


def test_messages_of_the_warmup_are_not_reported(scenario, tmp_path):
    reports, the_plan = [], plan(scenario)
    recording = made_in(tmp_path, the_plan, report=lambda *report: reports.append(report), warmup=0.5)
    recording.begin(0.0)
    for intent in range(len(the_plan)):
        recording.asked(intent, 0.0)
        recording.acked(intent, 2.0)
    recording.close()
    assert 0 < len(reports) == (the_plan.at >= 0.5e9).sum() < len(the_plan)


def test_failed_message_is_not_in_flight_until_an_ack_shows_that_it_is_stored(made):
    made.recording.asked(0, 0.0)
    made.recording.sent(0, 0.1)
    made.recording.failed(0, 0.2, Code.TIMEOUT, "no answer")
    assert made.recording.in_flight == 0
    made.recording.acked(0, 0.3)
    assert made.recording.in_flight == len(entitled(made.plan, 0))


def test_delivery_to_a_device_that_is_not_entitled_changes_no_count(made):
    devices = entitled(made.plan, 0)
    own = int(made.plan.sending_devices[0])
    stranger = next(d for d in range(24) if d not in devices and d != own)
    made.recording.asked(0, 0.0)
    made.recording.sent(0, 0.1)
    before = made.recording.in_flight
    made.recording.delivered(0, stranger, 0.2, Route.PUSH)
    made.recording.delivered(0, own, 0.2, Route.SYNC)
    assert made.recording.in_flight == before


def test_messages_of_other_processes_balance_the_count_of_their_sender(made, tmp_path):
    """The recipients' process counts a delivery that the sender's process expects: only the sum is meaningful."""
    other = made_in(tmp_path, made.plan, 1)
    made.recording.asked(0, 0.0)
    for device in entitled(made.plan, 0):
        other.delivered(0, device, 0.4, Route.PUSH)
    made.recording.acked(0, 0.5)
    other.close()
    assert made.recording.in_flight + other.in_flight == 0


def test_events_of_adapters_become_facts(made):
    recording, (first, *_) = made.recording, entitled(made.plan, 0)
    for device, event in (
        (0, Sent("ns:0")),
        (0, Received("ns:0")),
        (0, Acked("ns:0")),
        (first, Delivered("ns:0", synced=True)),
        (first, Read("ns:0")),
        (0, Failed("ns:1", "no such code", "text")),
        (first, Delivered("other:0")),
    ):
        recording.event(device, event, 101.0)
    assert recording.foreign == 1
    recording.close()
    second = 10**9
    assert read_facts([made.folder / spool_name(0)]).tolist() == [
        (Kind.SENT, 0, -1, second, 0),
        (Kind.RECEIVED, 0, -1, second, 0),
        (Kind.ACKED, 0, -1, second, 0),
        (Kind.DELIVERED, 0, first, second, ROUTES.index(Route.SYNC)),
        (Kind.READ, 0, first, second, 0),
        (Kind.FAILED, 1, -1, second, CODES.index(Code.BAD_REQUEST)),
    ]


mixed = pytest.mark.parametrize(
    "scenario",
    [
        Scenario.load(
            "social",
            {"population.users": 20, "workload.rate": 5, "conversations.room_size": 9, "workload.recalls": 0.5},
        )
    ],
)


@mixed
def test_received_acknowledges_a_message_in_chatrooms_only(made):
    recording, to_room = made.recording, made.plan.to_room
    room, other = int(np.flatnonzero(to_room)[0]), int(np.flatnonzero(~to_room)[0])
    for intent in (room, other):
        recording.asked(intent, 0.0)
        recording.event(0, events.Received(f"ns:{intent}", 1), 100.2)
    devices = len(entitled(made.plan, room))
    assert recording.in_flight == devices + 1 + len(entitled(made.plan, other))
    assert [name for name, *_ in made.reports] == ["send -> stored"]
    assert recording.missing_in_rooms() == devices
    recording.delivered(room, entitled(made.plan, room)[0], 0.3, Route.PUSH)
    assert recording.missing_in_rooms() == devices - 1
    recording.close()
    facts = read_facts([made.folder / spool_name(0)])
    assert facts[facts["kind"] == Kind.ACKED].tolist() == [(Kind.ACKED, room, -1, 200_000_000, 0)]


@mixed
def test_recalled_message_is_no_longer_in_flight(made):
    recording = made.recording
    number, action = next((n, a) for n, a in enumerate(made.plan.actions) if a.kind == "recall")
    devices = entitled(made.plan, action.intent)
    recording.asked(action.intent, 0.0)
    recording.acked(action.intent, 0.2)
    recording.delivered(action.intent, devices[0], 0.3, Route.PUSH)
    recording.event(0, events.Acked(actor.action_id(number, "ns:"), "", 2), 100.4)
    assert recording.in_flight == 0
    recording.delivered(action.intent, devices[-1], 0.5, Route.PUSH)  # it was in flight at the recall
    assert recording.in_flight == 0
    recording.close()
    facts = read_facts([made.folder / spool_name(0)])
    assert facts[facts["kind"] == Kind.RECALLED].tolist() == [(Kind.RECALLED, action.intent, -1, 400_000_000, 0)]
    assert not [error for *_, error in made.reports if error]


@mixed
def test_recording_starts_with_the_plan(made):
    early = made_in(made.folder, made.plan, 1)
    for recording in (made.recording, early):
        recording.event(3, events.Entered("lobby", 1), 101.0)
        recording.event(3, events.Disconnected(None), 102.0)
        recording.close()
    assert read_facts([made.folder / spool_name(0)]).tolist() == [
        (Kind.ENTERED, -1, 3, 10**9, 0),
        (Kind.DISCONNECTED, -1, 3, 2 * 10**9, 0),
    ]
    assert len(read_facts([made.folder / spool_name(1)])) == 0


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(Scenario.from_toml(f"{TINY}\n[population.sessions]\nonline = 1\noffline = 1\n"), id="sessions"),
        pytest.param(Scenario.from_toml(TINY), id="all"),
    ],
)
def test_awaited_deliveries_are_those_that_the_plan_does_not_excuse(scenario):
    the_plan = plan(scenario)
    rows = the_plan.entitled()
    excused = the_plan.is_excused(rows.intent, rows.device, np.ones(len(the_plan), bool))
    expected = set(zip(rows.intent[~excused].tolist(), rows.device[~excused].tolist(), strict=True))
    awaited, some, messages = Awaited(the_plan), {0, 3, 4, 5, 17}, len(the_plan) - 3
    pairs = {(intent, device) for intent in range(len(the_plan)) for device in range(24) if awaited.has(intent, device)}
    assert pairs == expected
    assert awaited.counts.tolist() == [sum(i == intent for i, _ in expected) for intent in range(len(the_plan))]
    to_some = [intent for intent, device in expected if device in some and intent < messages]
    assert awaited.counts_to(some, messages).tolist() == np.bincount(to_some, minlength=messages).tolist()
    assert awaited.counts_to([], messages).sum() == 0


def test_acknowledgement_to_a_device_without_a_user_is_not_in_flight(made):
    made.recording.asked(0, 0.0)
    made.recording.users_changed([int(made.plan.sending_devices[0])], False, 0.5)
    assert made.recording.in_flight - made.recording.unreachable() == len(entitled(made.plan, 0))


def test_deliveries_to_devices_without_a_user_are_neither_in_flight_nor_overdue(made, tmp_path):
    """The sender is in one process, and the recipients, of which one leaves after it has received, in another."""
    other, devices = made_in(tmp_path, made.plan, 1), entitled(made.plan, 0)
    assert len(devices) >= 3
    gone, late = devices[:2]
    count = len(made.plan)
    for intent in range(count):
        made.recording.asked(intent, 0.0)
        made.recording.sent(intent, 0.0)
        made.recording.acked(intent, 0.1)
        for device in entitled(made.plan, intent):
            if device not in (gone, late):
                other.delivered(intent, device, 0.4, Route.PUSH)
    other.delivered(0, gone, 0.4, Route.PUSH)

    def left() -> tuple[int, int]:
        both = made.recording, other
        return (
            sum(recording.in_flight - recording.unreachable() for recording in both),
            sum(recording.progress(8.0)["overdue"] for recording in both),
        )

    missing = sum(device in (gone, late) for intent in range(count) for device in entitled(made.plan, intent)) - 1
    assert left() == (missing, missing)
    for recording in (made.recording, other):
        recording.users_changed([gone, late], False, 0.5)
    assert left() == (0, 0)
    for recording in (made.recording, other):
        recording.users_changed([late], True, 0.9)
    assert left()[0] == sum(late in entitled(made.plan, intent) for intent in range(count))
    other.close()
