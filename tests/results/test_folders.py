"""The runs in a folder: what is listed, which run a name means, and what is never deleted."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from imsim.core.exceptions import UsageError
from imsim.results import RunData
from imsim.results.folders import delete, find, handles, scan

START = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def written(tables, scenario, tmp_path):
    """Return a function that writes a run, an hour later than the previous one, and returns its folder."""
    hours = 0

    def write(**extra):
        nonlocal hours
        started = START + timedelta(hours=hours)
        hours += 1
        run = RunData.make(tables, scenario, world="sim", seed=hours, started=started, extra=extra)
        return run.write(tmp_path / "results")

    return write


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def rewrite(folder, **entries):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_scan_lists_runs_by_start_and_other_folders_by_name(written, results):
    folders = [written(), written(valid=False, partial=True, invalid_because="late"), written(partial=True)]
    first = folders[0].rename(results / "zzz")
    (results / "sweep-x").mkdir()
    (results / "README.md").write_text("")
    (results / ".git").mkdir()
    runs, others = scan(results)
    assert [run.path for run in runs] == [first, *folders[1:]]
    assert [run.state for run in runs] == ["valid", "invalid", "partial"]
    assert [(run.seed, run.world, run.scenario) for run in runs] == [(seed, "sim", "tiny") for seed in (1, 2, 3)]
    assert runs[0].size == sum(file.stat().st_size for file in first.iterdir())
    assert [(other.path.name, other.kind) for other in others] == [("sweep-x", "foreign")]


def test_damaged_and_unfinished_folders_are_reported_and_hide_no_run(written, results):
    good = written()
    damages = {
        "a": lambda folder: (folder / "manifest.json").write_text("{"),
        "b": lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
        "c": lambda folder: rewrite(folder, schema=1),
        "d": lambda folder: rewrite(folder, seed="one"),
        "e": lambda folder: rewrite(folder, started="yesterday"),
        "f": lambda folder: (folder / "deliveries.parquet").unlink(),
        "g": lambda folder: (folder / "manifest.json").unlink() or (folder / "manifest.json").mkdir(),
    }
    for name, damage in damages.items():
        damage(shutil.copytree(good, results / name))
    shutil.copytree(good, results / f".{good.name}.partial")
    (results / "link").symlink_to(good)
    runs, others = scan(results)
    assert [run.path for run in runs] == [good]
    kinds = {other.path.name: other.kind for other in others}
    assert kinds == dict.fromkeys(damages, "damaged") | {f".{good.name}.partial": "unfinished", "link": "foreign"}
    assert all("\n" not in str(other) for other in others)
    texts = {other.path.name: other.reason for other in others}
    assert "schema version 1" in texts["c"]
    assert "no deliveries.parquet" in texts["f"]
    for name in damages:
        with pytest.raises(UsageError):
            find(name, results)


def test_scan_refuses_missing_folder_and_run_itself(written, tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        scan(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is a run itself"):
        scan(written())


def test_summary_may_be_missing_or_wrong(written, results):
    written()
    written(summary={"messages": 5, "lost": "?", "delivery_ms": 3})
    written(summary=[])
    assert [run.number("messages") for run in scan(results)[0]] == [None, 5, None]
    assert {run.number("lost") for run in scan(results)[0]} == {None}
    assert {run.number("delivery_ms", "p99") for run in scan(results)[0]} == {None}


def test_find_takes_path_name_start_end_and_latest(written, results, monkeypatch):
    first, last = written(), written()
    for text in (str(first), first.name, first.name[:14], first.name[-6:]):
        assert find(text, results).path == first
    assert find("latest", results).path == last
    monkeypatch.chdir(first)
    assert find(".", results).id == first.name
    with pytest.raises(UsageError, match=f"2026: 2 runs in .* have this name: {first.name}, {last.name}"):
        find("2026", results)
    with pytest.raises(UsageError, match=r"no run in .* has this name"):
        find("office", results)
    with pytest.raises(UsageError, match="is not a run folder"):
        find(f"{results}/nothing", results)


def test_exact_name_wins_over_ends_of_others(written, results):
    first = written().rename(results / "day")
    written().rename(results / "monday")
    assert find("day", results).path == first
    runs = scan(results)[0]
    assert handles(runs) == ["day", "monday"]


def test_handles_are_unique_and_found(written, results):
    one = written()
    shutil.copytree(one, results / f"copy-{one.name[-6:]}")
    written()
    runs = scan(results)[0]
    names = handles(runs)
    assert len(set(names)) == 3
    assert [find(name, results).path for name in names] == [run.path for run in runs]


def test_delete_removes_folder_and_nothing_else(written, results):
    one, other = written(), written()
    delete(find(one.name, results))
    assert sorted(results.iterdir()) == [other]


def test_link_is_never_followed_by_deletion(written, results, tmp_path):
    outside = written().rename(tmp_path / "outside")
    link = results / "link"
    link.symlink_to(outside)
    with pytest.raises(UsageError, match="symbolic link"):
        delete(find(str(link), results))
    assert (outside / "manifest.json").exists()
    assert link.is_symlink()
    # A link inside of a run's folder is removed; what it points to stays.
    inner = written()
    (tmp_path / "rows.parquet").write_bytes((inner / "messages.parquet").read_bytes())
    (inner / "messages.parquet").unlink()
    (inner / "messages.parquet").symlink_to(tmp_path / "rows.parquet")
    delete(find(inner.name, results))
    assert not inner.exists()
    assert (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("name", ["notes.txt", "data/", ".hidden"])
def test_folder_with_other_files_is_not_deleted(written, results, name):
    folder = written()
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("mine")
    with pytest.raises(UsageError, match=f"did not write: {name.strip('/')}"):
        delete(find(folder.name, results))
    assert (folder / name).exists()


def test_pictures_and_log_are_deleted_with_run(written, results):
    folder = written()
    for name in ("report.html", "latency.png", "locust.log"):
        (folder / name).write_text("")
    delete(find(folder.name, results))
    assert list(results.iterdir()) == []


def test_folder_that_is_being_written_is_not_deleted(written, results):
    folder = written()
    partial = folder.rename(results / f".{folder.name}.partial")
    with pytest.raises(UsageError, match="still being written"):
        delete(find(str(partial), results))
    assert partial.exists()


def test_folder_that_changed_after_the_list_is_not_deleted(written, results):
    folder = written()
    listed = find(folder.name, results)
    rewrite(folder, seed=99)
    with pytest.raises(UsageError, match="another run now"):
        delete(listed)
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match="is not a run folder"):
        delete(listed)
    assert folder.exists()
