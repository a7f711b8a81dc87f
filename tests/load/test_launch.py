"""Tests of whole load runs against the real server. Locust runs in its own process; the tests examine the run."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from itertools import compress
from urllib.request import urlopen

import numpy as np
import pytest
from load.conftest import forking_child
from mixed_workload import SCENARIO, check_storage

import imsim
from imsim.analysis.latency import delivery_latencies
from imsim.core import events, frames
from imsim.core.exceptions import RunError, UsageError
from imsim.core.policies import Policies
from imsim.live import SqliteStore
from imsim.live.stores.tables import SqliteStorage
from imsim.load import launch
from imsim.load.launch import loadtest
from imsim.results import RunData
from imsim.scenario import plan


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Put the logs of failed runs into the test's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def run(tiny, url, tmp_path_factory):
    return loadtest(tiny, url, out=tmp_path_factory.mktemp("results"))


def test_messages_of_a_run_equal_the_plan(run, tiny):
    the_plan, messages = plan(tiny), run.messages
    assert np.array_equal(messages.intended_at.to_numpy(np.int64), the_plan.at)
    assert messages.intent.tolist() == list(range(len(the_plan)))
    assert messages.sender.tolist() == [the_plan.users[user] for user in the_plan.sender]
    assert messages.device.tolist() == [the_plan.devices[device] for device in the_plan.device]
    assert messages.conversation.tolist() == [the_plan.conversations[c].id for c in the_plan.conversation]
    assert messages["size"].tolist() == the_plan.size.tolist()
    assert set(messages.scene) == {"p2p", "group"}


def test_run_loses_no_message(run, tiny):
    assert (run.messages.outcome == "stored").all()
    assert (run.messages.attempts == 1).all()
    assert len(run.deliveries) == len(plan(tiny).entitled().intent)
    assert (run.deliveries.outcome == "delivered").all()
    assert run.deliveries.duplicates.sum() == 0
    assert (run.manifest["stray"], run.manifest["foreign"]) == (0, 0)


def test_times_of_a_run_are_in_order_and_not_before_the_intended_time(run):
    messages = run.messages
    assert (messages.sent_at >= messages.intended_at).all()
    assert (messages.acked_at > messages.sent_at).all()
    assert messages.stored_at.isna().all()
    sent_at = messages.set_index("intent").sent_at
    assert (run.deliveries.delivered_at.to_numpy() > sent_at[run.deliveries.intent].to_numpy()).all()


def test_manifest_describes_the_measurement(run, tiny, url):
    manifest = run.manifest
    assert (run.world, run.seed, manifest["url"]) == ("live", tiny.seed, url)
    assert manifest["locust"].startswith("2.")
    (worker,) = manifest["workers"]
    assert worker["health"]["lateness"]["count"] == len(run.messages)
    assert worker["health"]["receiving"]["count"] > 0
    assert manifest["receiving_ms"]["p50"] <= manifest["receiving_ms"]["p99"] <= manifest["receiving_ms"]["max"]
    assert manifest["lateness_ms"]["p50"] <= manifest["lateness_ms"]["p99"] <= manifest["lateness_ms"]["max"]
    assert manifest["namespace"].startswith("r")
    assert manifest["locust_cpu"] > 0
    assert manifest["server"] == {"name": "imsim", "version": version("imsim")}
    assert run.server is None  # it is imsim's own


def test_folder_of_a_run_contains_the_log(run):
    assert RunData.open(run.path, verify=True).digest == run.digest
    log = (run.path / "locust.log").read_text()
    assert "send -> delivered" in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def mixed(server_with, tmp_path_factory, forked):
    """A run with every kind of action, and the storage file of its server."""
    folder = tmp_path_factory.mktemp("mixed")
    pipes = tmp_path_factory.mktemp("pipes")
    with server_with(store=SqliteStore(folder / "kept.sqlite")) as server, forking_child(forked, pipes):
        run = loadtest(SCENARIO, server.url, out=folder)
    storage = SqliteStorage(folder / "kept.sqlite")
    yield run, storage
    storage.close()


def test_mixed_run_stores_every_action(mixed):
    run, storage = mixed
    namespace = run.manifest["namespace"]
    check_storage(plan(SCENARIO), storage, lambda name: f"{namespace}.{name}", lambda intent: f"{namespace}:{intent}")


def test_mixed_run_has_the_plan_of_the_simulation(mixed):
    run, _ = mixed
    simulated = imsim.simulate(SCENARIO)
    for column in ("intent", "sender", "device", "conversation", "scene", "type", "size", "intended_at"):
        assert simulated.messages[column].equals(run.messages[column]), column
    for column in ("intent", "recipient", "device", "role", "outcome"):
        assert simulated.deliveries[column].equals(run.deliveries[column]), column


def test_mixed_run_delivers_every_message(mixed):
    run, _ = mixed
    assert set(run.messages.scene) == {"p2p", "group", "chatroom"}
    assert set(run.messages.type) == set(SCENARIO.workload.types)
    assert (run.messages.outcome == "stored").all()
    assert (run.messages.acked_at > run.messages.sent_at).all()
    assert (run.deliveries.outcome == "delivered").all()
    assert run.deliveries.duplicates.sum() == 0
    warnings = [line for line in run.manifest["warnings"] if "the generator" not in line]  # on a busy machine
    assert (run.manifest["stray"], run.manifest["foreign"], warnings) == (0, 0, [])
    assert run.manifest["shed"] == 0
    assert "Traceback" not in (run.path / "locust.log").read_text()


@pytest.mark.usefixtures("forked_child")
def test_messages_shed_in_a_chatroom_are_lost_and_give_a_warning(server_with):
    """A client cannot distinguish shed messages from lost ones. All other messages arrive."""
    shed = []
    policies = Policies(room_rate=1.0, room_burst=1)
    with server_with(lambda server, event: shed.append(event), policies) as server:
        run = loadtest(SCENARIO.replace({"drain": 1.0}), server.url)
    shed = [event for event in shed if isinstance(event, events.Shed)]
    missing = run.deliveries[run.deliveries.outcome == "lost"]
    assert len(missing) == len(shed) == run.manifest["shed"] > 10
    assert set(run.messages.scene[missing.intent]) == {"chatroom"}
    missing_warning = f"{len(shed)} deliveries of chatroom messages never arrived: they were lost, or shed"
    assert [warning for warning in run.manifest["warnings"] if warning.startswith(missing_warning)]


@pytest.mark.usefixtures("forked_child")
def test_full_chatroom_gives_a_one_line_error(server_with):
    with (
        server_with(policies=Policies(room_size=3)) as server,
        pytest.raises(RunError, match=r"did not let a device into the chatroom r\d: too_large: "),
    ):
        loadtest(SCENARIO, server.url)


@pytest.mark.usefixtures("forked_child")
def test_second_run_on_the_same_server_has_no_duplicates(run, tiny, url):
    """The run starts in another thread, as in a notebook's executor: without signal handlers or an event loop."""
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(loadtest, tiny.replace({"duration": 0.5, "seed": 8}), url).result()
    assert again.path is None
    assert (again.seed, again.scenario.duration) == (8, 0.5)
    assert (again.messages.outcome == "stored").all()
    assert (again.deliveries.outcome == "delivered").all()
    assert again.manifest["namespace"] != run.manifest["namespace"]


