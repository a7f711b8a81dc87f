"""The simulated world, through its rows."""

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

# What a message meets between the devices, one router: four backend links, and two of the clients.
CONSTANT = {"network.client.latency": "1ms", "network.backend.latency": "2ms"}
LINKS = 2 * 0.001 + 4 * 0.002


# --- the same seed gives the same rows ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_rows_in_other_processes():
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


def test_another_seed_gives_other_rows():
    office = Scenario.load("office").replace({"duration": 2.0})
    assert digest(simulate(office, seed=1)) != digest(simulate(office, seed=2))


def test_both_designs_meet_the_same_work():
    """Common random numbers: another topology leaves the messages, and each one's storage time, as they were."""
    one = imsim.simulate(Scenario.load("office", {"topology.gateways": 1}), duration=3)
    four = imsim.simulate(Scenario.load("office", {"topology.gateways": 4}), duration=3)
    columns = ["intent", "sender", "conversation", "size", "intended_at"]
    assert one.messages[columns].equals(four.messages[columns])
    assert one.digest != four.digest


# --- where the time goes (queueing theory: test_theory.py) ----------------------------------------------------------


def test_latency_without_randomness_is_the_sum_of_the_hops():
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


# --- what the rows say when something is wrong ----------------------------------------------------------------------


class Forgetful:
    """Gateways that never make the pushes for which `forgets(message)`; knows what each device can come by."""

    def __init__(self, monkeypatch, forgets):
        self.withheld = []  # (intent, user, conversation, seq)
        self.beginnings = set()  # (intent, user) of those in a group of which the device had been given nothing
        self.reached = defaultdict(int)  # (user, conversation): the highest seq that the device was given by itself
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
        """(intent, user) of what a device missed of a group before it had anything of it: that may be from before the
        user's time, so it is asked for at once."""
        missed = defaultdict(set)
        for _, user, where, seq in self.withheld:
            missed[user, where].add(seq)
        return {
            (intent, user)
            for intent, user, where, seq in self.withheld
            if where.startswith("group:") and missed[user, where].issuperset(range(1, seq + 1))
        }

    def check(self, run):
        """What was withheld is fetched where the device came to hold a later message of its conversation, or sent one;
        else it is lost. All other messages were pushed."""
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


def test_what_a_server_never_pushes_is_fetched_if_something_follows_and_lost_if_not(monkeypatch):
    forgetful = Forgetful(monkeypatch, lambda message: int(message.id_client) % 20 == 19)
    fetched, lost = forgetful.check(imsim.simulate(Scenario.load("office", {"duration": 20.0})))
    assert (fetched > 20, lost > 10) == (True, True)


@pytest.mark.parametrize(("preset", "every", "seconds"), [("office", 10, 10), ("hot-group", 100, 4)])
def test_each_so_many_eth_push_that_is_never_made_is_fetched_or_lost_and_no_other(preset, every, seconds, monkeypatch):
    """By a counter, so that one device can miss several in a row: what waits behind those gaps still arrives."""
    pushes = itertools.count(1)
    forgetful = Forgetful(monkeypatch, lambda message: next(pushes) % every == 0)
    fetched, lost = forgetful.check(imsim.simulate(preset, duration=seconds))
    assert (fetched > 20, lost > 3) == (True, True)


def test_what_is_never_pushed_is_lost_where_no_gap_is_ever_pulled(monkeypatch):
    """So that it is the pull, and nothing else, that brings it."""
    monkeypatch.setattr(Receiver, "_pull", lambda *arguments: None)
    forgetful = Forgetful(monkeypatch, lambda message: int(message.id_client) % 20 == 19)
    run = imsim.simulate(Scenario.load("office", {"duration": 20.0}))
    lost = run.deliveries[run.deliveries.outcome == "lost"]
    withheld = {(intent, user) for intent, user, _, _ in forgetful.withheld}
    assert withheld < set(zip(lost.intent, lost.recipient, strict=True))  # and what is held back behind it
    assert (run.deliveries.route.dropna() == "push").all()


def test_what_an_overloaded_service_has_not_even_stored_is_lost_too():
    overloaded = {"topology.storage.workers": 1, "topology.storage.service": {"append": "50ms"}, "workload.rate": 1}
    summary = imsim.simulate(Scenario.load("office", overloaded)).to_json_dict()
    assert summary["lost"] > summary["delivered"]
    assert summary["delivered"] + summary["lost"] == summary["deliveries"]
    assert summary["delivery_ms"]["p99"] is None


