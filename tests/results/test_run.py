import json
import os
import subprocess
from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imsim.core.exceptions import RunError, UsageError
from imsim.results import DELIVERIES, MESSAGES, Recorder, RunData, assemble, digest
from imsim.results.run import commit_of
from imsim.scenario import Scenario


@pytest.fixture
def folder(run, tmp_path):
    return run.write(tmp_path)


def test_written_folder_has_all_files(run, folder, tmp_path):
    assert folder.parent == tmp_path
    assert folder.name.startswith("20260203T040506Z-sim-tiny-")
    assert sorted(path.name for path in folder.iterdir()) == [
        "deliveries.parquet",
        "manifest.json",
        "messages.parquet",
        "scenario.toml",
    ]
    assert run.path == folder
    assert list(tmp_path.iterdir()) == [folder]


def test_opened_run_equals_written_run(run, folder):
    opened = RunData.open(folder, verify=True)
    assert opened.tables.messages.equals(run.tables.messages)
    assert opened.tables.deliveries.equals(run.tables.deliveries)
    assert opened.tables.stray == run.tables.stray
    assert opened.manifest == run.manifest
    assert opened.scenario == run.scenario
    assert (opened.world, opened.seed, opened.path) == ("sim", 7, folder)
    assert opened.digest == digest(opened.tables)


def test_manifest_describes_origin_of_rows(tables, scenario):
    started = datetime(2026, 2, 3, 5, 5, 6, 7000, tzinfo=timezone(timedelta(hours=1)))
    run = RunData.make(tables, scenario, world="live", seed=3, started=started, extra={"url": "ws://x"})
    manifest = dict(run.manifest)
    assert manifest.pop("run").startswith("20260203T040506Z-live-tiny-")
    assert manifest.pop("machine").keys() == {"platform", "python", "cpus"}
    assert isinstance(manifest.pop("imsim"), str)
    assert isinstance(manifest.pop("commit"), str | None)
    assert manifest == {
        "schema": 3,
        "world": "live",
        "started": "2026-02-03T04:05:06.007+00:00",
        "scenario": "tiny",
        "seed": 3,
        "digest": digest(tables),
        "stray": 0,
        "scenario_values": scenario.model_dump(mode="json"),
        "url": "ws://x",
    }


def test_commit_of_a_checkout_is_read_without_writing_to_it(tmp_path):
    def git(*args: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert commit_of(tmp_path) is None
    git("init")
    file = tmp_path / "a.txt"
    file.write_text("one")
    git("add", "a.txt")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    os.utime(file, (0, 0))  # so that git would refresh its index
    (tmp_path / "untracked.txt").touch()
    index = (tmp_path / ".git" / "index").read_bytes()
    assert commit_of(tmp_path) == commit
    assert (tmp_path / ".git" / "index").read_bytes() == index
    file.write_text("two")
    assert commit_of(tmp_path) == f"{commit}-dirty"


def test_make_refuses_invalid_arguments(tables, scenario):
    now = datetime.now(UTC)
    with pytest.raises(ValueError, match=r"started: expected a datetime with a time zone, got datetime\.datetime\("):
        RunData.make(tables, scenario, world="sim", seed=1, started=now.replace(tzinfo=None))
    with pytest.raises(ValueError, match="moon"):
        RunData.make(tables, scenario, world="moon", seed=1, started=now)
    with pytest.raises(ValueError, match="extra: cannot redefine entries of the manifest: seed"):
        RunData.make(tables, scenario, world="sim", seed=1, started=now, extra={"seed": 2})


def test_folder_name_replaces_special_characters(tables):
    run = RunData.make(tables, Scenario(name="../Füße = 1/"), world="sim", seed=1, started=datetime.now(UTC))
    assert run.id.split("-", 2)[2].rsplit("-", 1)[0] == "F-e-1"


def test_runs_of_one_second_have_different_folders(tables, scenario, tmp_path):
    started = datetime.now(UTC)
    paths = {RunData.make(tables, scenario, world="sim", seed=1, started=started).write(tmp_path) for _ in range(3)}
    assert len(paths) == 3


def test_run_is_never_overwritten(run, folder, tmp_path):
    with pytest.raises(UsageError, match="already exists; a run is never overwritten"):
        run.write(tmp_path)


def test_failed_write_leaves_no_files(run, tmp_path):
    run.manifest["odd"] = object()
    with pytest.raises(TypeError):
        run.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert run.path is None


def test_write_without_space_leaves_no_files(run, tmp_path, file_sizes):
    with file_sizes(100), pytest.raises(RunError, match=f"^no space left at {tmp_path}/{run.id}: "):
        run.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_a_parent_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot create the run folder"):
        run.write(tmp_path / "file")


# --- refusals of `open` ----------------------------------------------------------------------------------------------


def test_open_refuses_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere is not a run folder: it does not exist"):
        RunData.open(tmp_path / "nowhere")


def test_open_refuses_a_folder_without_manifest(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run folder: cannot read manifest\.json: No such file"):
        RunData.open(tmp_path)


@pytest.mark.parametrize("name", ["messages.parquet", "deliveries.parquet", "scenario.toml"])
def test_open_refuses_a_folder_with_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"is incomplete: .*{name}"):
        RunData.open(folder)


@pytest.mark.parametrize("name", ["messages.parquet", "deliveries.parquet", "scenario.toml", "manifest.json"])
@pytest.mark.parametrize("content", [b"\xff not this", b"{", b"PAR1"])
def test_open_refuses_a_broken_file(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name} is broken: [^\n]+$"):
        RunData.open(folder)


@pytest.mark.parametrize("name", ["messages.parquet", "deliveries.parquet"])
def test_open_refuses_a_truncated_parquet_file(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=f"{name} is broken: [^\n]+$"):
        RunData.open(folder)


def test_open_refuses_an_invalid_scenario(folder):
    (folder / "scenario.toml").write_text("seed = 'x'\n")
    with pytest.raises(UsageError, match=r"scenario\.toml is broken: .*seed[^\n]+$"):
        RunData.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, r"has schema version 99, but this imsim \(.*\) reads version 3; use the imsim that wrote"),
        ({"digest": None}, "is broken: 'digest' is missing or not of type str"),
        ({"seed": "one"}, "is broken: 'seed' is missing or not of type int"),
    ],
)
def test_open_refuses_a_wrong_manifest(folder, change, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        RunData.open(folder)


def test_open_refuses_a_manifest_of_another_format(folder):
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UsageError, match="is not the manifest of a run"):
        RunData.open(folder)