@pytest.mark.usefixtures("forked_child")
def test_message_without_push_is_fetched_if_another_follows_and_lost_otherwise(tiny, server_with, monkeypatch):
    committed = {}  # intent -> (conversation, seq)

    def is_withheld(intent):
        return intent is not None and intent % 5 == 0

    def send(self, connection, frame):
        if not (isinstance(frame, frames.Push) and is_withheld(intent_of(frame.message))):
            send_all(self, connection, frame)

    def intent_of(message):
        """Return the intent, or None for a message that is not in the plan, such as the creation of a group."""
        number = message.id_client.partition(":")[2]
        return int(number) if number.isdigit() else None

    def record(server, event):
        if isinstance(event, events.Committed):
            committed[intent_of(event.message)] = event.message.conversation_id, event.message.seq

    from imsim.live import server as module

    send_all = module._Port.send
    monkeypatch.setattr(module._Port, "send", send)
    with server_with(record) as server:
        run = loadtest(tiny.replace({"drain": 2.0, "policies.gap_wait": 0.1}), server.url)
    assert (run.messages.outcome == "stored").all()
    # The highest seq of each conversation that a device received by a push, or sent itself.
    highest = defaultdict(int)
    sent = [*zip(run.messages.intent, run.messages.sender, run.messages.device, strict=True)]
    due = [*zip(run.deliveries.intent, run.deliveries.recipient, run.deliveries.device, strict=True)]
    for intent, user, device in (*sent, *(one for one in due if not is_withheld(one[0]))):
        conversation, seq = committed[intent]
        highest[user, device, conversation] = max(seq, highest[user, device, conversation])
    withheld = [one for one in due if is_withheld(one[0])]
    follows = [committed[i][1] < highest[user, device, committed[i][0]] for i, user, device in withheld]
    rows = run.deliveries.set_index(["intent", "recipient", "device"])
    assert set(rows[rows.outcome == "lost"].index) == set(compress(withheld, (not one for one in follows)))
    assert set(rows[rows.route == "sync"].index) == set(compress(withheld, follows))
    assert sum(follows) > 5
    assert len(follows) - sum(follows) > 5


