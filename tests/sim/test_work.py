"""The time that operations take at nodes: its effect on the rows of runs."""

from __future__ import annotations

import pytest
from run_rows import delivery_seconds

import imsim
from imsim.core import frames, internal_frames, storage
from imsim.core.model import Message, Scene, Session
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.sizes import FRAME_OVERHEAD, body_bytes, carried_bytes, frame_bytes

QUIET = Scenario().replace(
    {
        "network.client.latency": "1ms",
        "network.backend.latency": "2ms",
        "population.users": 40,
        "workload.rate": 0.02,
        "duration": 20.0,
        "topology.gateway.service": {"send": "100us"},
    }
)
CONSTANT = 2 * 0.001 + 4 * 0.002 + 0.0001


# --- the time for each byte -----------------------------------------------------------------------------------------

ANN = Session("ann", "d", 1, "g0", 1)
MESSAGE = Message("p2p:ann:bob", 1, "", "0", Scene.P2P, "text", "ann", "bob", 0, "grüß", None, '"x"')


def test_body_bytes_counts_content_attachment_and_custom():
    assert body_bytes(MESSAGE) == 6 + 3
    assert body_bytes(frames.Send("0", Scene.P2P, "bob", "", "geo", {"title": "hier"})) == len('{"title":"hier"}')