def test_open_refuses_other_columns(folder):
    path = folder / "messages.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["error"]), path)
    with pytest.raises(UsageError, match="its columns are not those of schema version 3"):
        RunData.open(folder)


@pytest.mark.parametrize(
    ("name", "column", "known"),
    [
        ("messages.parquet", "outcome", "stored, rejected, unknown, unsent"),
        ("messages.parquet", "scene", "p2p, group, chatroom, system"),
        ("deliveries.parquet", "outcome", "delivered, shed, recalled, absent, lost"),
        ("deliveries.parquet", "role", "recipient, own"),
        ("deliveries.parquet", "route", "push, sync"),
    ],
)
def test_open_refuses_unknown_values_of_a_column(folder, name, column, known):
    path = folder / name
    table = pq.read_table(path)
    number = table.schema.get_field_index(column)
    other = pa.array(["pending"] * len(table)).dictionary_encode()
    pq.write_table(table.set_column(number, table.schema.field(number), other), path)
    with pytest.raises(UsageError, match=f"{name} is broken: {column}: expected one of {known}, got 'pending'"):
        RunData.open(folder)


def test_verify_detects_changed_rows(plan, folder):
    recorder = Recorder()
    other = assemble(plan, recorder.facts())
    pq.write_table(other.messages, folder / "messages.parquet")
    RunData.open(folder)
    with pytest.raises(UsageError, match="their digest differs"):
        RunData.open(folder, verify=True)


# --- pandas ---------------------------------------------------------------------------------------------------------


def test_frames_have_exact_integers_and_plain_strings(run):
    messages, deliveries = run.messages, run.deliveries
    assert list(messages.columns) == MESSAGES.names
    assert list(deliveries.columns) == DELIVERIES.names
    assert messages is run.messages
    assert messages["acked_at"].dtype == "Int64"
    assert messages["acked_at"].tolist() == [400, 500, pd.NA]
    assert messages["attempts"].dtype == "Int32"
    assert messages["outcome"].tolist() == ["stored", "stored", "rejected"]
    assert not isinstance(messages["outcome"].dtype, pd.CategoricalDtype)
    assert deliveries["route"].isna().sum() == 5
    assert deliveries.groupby("outcome").size().to_dict() == {"delivered": 3, "lost": 5}


def test_pandas_can_read_the_files(folder):
    frame = pd.read_parquet(folder / "messages.parquet", dtype_backend="numpy_nullable")
    assert frame["intended_at"].tolist() == [100, 200, 300]
    assert frame["acked_at"].tolist() == [400, 500, pd.NA]


def test_repr_has_name_and_number_of_rows(run):
    assert repr(run) == f"<RunData {run.id}: 3 messages, 8 deliveries>"
