"""Tests of `imsim.load.collect`: the run that is made of the folders of a load test."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imsim.analysis import Run
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Route, Scene
from imsim.load.collect import collect, cut, extras_name, read_status, spool_name, write, write_status
from imsim.load.health import Delays, Health
from imsim.results import Recorder
from imsim.scenario import Extra, plan


@pytest.fixture
def made(tiny, tmp_path):
    """A folder with an open recorder, and the plan of the scenario `tiny`."""
    recorder = Recorder(tmp_path / spool_name(0))
    yield SimpleNamespace(recording=recorder, plan=plan(tiny), folder=tmp_path)
    recorder.close()


def entitled(the_plan, intent: int) -> list[int]:
    rows = the_plan.entitled()
    return rows.device[rows.intent == intent].tolist()


def test_collect_makes_a_run_of_a_folder(made, tiny):
    devices = entitled(made.plan, 0)
    made.recording.sent(0, 0.1)
    made.recording.acked(0, 0.2)
    made.recording.delivered(0, devices[0], 0.3, Route.PUSH)
    made.recording.duplicate(0, devices[0], 0.4)
    made.recording.close()
    manifest = {"url": "ws://h:1"}
    status = {"phase": "done", "played": tiny.duration, "started": "2026-01-02T03:04:05+00:00", "manifest": manifest}
    write_status(made.folder, status)
    run = collect(made.folder, tiny)
    assert run.world == "live"
    assert run.manifest["url"] == "ws://h:1"
    assert run.messages.outcome.tolist() == ["stored"] + ["unsent"] * (len(made.plan) - 1)
    assert run.deliveries.outcome.tolist() == ["delivered"] + ["lost"] * (len(made.plan.entitled().intent) - 1)
    assert run.deliveries.duplicates.tolist() == [1] + [0] * (len(made.plan.entitled().intent) - 1)
    assert run.deliveries.attempts.isna().all()


DONE = {"reason": "the plan was played", "phase": "done"}
STOPPED = {"reason": "Ctrl-C", "phase": "play"}
STARTED = "2026-01-02T03:04:05+00:00"
LIVED = [{"index": 0, "health": Health().to_json_dict()}]
DONE_STATUS = {"phase": "done", "started": STARTED, "ended": DONE}


def test_run_that_was_played_to_its_end_is_not_partial(made, tiny):
    made.recording.close()
    write_status(made.folder, DONE_STATUS | {"played": tiny.duration, "manifest": {"url": "ws://h", "workers": LIVED}})
    run = collect(made.folder, tiny, shed=3, warnings=["one"])
    assert run.scenario == tiny
    entries = ("partial", "ended", "valid", "played", "extras", "shed", "warnings", "url")
    assert {name: run.manifest[name] for name in entries} == {
        "partial": False,
        "ended": DONE,
        "valid": True,
        "played": tiny.duration,
        "extras": 0,
        "shed": 3,
        "warnings": ["one"],
        "url": "ws://h",
    }
    assert "withdrawn" not in run.manifest


def test_collect_makes_a_run_of_a_shorter_plan_after_a_stop(made, tiny):
    made.recording.close()
    played = float(made.plan.at[10]) / 1e9
    write_status(
        made.folder,
        {"started": STARTED, "played": played, "ended": STOPPED, "manifest": {"warnings": [], "workers": LIVED}},
    )
    run = collect(made.folder, tiny)
    assert len(run.messages) == 10
    assert np.array_equal(run.messages.intended_at.to_numpy(np.int64), made.plan.at[:10])
    assert run.scenario.duration == played
    assert run.manifest["partial"]
    assert run.manifest["ended"] == STOPPED


@pytest.mark.parametrize("played", [0.0, 1e-9, 1e-3])
def test_run_that_was_stopped_before_its_first_message_is_partial_and_has_no_rows(made, tiny, tmp_path, played):
    made.recording.close()
    write_status(made.folder, {"started": STARTED, "played": played, "ended": STOPPED})
    run = collect(made.folder, tiny)
    assert (len(run.messages), len(run.deliveries)) == (0, 0)
    assert run.manifest["partial"]
    assert run.to_json_dict()["messages"] == 0
    opened = Run.open(write(run, tmp_path / "out"), verify=True)
    assert f"\npartial: ended after {played:.4g} s: Ctrl-C\n0 messages, 0 deliveries" in str(opened)
    assert run.invalid_because.startswith("no Locust process lived to report its delays")
    assert "<td>delivery</td><td>0</td>" in opened._repr_html_()
    assert opened.save_plot(tmp_path / "empty.svg").exists()


def test_run_that_ended_early_as_planned_is_not_partial(made, tiny):
    made.recording.close()
    status = {"phase": "done", "started": STARTED, "played": 0.5, "ended": {"reason": "the shape", "phase": "play"}}
    write_status(made.folder, status)
    assert collect(made.folder, tiny).partial is False


def test_replayed_moments_after_the_stop_are_left_out(made, tiny):
    """The shorter scenario would have no moment at all, so that the scenario stays as it is."""
    late = tiny.replace({"workload.arrivals": [0.4, 0.8]})
    made.recording.close()
    write_status(made.folder, {"started": STARTED, "played": 0.3, "ended": STOPPED})
    run = collect(made.folder, late)
    assert len(run.messages) == 0
    assert run.scenario == late


def test_test_that_ended_before_its_clock_started_makes_no_run(made, tiny):
    with pytest.raises(RunError, match="ended before messages were sent: its process ended without a reason"):
        collect(made.folder, tiny)
    write_status(made.folder, {"phase": "login", "ended": {"reason": "12 of 24 devices were online", "phase": "login"}})
    with pytest.raises(RunError, match="ended before messages were sent: 12 of 24 devices were online"):
        collect(made.folder, tiny)


def test_process_that_was_killed_leaves_a_partial_run_until_its_last_fact(made, tiny):
    for intent, at in enumerate(made.plan.at.tolist()):
        if at < 0.5e9:
            made.recording.sent(intent, at / 1e9)
    sent = made.recording.facts()["intent"].tolist()
    made.recording.close()
    write_status(made.folder, {"started": STARTED, "phase": "play"})
    run = collect(made.folder, tiny)
    assert run.manifest["partial"]
    assert run.manifest["ended"] == {"reason": "its process ended without a reason", "phase": "play"}
    assert len(run.messages) == len(sent) - 1  # the last one was intended at the very end
    assert set(run.messages.outcome) == {"unknown"}


def test_run_is_invalid_for_the_reason_of_the_status(made, tiny):
    made.recording.close()
    manifest = {"invalid_because": "the generator was late"}
    write_status(made.folder, DONE_STATUS | {"played": tiny.duration, "manifest": manifest})
    assert collect(made.folder, tiny).manifest["valid"] is False


def health(lateness: float) -> dict[str, object]:
    """Return the health of a worker that sent every message `lateness` seconds late, as the coordinator writes it."""
    return Health(lateness=Delays.of([lateness] * 100), cpu=0.9).to_json_dict()


def test_run_is_judged_by_the_health_of_its_workers(made, tiny):
    """The deliveries of `split` take 5 ms. The worker with the number 1 has died and has no health."""
    workers = [{"index": 0, "health": health(0.0)}, {"index": 1, "died_at": 0.5}, {"index": 2, "health": health(0.04)}]
    run = collect(split(made, tiny, 1, manifest={"workers": workers}), tiny)
    assert not run.manifest["valid"]
    assert run.manifest["invalid_because"].startswith("the generator, not the server, explains 100% of p")
    assert "worker 2: it used 90% of a core" in run.manifest["invalid_because"]
    assert run.manifest["lateness_ms"] == {"p50": 0.01, "p99": pytest.approx(40, rel=0.03), "max": 40.0}
    assert run.manifest["receiving_ms"] == {}


def test_reason_of_the_status_comes_before_the_judgement(made, tiny):
    manifest = {"workers": [{"index": 0, "health": health(0.04)}], "invalid_because": "the clock is unknown"}
    run = collect(split(made, tiny, 1, manifest=manifest), tiny)
    assert run.manifest["invalid_because"] == "the clock is unknown"


# --- several workers -------------------------------------------------------------------------------------------------


def split(made, tiny, workers: int, **status) -> list[Path]:
    """Write the facts of a run without losses to a folder for each worker. Device n belongs to worker n % workers."""
    folders = []
    devices = made.plan.entitled()
    sender = made.plan.sender.astype(int) * len(made.plan.devices) + made.plan.device
    for worker in range(workers):
        folder = made.folder / f"worker{worker}"
        folder.mkdir()
        with Recorder(folder / spool_name(worker)) as recorder:
            for intent, at in enumerate(made.plan.at.tolist()):
                if sender[intent] % workers == worker:
                    recorder.sent(intent, at / 1e9)
                    recorder.acked(intent, at / 1e9 + 0.002)
            for intent, device in zip(devices.intent.tolist(), devices.device.tolist(), strict=True):
                if device % workers == worker:
                    recorder.delivered(intent, device, made.plan.at[intent] / 1e9 + 0.005, Route.PUSH)
        folders.append(folder)
    write_status(folders[0], DONE_STATUS | {"played": tiny.duration} | status)
    return folders


def test_workers_make_one_run_that_equals_that_of_one_process(made, tiny, tmp_path):
    runs = []
    for workers in (1, 4):
        folder = tmp_path / str(workers)
        folder.mkdir()
        there = SimpleNamespace(plan=made.plan, folder=folder)
        runs.append(collect(split(there, tiny, workers), tiny))
    assert set(runs[0].deliveries.outcome) == {"delivered"}
    assert runs[0].digest == runs[1].digest


def test_rows_in_files_equal_rows_in_memory(made, tiny, tmp_path):
    folders = split(made, tiny, 3)
    rows = tmp_path / "rows"
    in_memory, in_files = collect(folders, tiny), collect(folders, tiny, rows=rows)
    assert in_memory.digest == in_files.digest
    assert in_files.summary().equals(in_memory.summary())
    opened = Run.open(write(in_files, tmp_path / "out"), verify=True)
    shutil.rmtree(rows)
    assert in_files.messages.equals(in_memory.messages), "they are read from the folder of the run"
    assert opened.deliveries.equals(in_memory.deliveries)


def test_clock_of_a_worker_is_corrected(made, tiny):
    folders = split(made, tiny, 2)
    plain, shifted = collect(folders, tiny), collect(folders, tiny, clocks={1: 50_000_000})
    of_second = (plain.messages.sender.str[1:].astype(int) * 2 + plain.messages.device.str[1:].astype(int)) % 2 == 1
    moved = (shifted.messages.sent_at - plain.messages.sent_at).to_numpy(np.int64)
    assert np.array_equal(moved, np.where(of_second, 50_000_000, 0))


def test_messages_beyond_the_plan_have_rows_in_the_order_of_time(made, tiny, tmp_path):
    """Two workers number their extras as `Extra` describes, although the run is cut to fewer messages."""
    count = len(made.plan)
    played = float(made.plan.at[10]) / 1e9
    folders = split(made, tiny, 2, played=played, ended=STOPPED)
    late = Extra(count, 900, 0, 0, Scene.P2P, "", (0, 5), "text", 7)
    early = Extra(count + 1, 300, 5, 0, Scene.GROUP, "shop", (0, 3, 5), "text", 8)
    for worker, extra in enumerate((late, early)):
        (folders[worker] / extras_name(worker)).write_text(f"{extra.line()}\n[12, 3")  # it was killed in the next line
        with (folders[worker] / spool_name(worker)).open("ab") as spool:
            recorder = Recorder()
            recorder.sent(extra.intent, extra.at / 1e9)
            recorder.acked(extra.intent, 1e-6)
            for member in extra.members:
                recorder.delivered(extra.intent, member * 2, 2e-6, Route.PUSH)
            spool.write(recorder.facts().tobytes())
    run = collect(folders, tiny)
    assert len(run.messages) == 10 + 2
    extras = run.messages[10:]
    assert extras.intent.tolist() == [10, 11]
    assert extras.conversation.tolist() == ["group:shop", "p2p:u0:u5"]
    assert extras[["intended_at", "sent_at", "acked_at"]].to_numpy().tolist() == [[300, 300, 1000], [900, 900, 1000]]
    deliveries = run.deliveries[run.deliveries.intent == 10]
    assert deliveries.recipient.tolist() == ["u0", "u0", "u3", "u3", "u5"]
    assert deliveries.outcome.tolist() == ["delivered", "lost", "delivered", "lost", "lost"]
    assert run.manifest["extras"] == 2
    assert run.manifest["stray"] == 0


def test_extras_of_a_killed_worker_give_a_warning(made, tiny):
    folders = split(made, tiny, 1)
    with Recorder(folders[0] / spool_name(7)) as recorder:
        for device in range(3):
            recorder.delivered(len(made.plan) + 4, device, 0.1, Route.PUSH)
    run = collect(folders, tiny)
    assert run.manifest["stray"] == 0
    assert any(warning.startswith("1 messages are not in the rows") for warning in run.warnings)


def test_withdrawn_devices_are_in_the_manifest_and_in_a_table(made, tiny, tmp_path):
    made.recording.withdrawn(0, 0.0)
    made.recording.withdrawn(4, 0.5)
    made.recording.returned(4, 0.75)
    made.recording.close()
    write_status(made.folder, DONE_STATUS | {"played": tiny.duration})
    run = collect(made.folder, tiny)
    assert run.manifest["withdrawn"]["devices"] == 2
    assert run.withdrawals.until.isna().tolist() == [True, False]
    opened = Run.open(write(run, tmp_path / "out"))
    assert opened.withdrawals.equals(run.withdrawals)


@pytest.mark.parametrize("features", [[], ["ack"], ["ack", "own devices", "resume"]])
def test_features_determine_what_missing_rows_mean(made, tiny, features):
    for intent in range(len(made.plan)):
        made.recording.acked(intent, 1.0)
    made.recording.close()
    manifest = {"features": features}
    write_status(made.folder, DONE_STATUS | {"played": tiny.duration, "manifest": manifest})
    run = collect(made.folder, tiny)
    assert run.messages.acked_at.isna().all() == ("ack" not in features)
    own = run.deliveries[run.deliveries.role == "own"]
    assert set(own.outcome) == ({"lost"} if "own devices" in features else {"absent"})


def test_run_that_cannot_be_written_is_kept_with_the_temporary_files(made, tiny, tmp_path, monkeypatch):
    made.recording.close()
    write_status(made.folder, {"played": 1.0, "started": "2026-01-01T00:00:00+00:00", "manifest": {}})
    run = collect(made.folder, tiny)
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(UsageError, match=r"cannot create the run folder .*; the run is kept as ") as raised:
        write(run, tmp_path / "file")
    kept = str(raised.value).partition(" is kept as ")[2]
    assert Run.open(kept, verify=True).digest == run.digest
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"File exists; choose another name$"):
        write(run, tmp_path / "file")


def test_cut_before_the_first_message_raises_run_error(tiny):
    late = tiny.replace({"workload.arrivals": [0.4, 0.8]})
    assert cut(late, 0.5).workload.arrivals.at == (0.4,)
    with pytest.raises(RunError, match=r"stopped after 0.3 s, before the first message \(workload.arrivals: "):
        cut(late, 0.3)


def test_cut_drops_a_warm_up_that_is_not_shorter_than_the_run(tiny):
    with_warmup = tiny.replace({"warmup": 0.5})
    assert cut(with_warmup, 0.7).warmup == 0.5
    assert cut(with_warmup, 0.5).warmup == 0.0
    assert cut(with_warmup, tiny.duration) is with_warmup


def test_collect_without_a_spool_raises_usage_error(tiny, tmp_path):
    status = {"played": tiny.duration, "started": "2026-01-02T03:04:05+00:00", "manifest": {}}
    assert read_status(tmp_path) == {}
    write_status(tmp_path, status)
    with pytest.raises(UsageError, match="spool"):
        collect(tmp_path, tiny)
