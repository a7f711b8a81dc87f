"""The fact that each event becomes, and the events without a fact."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imsim.core import events
from imsim.core.model import Code, Flow, Message, Route, Scene, Session
from imsim.results import Kind, Observer, Recorder
from imsim.scenario import Plan, Scenario, plan
from imsim.scenario.actor import IdClient, action_id


@pytest.fixture(scope="module")
def mixed() -> Plan:
    """Return a plan with groups, chatrooms, recalls and edits."""
    return plan(Scenario.load("social", {"population.users": 20, "workload.rate": 5, "workload.recalls": 0.5}))


@pytest.fixture
def observed(mixed):
    return Observed(mixed, "")


class Observed:
    def __init__(self, plan: Plan, prefix: str, first_sync: int = 0) -> None:
        self.recorder = Recorder()
        self.observer = Observer(plan, self.recorder, prefix, first_sync)

    def facts(self) -> list[tuple[int, ...]]:
        return self.recorder.facts().tolist()

    def client(self, *happened: events.ClientEvent) -> list[tuple[int, ...]]:
        """Return all facts after these events of device 3 at 2 seconds."""
        for event in happened:
            if translate := self.observer.client_events.get(type(event)):
                translate(3, event, 2.0)
        return self.facts()


def test_first_sync_leaves_out_messages_up_to_a_seq_in_any_order_of_events(mixed):
    left_out = (Kind.LEFT_OUT, 5, 3, 2 * 10**9, 0)
    acked, skipped = events.Acked(IdClient(5), "group:g", 4), events.Skipped("group:g", 4, [])
    for happened in ((acked, skipped), (skipped, acked)):
        observed = Observed(mixed, "")
        assert left_out not in observed.client(*happened)
        observed = Observed(mixed, "", first_sync=2)
        assert left_out in observed.client(*happened)
        observed = Observed(mixed, "", first_sync=2)
        assert left_out not in observed.client(*(replace(one, seq=one.seq - (one is skipped)) for one in happened))


def message(id_client: str, type: str = "text", scene: Scene = Scene.GROUP) -> Message:
    return Message("group:g", 1, "", id_client, scene, type, "ann", "g", 0)


def of_message(name: str) -> list[events.ClientEvent]:
    """Return one event of each type that is about a message."""
    return [
        events.Sent(name, 1), events.Received(name, 1), events.Acked(name, "", 1),
        events.SendFailed(name, Code.TIMEOUT, ""),
        events.Shown(message(name), Flow.IN, Route.PUSH), events.Repeated(message(name)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "fact"),
    [
        (events.Sent(IdClient(5), 2), (Kind.SENT, 5, -1, 2 * 10**9, 0)),
        (events.Acked(IdClient(5), "group:g", 1), (Kind.ACKED, 5, -1, 2 * 10**9, 0)),
        (
            events.SendFailed(IdClient(5), Code.TIMEOUT, ""),
            (Kind.FAILED, 5, -1, 2 * 10**9, list(Code).index("timeout")),
        ),
        (events.Shown(message(IdClient(5)), Flow.IN, Route.SYNC), (Kind.DELIVERED, 5, 3, 2 * 10**9, 1)),
        (events.Repeated(message(IdClient(5))), (Kind.DUPLICATE, 5, 3, 2 * 10**9, 0)),
        (events.Entered("lobby", 1), (Kind.ENTERED, -1, 3, 2 * 10**9, 0)),
        (events.Disconnected(None), (Kind.DISCONNECTED, -1, 3, 2 * 10**9, 0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_client_event_becomes_a_fact(observed, event, fact):
    assert observed.client(event) == [fact]


def test_server_event_becomes_a_fact(observed):
    session = Session("bob", "d0", 1, "gateway0", 1)
    observed.observer.committed(events.Committed(message(IdClient(5))), 1.0)
    observed.observer.pushed(events.Pushed(session, message(IdClient(5)), 1), 3, 2.0)
    observed.observer.pushed(events.Shed(session, message(IdClient(6))), 4, 3.0)
    observed.observer.pushed(events.Pushed(session, message("other"), 1), 3, 2.0)
    assert observed.facts() == [
        (Kind.STORED, 5, -1, 10**9, 0), (Kind.PUSHED, 5, 3, 2 * 10**9, 0), (Kind.SHED, 6, 4, 3 * 10**9, 0),
    ]  # fmt: skip


def test_events_about_other_messages_leave_no_fact(observed):
    assert observed.client(*of_message("5"), *of_message("action x"), events.Ready(), events.Typing("p2p:a:b")) == []


def test_disconnect_is_recorded_only_with_chatrooms():
    without = Observed(plan(Scenario.load("office", {"population.users": 20})), "")
    assert without.client(events.Disconnected(None)) == []


def test_received_counts_as_ack_only_in_a_chatroom(mixed, observed):
    room, other = mixed.to_room.tolist().index(True), mixed.to_room.tolist().index(False)
    facts = observed.client(events.Received(IdClient(room), 1), events.Received(IdClient(other), 1))
    assert facts == [(Kind.ACKED, room, -1, 2 * 10**9, 0), (Kind.RECEIVED, other, -1, 2 * 10**9, 0)]


def test_recall_is_recorded_when_committed_and_when_acked(mixed, observed):
    number, recall = next((number, one) for number, one in enumerate(mixed.actions) if one.kind == "recall")
    observed.observer.committed(events.Committed(message(action_id(number))), 1.0)
    assert observed.client(events.Acked(action_id(number), "", 2)) == [
        (Kind.RECALLED, recall.intent, -1, 10**9, 0),
        (Kind.RECALLED, recall.intent, -1, 2 * 10**9, 0),
    ]


def test_observer_keeps_seqs_of_messages_to_recall_or_edit(mixed, observed):
    observed.client(*(events.Acked(IdClient(intent), "", 7 + intent) for intent in range(len(mixed))))
    observed.client(events.Acked("action 1", "", 3))
    assert observed.observer.seqs == {intent: 7 + intent for intent in mixed.amended}
    assert 10 < len(mixed.amended) < len(mixed)


def test_live_run_recognizes_messages_by_its_prefix(mixed):
    observed = Observed(mixed, "run:")
    assert observed.client(events.Sent("run:5", 1), events.Sent(IdClient(6, "run:"), 1)) == [
        (Kind.SENT, 5, -1, 2 * 10**9, 0),
        (Kind.SENT, 6, -1, 2 * 10**9, 0),
    ]
    for name in ("5", "other:5", "run:", "run:x", "run:-1", f"run:{10**10}"):
        observed.client(*of_message(name))
    assert len(observed.facts()) == 2
    beyond = len(mixed) + 3  # a message beyond the plan
    assert observed.client(events.Sent(f"run:{beyond}", 1))[-1] == (Kind.SENT, beyond, -1, 2 * 10**9, 0)


def test_shown_messages_of_other_runs_are_counted_except_notices(mixed):
    observed = Observed(mixed, "run:")
    observed.client(*of_message("other:5"), *of_message("run:5"))
    notice = message("run:action 1", type="notification")
    service = message("accept", scene=Scene.SYSTEM)
    observed.client(*(events.Shown(one, Flow.IN, Route.PUSH) for one in (notice, service)))
    assert observed.observer.foreign == 2
