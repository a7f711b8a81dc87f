"""Simulated runs: their rows."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from mixed_workload import SCENARIO, check_storage
from run_rows import delivery_seconds

import imsim
from imsim.core import events, frames, internal_frames
from imsim.core.client.client import Client
from imsim.core.client.connection import State
from imsim.core.client.conversations import LocalConversation
from imsim.core.client.receiver import Receiver
from imsim.core.gateway import gateway
from imsim.core.gateway.gateway import Gateway
from imsim.core.gateway.pushes import Pushes
from imsim.core.model import Code, Message, Scene
from imsim.core.timers import Timer
from imsim.results import Kind, assemble, digest
from imsim.scenario import Scenario, plan
from imsim.scenario.actor import IdClient
from imsim.sim import Experiment, simulate

# The links between two devices with one router: four backend links and two client links.
CONSTANT = {"network.client.latency": "1ms", "network.backend.latency": "2ms"}
LINKS = 2 * 0.001 + 4 * 0.002


# --- the same seed gives the same rows ------------------------------------------------------------------------------


def test_same_seed_gives_same_rows_in_other_processes():
    program = """import imsim
for preset in ("office", "social", "hot-group"):
    print(imsim.simulate(preset, seed=5, duration=1).digest)
"""
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]
    assert digests[0] == digests[1]
    assert digests[0].startswith(imsim.simulate("office", seed=5, duration=1).digest + "\n")
    assert len(set(digests[0].split())) == 3


def test_other_seed_gives_other_rows():
    office = Scenario.load("office").replace({"duration": 2.0})
    assert digest(simulate(office, seed=1)) != digest(simulate(office, seed=2))


def test_designs_receive_same_messages():
    """With common random numbers, another topology does not change the messages."""
    one = imsim.simulate(Scenario.load("office", {"topology.gateways": 1}), duration=3)
    four = imsim.simulate(Scenario.load("office", {"topology.gateways": 4}), duration=3)
    columns = ["intent", "sender", "conversation", "size", "intended_at"]
    assert one.messages[columns].equals(four.messages[columns])
    assert one.digest != four.digest


# --- where the time goes (queueing theory: test_theory.py) ----------------------------------------------------------


def test_latency_without_randomness_is_sum_of_hops():
    scenario = Scenario().replace(
        {
            "network.client.latency": "10ms",
            "network.backend.latency": "1ms",
            "workload.rate": 0.01,
            "duration": 20.0,
            "topology.gateway.service": {"send": "100us", "push": "200us"},
            "topology.router.service": {"send": "300us", "deliver": "50us"},
            "topology.storage.service": {"append": "2ms"},
        }
    )
    run = imsim.simulate(scenario)
    # client - gateway - router - storage - router - gateway - client; deliver costs once for each of two members.
    expected = 0.010 + 0.0001 + 0.001 + 0.0003 + 0.002 + 2 * 0.001 + 2 * 0.00005 + 0.001 + 0.0002 + 0.010
    seconds = delivery_seconds(run)
    assert len(seconds) > 10
    assert seconds == pytest.approx(expected, abs=1e-8)


# --- rows of runs with problems -------------------------------------------------------------------------------------


class Forgetful:
    """Gateways that omit the pushes of messages for which `forgets(message)` is true.

    It records the omitted pushes, and the highest seq that each device can learn.
    """

    def __init__(self, monkeypatch, forgets):
        self.withheld = []  # (intent, user, conversation, seq)
        self.beginnings = set()  # (intent, user) of the messages to a group of which the device had no message yet
        self.reached = defaultdict(int)  # (user, conversation): the highest seq that the device was sent
        push, receive = Pushes.push, Gateway.receive_from_router

        def push_or_not(pushes, frame, now):
            message, user = frame.message, pushes._session.user
            if forgets(message):
                where = message.conversation_id
                if where.startswith("group:") and not self.reached[user, where]:
                    self.beginnings.add((int(message.id_client), user))
                self.withheld.append((int(message.id_client), user, message.conversation_id, message.seq))
                return True
            self.reach(user, message.conversation_id, message.seq)
            return push(pushes, frame, now)

        def watch(gateway, frame, now):
            if isinstance(frame, internal_frames.Down) and isinstance(frame.frame, frames.Stored):
                for session in frame.sessions:
                    self.reach(session.user, frame.frame.conversation_id, frame.frame.seq)
            receive(gateway, frame, now)

        monkeypatch.setitem(gateway._PUSHES, frames.Push, push_or_not)
        monkeypatch.setattr(Gateway, "receive_from_router", watch)

    def reach(self, user, conversation, seq):
        self.reached[user, conversation] = max(self.reached[user, conversation], seq)

    def of_the_beginning(self):
        """Return (intent, user) of the messages to a group that a device missed before its first one.

        The device fetches them at once, because they may be from the time before the user was a member.
        """
        missed = defaultdict(set)
        for _, user, where, seq in self.withheld:
            missed[user, where].add(seq)
        return {
            (intent, user)
            for intent, user, where, seq in self.withheld
            if where.startswith("group:") and missed[user, where].issuperset(range(1, seq + 1))
        }

    def check(self, run):
        """Check that withheld messages are fetched or lost, and that all others are pushed.

        A withheld message is fetched if the device later receives or sends a message in its conversation.
        """
        fetched = {(i, user) for i, user, where, seq in self.withheld if seq < self.reached[user, where]}
        lost = {(i, user) for i, user, where, seq in self.withheld if seq > self.reached[user, where]}
        assert len(fetched) + len(lost) == len(self.withheld)
        rows = run.deliveries.set_index(["intent", "recipient"])
        missing, by_sync = rows[rows.outcome == "lost"], rows[rows.route == "sync"]
        assert set(missing.index) == lost
        assert run.to_json_dict()["lost"] == len(lost)
        assert set(by_sync.index) == fetched
        assert (by_sync.outcome == "delivered").all()
        assert by_sync.pushed_at.isna().all()
        assert (rows.drop(missing.index).drop(by_sync.index).route == "push").all()
        intended_at = run.messages.set_index("intent").intended_at
        waited = by_sync.delivered_at - intended_at[by_sync.index.get_level_values("intent")].to_numpy()
        beginning = self.of_the_beginning()
        is_first = np.array([one in beginning for one in by_sync.index])
        assert (waited[~is_first] > run.scenario.policies.gap_wait * 1e9).all()
        assert not is_first.any() or waited[is_first].min() < run.scenario.policies.gap_wait * 1e9
        return len(fetched), len(lost)


def test_missing_push_is_fetched_if_a_later_message_arrives_else_lost(monkeypatch):
    forgetful = Forgetful(monkeypatch, lambda message: int(message.id_client) % 20 == 19)
    fetched, lost = forgetful.check(imsim.simulate(Scenario.load("office", {"duration": 20.0})))
    assert (fetched > 20, lost > 10) == (True, True)


@pytest.mark.parametrize(("preset", "every", "seconds"), [("office", 10, 10), ("hot-group", 100, 4)])
def test_every_nth_missing_push_is_fetched_or_lost(preset, every, seconds, monkeypatch):
    """A counter selects the pushes, so one device can miss several in a row. Messages behind these gaps arrive."""
    pushes = itertools.count(1)
    forgetful = Forgetful(monkeypatch, lambda message: next(pushes) % every == 0)
    fetched, lost = forgetful.check(imsim.simulate(preset, duration=seconds))
    assert (fetched > 20, lost > 3) == (True, True)


def test_missing_push_is_lost_if_gaps_are_not_fetched(monkeypatch):
    """This proves that only the request for the gap fetches a missing message."""
    monkeypatch.setattr(Receiver, "_pull", lambda *arguments: None)
    forgetful = Forgetful(monkeypatch, lambda message: int(message.id_client) % 20 == 19)
    run = imsim.simulate(Scenario.load("office", {"duration": 20.0}))
    lost = run.deliveries[run.deliveries.outcome == "lost"]
    withheld = {(intent, user) for intent, user, _, _ in forgetful.withheld}
    assert withheld < set(zip(lost.intent, lost.recipient, strict=True))  # the messages behind them are lost too
    assert (run.deliveries.route.dropna() == "push").all()


def test_messages_that_overloaded_service_has_not_stored_are_lost():
    overloaded = {"topology.storage.workers": 1, "topology.storage.service": {"append": "50ms"}, "workload.rate": 1}
    summary = imsim.simulate(Scenario.load("office", overloaded)).to_json_dict()
    assert summary["lost"] > summary["delivered"]
    assert summary["delivered"] + summary["lost"] == summary["deliveries"]
    assert summary["delivery_ms"]["p99"] is None


def test_permanently_refused_message_has_row_with_error(monkeypatch):
    def strict(self, connection, frame, now):
        if frame.id_client == "7":
            self._reject(connection, frame, Code.TOO_LARGE, "")
        else:
            Gateway._send(self, connection, frame, now)

    monkeypatch.setitem(gateway._HANDLERS, frames.Send, strict)
    run = imsim.simulate("office")
    row = run.messages.set_index("intent").loc[7]
    assert (row.outcome, row.error) == ("rejected", "too_large")
    assert 7 not in set(run.deliveries.intent)
    assert run.to_json_dict()["lost"] == 0


def test_office_has_no_stray_deliveries():
    assert imsim.simulate("office").manifest["stray"] == 0


def test_every_device_of_a_user_receives_messages():
    run = imsim.simulate(Scenario.load("office", {"population.devices": 2, "duration": 3.0}))
    assert set(run.deliveries.role) == {"recipient", "own"}
    assert (run.deliveries.outcome == "delivered").all()


def test_login_storm_delays_messages_and_loses_none():
    """Sends of devices that are not online yet count from the intended time."""
    slow = {"topology.gateway.service": {"login": "200ms"}, "policies.login_timeout": 60, "drain": "20s"}
    storm = Scenario.load("office", slow | {"faults": [{"kind": "mass_reconnect", "at": "1s"}]})
    run = imsim.simulate(storm)
    assert run.to_json_dict()["lost"] == 0
    assert run.to_json_dict()["delivery_ms"]["max"] > 500


# --- the early acknowledgement ---------------------------------------------------------------------------------------

SLOW_STORAGE = Scenario.load("office", {"topology.storage": {"workers": 64, "service": {"append": "500ms"}}})


def test_early_ack_takes_one_round_trip_with_slow_storage():
    late, early = (
        imsim.simulate(SLOW_STORAGE.replace({"policies.ack": ack})) for ack in ("after_store", "after_receive")
    )
    assert late.messages.received_at.isna().all()
    assert (early.messages.received_at < early.messages.acked_at).all()
    answers = imsim.summarize([late, early])["confirmed.p50"]
    assert answers.iloc[0] > 500
    assert 0.8 < answers.iloc[1] / (2 * 15 + 2 * 0.3) < 1.3  # the medians of the links in both directions


def test_received_messages_that_are_never_stored_are_counted():
    """Storage is stalled until the end, so only the memory of the router has the messages."""
    stall = {"kind": "storage_stall", "at": "4s", "duration": "60s"}
    changes = {"policies.ack": "after_receive", "limits.longest_wait": "60s", "faults": [stall]}
    run = imsim.simulate(SLOW_STORAGE.replace(changes))
    of_stall = run.messages[run.messages.intended_at > 4e9]
    lost = of_stall.received_at.notna() & (of_stall.outcome != "stored")
    assert run.to_json_dict()["received_lost"] == lost.sum() > 0.9 * len(of_stall) > 100


# --- the beginning --------------------------------------------------------------------------------------------------

#: One storage worker, which would need minutes to open all users.
LARGE = Scenario.load("office", {"population.users": 100_000, "workload.rate": 0.002, "topology.storage.workers": 1})


def test_run_starts_in_steady_state_with_many_users():
    run = imsim.simulate(LARGE.replace({"warmup": 0.0}), duration=6.0)
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    latency, is_early = rows.delivered_at - rows.intended_at, rows.intended_at < 1e9
    assert is_early.sum() > 150
    assert 0.9 < latency[is_early].median() / latency[~is_early].median() < 1.1
    assert not [warning for warning in run.warnings if "steady" in warning]


def test_logins_before_time_0_leave_no_work():
    experiment = Experiment(LARGE, plan(LARGE, 1, 2.0), seed=1)
    experiment.log_in()
    assert {client.machine.state for client in experiment.clients.values()} == {State.ONLINE}
    assert len(experiment.clients) > 200
    assert all(node.work.station.jobs == 0 for node in experiment.cluster.nodes.values())


def test_duration_does_not_change_earlier_messages():
    """Devices that are idle for the whole run have no client. The duration decides which ones these are."""
    short, long = (imsim.simulate(LARGE, duration=duration).messages for duration in (3.0, 9.0))
    done = (short.acked_at < 3e9).sum()
    assert done > 500
    pd.testing.assert_frame_equal(short.head(done), long.head(done))


def test_hot_group_reaches_all_members():
    run = imsim.simulate("hot-group", duration=2)
    stored = (run.messages.outcome == "stored").sum()
    members = run.scenario.population.users
    assert len(run.deliveries) == stored * (members - 1)
    assert (run.deliveries.outcome == "delivered").all()


def test_progress_grows_to_one():
    shares = []
    simulate(Scenario.load("office", {"duration": 2.0}), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# --- a mixed workload -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"policies.fanout": "write", "topology.routers": 3},
        {"policies.ack": "after_receive", "topology.storages": 2, "population.devices": 1},
    ],
)
def test_mixed_workload_completes_all_actions_and_deliveries(design):
    scenario = SCENARIO.replace(design)
    experiment = Experiment(scenario, plan(scenario))
    experiment.run(scenario.duration)
    check_storage(experiment.plan, experiment.cluster.data.memory)
    tables = assemble(experiment.plan, experiment.recorder.facts())
    assert tables.stray == 0
    assert set(tables.messages["outcome"].to_pylist()) == {"stored"}
    assert set(tables.messages["attempts"].to_pylist()) == {1}
    assert set(tables.deliveries["outcome"].to_pylist()) == {"delivered"}
    # Appends to several conversations end in any order. If notes for a user arrive out of order, the user's devices
    # fetch the missing ones, and may receive some twice.
    assert sum(tables.deliveries["duplicates"].to_pylist()) <= 3
    assert digest(tables) == digest(simulate(scenario))


def test_rows_of_chatroom_have_time_of_acceptance():
    run = imsim.simulate(SCENARIO)
    rows = run.messages[run.messages.scene == "chatroom"]
    assert len(rows) > 10
    assert (rows.intended_at <= rows.sent_at).all()
    assert (rows.sent_at < rows.stored_at).all()
    assert (rows.stored_at < rows.acked_at).all()
    deliveries = run.deliveries.merge(rows[["intent", "stored_at"]], on="intent")
    assert set(deliveries.role) == {"recipient", "own"}
    assert set(deliveries.route) == {"push"}
    assert (deliveries.stored_at <= deliveries.pushed_at).all()
    assert (deliveries.pushed_at < deliveries.delivered_at).all()


def test_received_counts_as_ack_only_in_chatrooms():
    scenario = SCENARIO.replace({"policies.ack": "after_receive", "topology.storage.service": {"append": "300ms"}})
    messages = imsim.simulate(scenario).messages
    assert (messages.acked_at > messages.stored_at).all()


def test_guests_receive_messages_without_rows():
    experiment = Experiment(SCENARIO, plan(SCENARIO))
    experiment.run(SCENARIO.duration)
    facts = experiment.recorder.facts()
    shown = facts[facts["kind"] == Kind.DELIVERED]
    planned = experiment.plan
    where, who = planned.conversation[shown["intent"]].tolist(), (shown["device"] // len(planned.devices)).tolist()
    assert len(planned.guests & set(zip(where, who, strict=True))) > 3


def test_room_rate_sheds_only_in_chatrooms():
    run = imsim.simulate(SCENARIO.replace({"limits.room_rate": 1.0, "limits.room_burst": 2}))
    scene = run.messages.set_index("intent").scene[run.deliveries.intent].to_numpy()
    shed = (run.deliveries.outcome == "shed").to_numpy()
    assert set(scene[shed]) == {"chatroom"}
    counts = run.to_json_dict()
    assert counts["shed"] == shed.sum() > 20
    assert counts["lost"] == 0
    assert counts["delivered"] + counts["shed"] == counts["deliveries"]
    assert run.deliveries[shed].pushed_at.isna().all()
    assert (run.messages.outcome == "stored").all()


def test_message_recalled_before_fetch_is_not_shown():
    """All other messages are delivered."""
    notified = SCENARIO.replace(
        {"policies.delivery": "notify", "workload.recalls": 0.2, "workload.amended_after": "80ms"}
    )
    run = imsim.simulate(notified)
    recalled = {action.intent for action in plan(notified).actions if action.kind == "recall"}
    assert set(run.deliveries.outcome) == {"delivered", "recalled"}
    never_shown = run.deliveries[run.deliveries.outcome == "recalled"]
    assert 0 < len(never_shown) < 50
    assert set(never_shown.intent) < recalled
    counts = run.to_json_dict()
    assert (counts["recalled"], counts["lost"]) == (len(never_shown), 0)
    assert counts["delivery_ms"]["max"] is not None


def test_chatroom_delivery_to_disconnected_device_is_absent():
    """A chatroom keeps no messages for devices that have lost their connection, so these deliveries are not lost.

    Every delivery has one outcome, so the counts add up.
    """
    faults = [
        {"kind": "node_crash", "target": "gateway0", "at": 3, "duration": 2},
        {"kind": "mass_reconnect", "share": 0.5, "at": 6},
    ]
    run = imsim.simulate(
        Scenario.load("social").replace(
            {"faults": faults, "limits.room_rate": 1, "limits.room_burst": 2, "drain": "30s"}
        )
    )
    summary = run.to_json_dict()
    assert summary["lost"] == 0
    assert summary["delivery_ms"]["max"] is not None
    assert min(summary[name] for name in ("delivered", "absent", "shed")) > 20
    assert summary["deliveries"] == sum(summary[name] for name in ("delivered", "lost", "absent", "recalled", "shed"))
    rows = run.deliveries.merge(run.messages, on="intent", suffixes=("", "_sent"))
    absent = rows[rows.outcome == "absent"]
    assert set(absent.scene) == {"chatroom"}
    near = pd.concat([(absent.stored_at / 1e9).between(at - 5, at + 7) for at in (3, 6)], axis=1)
    assert near.any(axis=1).all()


def test_chatroom_message_dropped_by_full_queue_is_lost():
    """Connected devices are entitled to every message, except shed ones."""
    crowded = {"topology.gateway.queue": 2, "topology.gateway.service": {"push": "20ms"}, "workload.recalls": 0}
    run = imsim.simulate(Scenario.load("social").replace({**crowded, "drain": "30s"}))
    rows = run.deliveries.merge(run.messages[["intent", "scene"]], on="intent")
    assert set(rows[rows.scene == "chatroom"].outcome) == {"delivered", "lost"}


def test_actions_take_service_time():
    """The router looks up twice in storage whether an invitation is new and allowed. Each delivery of it takes time."""
    base = {
        **CONSTANT,
        "population.users": 10,
        "workload.rate": 1e-9,
        "duration": 3.0,
        "conversations": {"groups": 1, "group_size": 8, "churn": 1.0},
        "topology.router.service": {"deliver": "10ms"},
    }
    experiment = Experiment(scenario := Scenario().replace(base), plan(scenario))
    (invite, *_) = experiment.plan.actions
    shown = []
    experiment.listeners.append(lambda node, event: shown.append(node.now) if isinstance(event, events.Shown) else None)
    links = (
        LINKS + 2 * 0.004
    )  # the router looks up whether the invitation exists already, and the relation of the two users
    experiment.clock.call_at(invite.at / 1e9 + links + 0.08, lambda _: shown.append("due"), None)
    experiment.run(scenario.duration)
    assert shown[0] == "due"
    assert shown[1] == pytest.approx(invite.at / 1e9 + links + 0.09)


def test_messages_shed_by_gateway_are_recorded():
    quick = {"population.users": 2, "workload.rate": 1.0, "limits.room_rate": 0.001, "limits.room_burst": 2}
    scenario = Scenario().replace(quick)
    experiment = Experiment(scenario, plan(scenario))
    ann, bob = experiment.clients.values()
    for client in experiment.clients.values():
        client.act(client.machine.start)
    experiment.clock.run(until=-5.0)
    for client in experiment.clients.values():
        client.act(lambda now, client=client: client.machine.enter("lobby", now))
    experiment.clock.run(until=-4.0)
    for intent in range(3):
        ann.act(lambda now, intent=intent: ann.machine.send(Scene.CHATROOM, "lobby", "hi", IdClient(intent), now))
    experiment.clock.run(until=-3.0)
    facts = experiment.recorder.facts().tolist()
    found = {kind: [(intent, device) for k, intent, device, *_ in facts if k == kind] for kind in Kind}
    assert found[Kind.STORED] == [(0, -1), (1, -1), (2, -1)]
    assert found[Kind.DELIVERED] == [(0, bob.number), (1, bob.number)]
    assert found[Kind.SHED] == [(2, bob.number)]


def test_large_chatroom_delivers_or_sheds_every_message():
    scenario = Scenario(duration=3.0).replace(
        {
            "population.users": 1500,
            "conversations.p2p_share": 0.0,
            "conversations.room_share": 1.0,
            "conversations.partners": 0,
            "conversations.rooms": 1,
            "conversations.room_size": 1500,
            "workload.rate": 0.004,
        }
    )
    everything = simulate(scenario).deliveries.column("outcome").to_pylist()
    assert set(everything) == {"delivered"}
    limited = simulate(scenario.replace({"limits.room_rate": 2.0, "limits.room_burst": 3}))
    outcomes = limited.deliveries.column("outcome").to_pylist()
    assert len(outcomes) == len(everything)
    assert set(outcomes) == {"delivered", "shed"}
    assert outcomes.count("delivered") > 3 * 1499


# --- garbage --------------------------------------------------------------------------------------------------------


def test_run_leaves_no_reference_cycles():
    """The garbage collector is off during a run."""
    experiment = Experiment(SCENARIO, plan(SCENARIO))
    gc.collect()
    gc.disable()
    try:
        experiment.run(SCENARIO.duration)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("spans", [False, True])
def test_finished_experiment_releases_messages(spans):
    """The parts of an experiment refer to each other, and the garbage collector needs long to find such cycles."""

    def kept() -> int:
        return sum(isinstance(thing, Client | LocalConversation | Message | Timer) for thing in gc.get_objects())

    gc.collect()  # removes the objects of other tests
    experiment = Experiment(SCENARIO, plan(SCENARIO), spans=spans)
    before = kept()
    gc.disable()
    try:
        experiment.run(SCENARIO.duration)
        assert kept() > before + 100
        experiment.finish()
        assert kept() <= before
    finally:
        gc.enable()