def test_loadtest_without_a_server_fails_before_it_starts_locust(tiny, free_port, monkeypatch):
    monkeypatch.setattr(launch.subprocess, "Popen", None)
    with pytest.raises(RunError, match="start one with `imsim serve`"):
        loadtest(tiny, f"ws://127.0.0.1:{free_port}")
    with pytest.raises(UsageError, match="url: must be ws://"):
        loadtest(tiny, "http://127.0.0.1")


@pytest.mark.usefixtures("forked_child")
def test_wrong_key_gives_a_one_line_error_and_keeps_the_log(tiny, url, tmp_path):
    out = tmp_path / "results"
    with pytest.raises(RunError, match="refused the key: wrong key") as raised:
        loadtest(tiny, url, key="wrong", out=out)
    assert "\n" not in str(raised.value)
    (log,) = out.iterdir()
    assert str(log) in str(raised.value)
    assert "refused the key" in log.read_text()


def test_interrupt_ends_the_child(tiny, url, monkeypatch):
    children, popen = [], launch.subprocess.Popen

    def spy(*arguments, **options):
        children.append(popen(*arguments, **options))
        return children[0]

    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.subprocess, "Popen", spy)
    monkeypatch.setattr(launch, "read_status", interrupt)
    with pytest.raises(KeyboardInterrupt):
        loadtest(tiny, url)
    assert children[0].returncode is not None


def test_error_of_a_child_that_dies_contains_the_last_error_of_its_log(tiny, url, monkeypatch):
    monkeypatch.setattr(launch, "_environment", lambda key: {"PATH": "", "PYTHONHOME": "/nowhere"})
    with pytest.raises(RunError, match=r"Locust ended without a result; its last error is: .+ \(log: "):
        loadtest(tiny, url)


def stalled(folder) -> tuple[imsim.Run, list[int]]:
    """Return a run whose server is stopped for a second. The times (ns) are its stop, its end and the next answer."""
    users = {"population.users": 20, "population.devices": 1, "conversations.p2p_share": 1, "conversations.groups": 0}
    scenario = imsim.Scenario.load("office", users | {"workload.rate": 4, "warmup": 0, "duration": 2.5})
    times = []

    def stop_once(phase: str, share: float) -> None:
        if share > 0.2 and not times:
            times.append(time.time())
            os.kill(server._process.pid, signal.SIGSTOP)
            time.sleep(1)
            os.kill(server._process.pid, signal.SIGCONT)
            times.append(time.time())
            urlopen(server.url.replace("ws", "http") + "/healthz").close()
            times.append(time.time())

    with imsim.serve(scenario) as server:
        run = loadtest(scenario, server.url, out=folder, progress=stop_once)
    started = datetime.fromisoformat(run.manifest["started"]).timestamp()
    return run, [round((at - started) * 1e9) for at in times]


@pytest.mark.usefixtures("forked_child")
def test_tail_after_a_stall_of_the_server_counts_from_the_intended_times(tmp_path):
    """Every message that was due during the stall waits for its end."""
    run, (since, until, answered) = stalled(tmp_path)
    if not run.valid:  # the computer was too busy
        run, (since, until, answered) = stalled(tmp_path)
    assert run.valid, run.invalid_because
    at = plan(run.scenario).at
    due = at[(at >= since) & (at < until)]
    found = delivery_latencies(run, since=since, until=until)
    assert len(found) == len(due) > 40
    for percent in (95, 100):
        least, most = (np.percentile(end - due, percent) / 1e6 for end in (until, answered))
        assert 0.95 * least - 5 < np.percentile(found, percent) < 1.05 * most + 5, percent