@pytest.mark.parametrize(
    ("carrier", "messages"),
    [
        (MESSAGE, 1),
        (frames.Push(MESSAGE), 1),
        (internal_frames.Deliver(("bob",), MESSAGE), 1),
        (internal_frames.Down((), frames.Push(MESSAGE)), 1),
        (internal_frames.Up(ANN, frames.Send("0", Scene.P2P, "bob", "123456789"), "p2p:ann:bob"), 1),
        (frames.SyncDone([MESSAGE, MESSAGE], {}, [], 0), 2),
        (storage.Append(1, MESSAGE, 0), 1),
        (storage.MissedPage([MESSAGE] * 3, {}, False), 3),
        (storage.RangePage([]), 0),
        (frames.Ping(), 0),
        (None, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frame_carries_bytes_of_its_messages(carrier, messages):
    assert carried_bytes(carrier) == 9 * messages
    pages = messages if hasattr(carrier, "messages") else 0
    assert frame_bytes(carrier) == frame_bytes(("asker", carrier)) == FRAME_OVERHEAD * (1 + pages) + 9 * messages


def test_attachment_counts_its_fields_not_the_file():
    picture = {"url": "https://files/1", "width": 640, "height": 480, "size": 3_000_000}
    weight = frame_bytes(frames.Send("0", Scene.P2P, "bob", "", "image", picture))
    assert FRAME_OVERHEAD + 50 < weight < FRAME_OVERHEAD + 100


def test_settings_count_bytes_of_custom():
    assert frame_bytes(frames.SetConversation("p2p:ann:bob", custom='{"pin":1}')) == FRAME_OVERHEAD + 9


@pytest.mark.parametrize(
    ("path", "charges"),
    [
        ("gateway.per_byte.send", 1),
        ("gateway.per_byte.push", 1),
        ("router.per_byte.send", 1),
        ("router.per_byte.deliver", 2),  # once for each of the two members
        ("storage.per_byte.append", 1),
    ],
)
def test_each_byte_of_a_message_takes_time(path, charges):
    run = imsim.simulate(
        QUIET.replace({f"topology.{path}": "100ns", "workload.size": {"kind": "uniform", "low": 1, "high": 9000}})
    )
    rows = run.deliveries.merge(run.messages[["intent", "size"]], on="intent")
    assert rows["size"].nunique() > 5
    assert delivery_seconds(run) == pytest.approx(CONSTANT + charges * 1e-7 * rows["size"].to_numpy(), abs=1e-8)


def test_each_byte_of_an_inbox_row_takes_time():
    design = {"policies.fanout": "write", "topology.storage.per_byte": {"inbox": "1us"}, "workload.size": 1000}
    assert delivery_seconds(imsim.simulate(QUIET.replace(design))) == pytest.approx(CONSTANT + 2 * 0.001, abs=1e-8)


def test_per_byte_accepts_only_operations_with_messages():
    with pytest.raises(imsim.UsageError) as error:
        QUIET.replace({"topology.gateway.per_byte": {"pusch": "1us"}})
    assert str(error.value) == (
        "scenario custom: topology.gateway.per_byte.pusch: expected an operation that carries messages"
        " (did you mean 'push'?): entered, history_page, page, push, send, sync_done"
    )
    with pytest.raises(imsim.UsageError, match=r"per_byte.ping: expected an operation that carries messages:"):
        QUIET.replace({"topology.gateway.per_byte.ping": "1us"})
    assert Scenario.from_toml(QUIET.replace({"topology.storage.per_byte.append": "10ns"}).to_toml()) == QUIET.replace(
        {"topology.storage.per_byte.append": "10ns"}
    )


# --- bounded queues -------------------------------------------------------------------------------------------------

BUSY = QUIET.replace({"workload.rate": 4.0, "duration": 4.0, "drain": 30.0})  # 160 messages a second


def drops(scenario: Scenario, tier: str) -> int:
    experiment = Experiment(scenario, plan(scenario))
    experiment.run(scenario.duration)
    nodes = [node for node in experiment.cluster.nodes.values() if node.tier == tier]
    return sum(node.work.station.drops for node in nodes)


@pytest.mark.parametrize(
    ("tier", "op"),
    [("gateway", "send"), ("gateway", "push"), ("router", "send"), ("router", "deliver"), ("storage", "append")],
)
def test_dropped_operation_is_counted_and_repeated_until_it_succeeds(tier, op):
    """The timers of the senders repeat dropped operations, and each message is shown once."""
    scenario = BUSY.replace(
        {
            "workload.rate": 2.0,
            f"topology.{tier}.service": {op: "5ms"},
            f"topology.{tier}.queue": 2,
            "policies.send_attempts": 99,
            "policies.send_timeout": 0.5,
        }
    )
    assert drops(scenario, tier) > 10
    run = imsim.simulate(scenario)
    assert run.manifest["stray"] == 0
    counts = run.to_json_dict()
    assert counts["messages"] == len(run.messages)
    assert counts["delivered"] + counts["lost"] == counts["deliveries"] == len(run.messages)
    assert (run.messages.outcome == "stored").all()
    # A dropped `deliver` is not repeated. The next message of the conversation reveals the gap.
    assert counts["lost"] == 0 or op == "deliver"
    assert run.digest == imsim.simulate(scenario).digest


def test_queue_that_is_never_full_changes_no_row():
    scenario = BUSY.replace(
        {"topology.gateway.service": {"send": "2ms"}, "topology.storage.service": {"append": "3ms"}}
    )
    wide = scenario.replace({"topology.gateway.queue": 1000, "topology.storage.queue": 1000})
    assert imsim.simulate(wide).digest == imsim.simulate(scenario).digest
    assert drops(wide, "storage") == 0


def test_operation_without_time_is_not_queued_or_dropped():
    scenario = BUSY.replace({"topology.storage.service": {"save_state": "1h"}, "topology.storage.queue": 1})
    assert set(imsim.simulate(scenario.replace({"duration": 1.0})).messages.outcome) == {"stored"}


# --- custom stations ------------------------------------------------------------------------------------------------


class Paused:
    """A station with one worker, which starts no job between 1 s and 1.5 s."""

    def __init__(self, tier):
        self.free = float("-inf")

    def submit(self, now, demand, flow):
        start = max(now, self.free)
        if 1.0 <= start < 1.5:
            start = 1.5
        self.free = start + demand
        return self.free


class Picky(Paused):
    """A station that accepts every second job."""

    odd = False

    def submit(self, now, demand, flow):
        self.odd = not self.odd
        return super().submit(now, demand, flow) if self.odd else None


def test_custom_station_serves_node():
    design = BUSY.replace({"topology.storage.service": {"append": "1ms"}, "duration": 2.0})
    run = imsim.simulate(design.replace({"topology.storage.station": Paused}))
    waits = delivery_seconds(run)
    assert 0.4 < waits.max() < 0.6
    assert run.digest == imsim.simulate(run.scenario).digest != imsim.simulate(design).digest


@pytest.mark.parametrize("tier", ["gateway", "router", "storage"])
def test_drops_of_custom_station_are_repeated(tier):
    service = {"gateway": "send", "router": "send", "storage": "append"}
    scenario = QUIET.replace({f"topology.{tier}.service": {service[tier]: "1ms"}, f"topology.{tier}.station": Picky})
    changes = {"policies.send_timeout": 0.5, "policies.send_backoff": 1.0, "topology.gateway.workers": 2}
    scenario = scenario.replace(changes)
    run = imsim.simulate(scenario)
    assert drops(scenario, tier) > 5
    assert run.messages.attempts.max() > 1
    assert (run.messages.outcome == "stored").all()
    assert (run.deliveries.duplicates == 0).all()


def test_file_contains_name_of_custom_station_and_cannot_be_read():
    scenario = QUIET.replace({"topology.storage.station": Paused})
    assert scenario.replace({"seed": 3}).topology.storage.station is Paused
    text = scenario.to_toml()
    assert 'station = "custom part Paused"' in text
    with pytest.raises(imsim.UsageError, match=r"topology.storage.station: custom part Paused exists only in Python"):
        Scenario.from_toml(text)
    with pytest.raises(imsim.UsageError, match=r"topology.storage.station: expected a Python class or function"):
        Scenario().replace({"topology.storage.station": 3})


def test_run_with_custom_parts_can_be_opened_but_not_simulated(tmp_path):
    class Bimodal(imsim.CustomDistribution):
        fast: float

        def quantile(self, u):
            return self.fast

    parts = {
        "topology.storage.service.append": Bimodal(fast=0.001),
        "topology.storage.station": Paused,
        "topology.placement": lambda name, nodes: 0,
    }
    run = imsim.simulate(QUIET.replace({**parts, "duration": 2.0}))
    again = imsim.read_run(run.write(tmp_path))
    assert again.digest == run.digest
    assert again.scenario.to_toml() == run.scenario.to_toml()
    assert again.scenario != run.scenario
    assert again.scenario == imsim.read_run(again.path).scenario == again.scenario.replace({"seed": again.seed})
    problem = "custom part .* is missing: the file contains only its name; pass the object with Scenario.replace"
    with pytest.raises(imsim.UsageError, match=problem):
        imsim.simulate(again.scenario)
    only_latency = again.scenario.replace({"topology.placement": "hash", "topology.storage.station": None})
    with pytest.raises(imsim.UsageError, match=problem):
        imsim.simulate(only_latency)
    assert imsim.simulate(again.scenario.replace(parts)).digest == run.digest