def test_a_message_refused_for_good_is_a_row_that_says_so(monkeypatch):
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


def test_nobody_gets_what_is_not_theirs():
    assert imsim.simulate("office").manifest["stray"] == 0


def test_every_device_of_a_user_is_served():
    run = imsim.simulate(Scenario.load("office", {"population.devices": 2, "duration": 3.0}))
    assert set(run.deliveries.role) == {"recipient", "own"}
    assert (run.deliveries.outcome == "delivered").all()


def test_a_login_storm_shows_in_the_rows_and_loses_nothing():
    """Sends of devices that are not online yet count from the intended time."""
    slow = {"topology.gateway.service": {"login": "200ms"}, "policies.login_timeout": 60, "drain": "20s"}
    storm = Scenario.load("office", slow | {"faults": [{"kind": "mass_reconnect", "at": "1s"}]})
    run = imsim.simulate(storm)
    assert run.to_json_dict()["lost"] == 0
    assert run.to_json_dict()["delivery_ms"]["max"] > 500


# --- the early acknowledgement ---------------------------------------------------------------------------------------

SLOW_STORAGE = Scenario.load("office", {"topology.storage": {"workers": 64, "service": {"append": "500ms"}}})


def test_an_early_ack_comes_after_a_round_trip_whatever_storage_does():
    late, early = (
        imsim.simulate(SLOW_STORAGE.replace({"policies.ack": ack})) for ack in ("after_store", "after_receive")
    )
    assert late.messages.received_at.isna().all()
    assert (early.messages.received_at < early.messages.acked_at).all()
    answers = imsim.summarize([late, early])["confirmed.p50"]
    assert answers.iloc[0] > 500
    assert 0.8 < answers.iloc[1] / (2 * 15 + 2 * 0.3) < 1.3  # the medians of the links, there and back


def test_messages_that_were_received_and_are_lost_with_the_router_are_counted():
    """Storage stands still until the end, so that the router's memory is all that has them."""
    stall = {"kind": "storage_stall", "at": "4s", "duration": "60s"}
    run = imsim.simulate(SLOW_STORAGE.replace({"policies.ack": "after_receive", "faults": [stall]}))
    of_stall = run.messages[run.messages.intended_at > 4e9]
    lost = of_stall.received_at.notna() & (of_stall.outcome != "stored")
    assert run.to_json_dict()["received_lost"] == lost.sum() > 0.9 * len(of_stall) > 100


# --- the beginning --------------------------------------------------------------------------------------------------

#: One storage worker, which would need minutes to open so many users.
LARGE = Scenario.load("office", {"population.users": 100_000, "workload.rate": 0.002, "topology.storage.workers": 1})


def test_a_run_begins_as_it_goes_on_however_many_users_log_in():
    run = imsim.simulate(LARGE.replace({"warmup": 0.0}), duration=6.0)
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    latency, is_early = rows.delivered_at - rows.intended_at, rows.intended_at < 1e9
    assert is_early.sum() > 150
    assert 0.9 < latency[is_early].median() / latency[~is_early].median() < 1.1
    assert not [warning for warning in run.warnings if "steady" in warning]


def test_logins_before_time_0_leave_no_work_and_draw_nothing():
    experiment = Experiment(LARGE, plan(LARGE, 1, 2.0), seed=1)
    experiment.log_in()
    assert {client.machine.state for client in experiment.clients.values()} == {State.ONLINE}
    assert len(experiment.clients) > 200
    assert all(node.work.station.jobs == 0 for node in experiment.cluster.nodes.values())


def test_messages_go_the_same_however_long_the_run_is():
    """Devices that are idle for the whole run are not made, and those that are not depend on its length."""
    short, long = (imsim.simulate(LARGE, duration=duration).messages for duration in (3.0, 9.0))
    done = (short.acked_at < 3e9).sum()
    assert done > 500
    pd.testing.assert_frame_equal(short.head(done), long.head(done))


def test_hot_group_reaches_everybody():
    run = imsim.simulate("hot-group", duration=2)
    stored = (run.messages.outcome == "stored").sum()
    members = run.scenario.population.users
    assert len(run.deliveries) == stored * (members - 1)
    assert (run.deliveries.outcome == "delivered").all()


