"""Tests of `imsim.load.collect`: the run that is made of the folders of a load test."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from imsim.analysis import Run
from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Route
from imsim.load.collect import collect, cut, read_status, spool_name, write, write_status
from imsim.results import Recorder
from imsim.scenario import plan


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


def test_collect_makes_a_run_of_a_shorter_plan_after_a_stop(made, tiny):
    made.recording.close()
    played = float(made.plan.at[10]) / 1e9
    status = {"phase": "done", "played": played, "started": "2026-01-02T03:04:05+00:00", "manifest": {}}
    write_status(made.folder, status)
    run = collect(made.folder, tiny)
    assert len(run.messages) == 10
    assert np.array_equal(run.messages.intended_at.to_numpy(np.int64), made.plan.at[:10])
    assert run.scenario.duration == played


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