def test_progress_is_reported_from_nothing_to_all():
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
def test_all_that_users_do_comes_about_and_every_message_arrives(design):
    scenario = SCENARIO.replace(design)
    experiment = Experiment(scenario, plan(scenario))
    experiment.run(scenario.duration)
    check_storage(experiment.plan, experiment.cluster.data.memory)
    tables = assemble(experiment.plan, experiment.recorder.facts(), knows_server=True)
    assert tables.stray == 0
    assert set(tables.messages["outcome"].to_pylist()) == {"stored"}
    assert set(tables.messages["attempts"].to_pylist()) == {1}
    assert set(tables.deliveries["outcome"].to_pylist()) == {"delivered"}
    # Appends to several conversations are done in any order; of notes for one user that came out of order, the user's
    # devices fetch what they may lack.
    assert sum(tables.deliveries["duplicates"].to_pylist()) <= 3
    assert digest(tables) == digest(simulate(scenario))


def test_the_rows_of_a_chatroom_tell_when_it_took_a_message():
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


def test_what_is_received_counts_as_the_answer_in_chatrooms_only():
    scenario = SCENARIO.replace({"policies.ack": "after_receive", "topology.storage.service": {"append": "300ms"}})
    messages = imsim.simulate(scenario).messages
    assert (messages.acked_at > messages.stored_at).all()


def test_guests_are_pushed_what_is_nobodys_due():
    experiment = Experiment(SCENARIO, plan(SCENARIO))
    experiment.run(SCENARIO.duration)
    facts = experiment.recorder.facts()
    shown = facts[facts["kind"] == Kind.DELIVERED]
    planned = experiment.plan
    where, who = planned.conversation[shown["intent"]].tolist(), (shown["device"] // len(planned.devices)).tolist()
    assert len(planned.guests & set(zip(where, who, strict=True))) > 3


def test_under_a_rate_chatrooms_shed_and_nothing_else_does():
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


def test_what_is_taken_back_before_a_device_has_fetched_it_is_never_shown_there():
    """And nothing else is missing."""
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


def test_a_chatroom_owes_nothing_to_who_was_not_there():
    """It keeps nothing for who has lost the connection: that is what a chatroom promises, and nothing is lost. Every
    delivery has one outcome, so they add up."""
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


def test_what_a_full_queue_drops_in_a_chatroom_is_lost():
    """Who is there is owed it."""
    crowded = {"topology.gateway.queue": 2, "topology.gateway.service": {"push": "20ms"}, "workload.recalls": 0}
    run = imsim.simulate(Scenario.load("social").replace({**crowded, "drain": "30s"}))
    rows = run.deliveries.merge(run.messages[["intent", "scene"]], on="intent")
    assert set(rows[rows.scene == "chatroom"].outcome) == {"delivered", "lost"}


def test_what_users_do_besides_is_charged_as_messages_are():
    """An invitation is looked up in storage, whether it is new and whether it is welcome; and it is delivered to each
    member, and each of these deliveries costs its time."""
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
    links = LINKS + 2 * 0.004  # the router looks up whether it was made before, and how the two stand to each other
    experiment.clock.call_at(invite.at / 1e9 + links + 0.08, lambda _: shown.append("due"), None)
    experiment.run(scenario.duration)
    assert shown[0] == "due"
    assert shown[1] == pytest.approx(invite.at / 1e9 + links + 0.09)


def test_what_a_gateway_sheds_is_recorded():
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


def test_a_live_broadcast_reaches_a_chatroom_of_thousands_or_says_what_was_shed():
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


def test_a_run_leaves_no_cycles_behind():
    """For it is carried out without the garbage collector."""
    experiment = Experiment(SCENARIO, plan(SCENARIO))
    gc.collect()
    gc.disable()
    try:
        experiment.run(SCENARIO.duration)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("spans", [False, True])
def test_an_experiment_lets_go_of_what_its_run_has_made(spans):
    """For its parts hold each other, and to find that out takes the garbage collector long."""

    def kept() -> int:
        return sum(isinstance(thing, Client | LocalConversation | Message | Timer) for thing in gc.get_objects())

    gc.collect()  # what other tests have left lying about
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
