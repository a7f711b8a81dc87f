"""The end of a load test: the folders of its Locust processes become one run.

A process leaves in its folder:

- `facts-<worker>.spool`: the facts of its devices,
- `extras-<worker>.jsonl`: the messages that it sent beyond the plan, one `Extra` in each line,
- `status.json`: how far it is. Only the process that directs the test needs it.

This module imports neither Locust nor gevent.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imsim import disk
from imsim.analysis import Run, make_run
from imsim.analysis.latency import delivery_latencies, quantile
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.load.adapters.interface import Feature
from imsim.load.health import Delays, judge, workers_of
from imsim.results import Assembly, Facts, Offers, RowFiles, SpooledFacts, Tables, write_parts
from imsim.scenario import Extra, Plan, Scenario, plan

_STATUS = "status.json"
_UNKNOWN_END = "its process ended without a reason"


def spool_name(worker: int) -> str:
    """Return the name of the file with the facts of a worker, by its number from 0."""
    return f"facts-{worker}.spool"


def extras_name(worker: int) -> str:
    """Return the name of the file with the messages that a worker sent beyond the plan, by its number from 0."""
    return f"extras-{worker}.jsonl"


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """Write the status file. `collect` names its entries."""
    # `disk.write` replaces the file atomically, because the parent can read it at any time.
    disk.write(folder / _STATUS, json.dumps(status).encode())


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of the status file; {} if it does not exist yet."""
    try:
        status = json.loads((folder / _STATUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    assert isinstance(status, dict)
    return status


def collect(
    folders: Path | Sequence[Path],
    scenario: Scenario,
    *,
    clocks: Mapping[int, int] | None = None,
    rows: Path | None = None,
    shed: int | None = None,
    warnings: Sequence[str] = (),
) -> Run:
    """Make the run of a load test from the folders of its processes.

    Args:
        folders: the folder of the process that directed the test, which has the status, then those of other processes.
        scenario: the scenario that was to be played.
        clocks: ns to add to the times of a worker, by its number. A worker that is left out needs no correction. None
            means those of the status.
        rows: a folder for the files of the rows, which must exist until the run is written: the memory that this
            function needs then hardly depends on the length of the run. None keeps the rows in memory.
        shed: the number of deliveries in chatrooms that the server shed during the run; None: unknown.
        warnings: warnings for the manifest, in addition to those of the status.

    The status has these entries:

    phase: login, provision, play or drain; done if the test reached the end that the tester planned.
    started: the wall time of t = 0 (ISO 8601, with a time zone). Before that time, the entry is missing.
    played: the seconds of the plan that were played. If it is missing, the run ends with the last fact.
    ended: {"reason": why the test ended, "phase": in which phase}.
    undecided_since: only if the tester ended the drain early: the time in the plan (seconds) from which on messages may
        have been in flight. Their missing deliveries are absent, and their missing answers do not count.
    clocks: ns to add to the times of a worker, by its number, of those that need it.
    manifest: entries for the manifest of the run, such as `features`, `workers`, `invalid_because` and `warnings`.

    A run that was stopped early becomes the run of a shorter scenario, because the shorter plan is a prefix of the
    longer one. If the shorter scenario cannot have a message, the run has no rows of the plan, and the scenario keeps
    its duration. The run is partial unless the phase is "done". It is valid unless the manifest has `invalid_because`.

    Raises: UsageError if a file cannot be read; RunError with the reason if the test ended before its clock started.
    """
    folders = [folders] if isinstance(folders, Path) else folders
    status = read_status(folders[0])
    ended = status.get("ended") or {"reason": _UNKNOWN_END, "phase": status.get("phase", "login")}
    if "started" not in status:
        raise RunError(f"the test ended before messages were sent: {ended['reason']}")
    manifest = {"warnings": [], **status.get("manifest", {})}
    if clocks is None:
        clocks = {int(worker): ns for worker, ns in status.get("clocks", {}).items()}
    spools = [(path, clocks.get(worker, 0)) for worker, path in _files(folders, "facts-*.spool")]
    extras = [(path, clocks.get(worker, 0)) for worker, path in _files(folders, "extras-*.jsonl")]
    played = status.get("played")
    if played is None:
        played = min(_last(SpooledFacts(spools)) / 1e9, scenario.duration)
    undecided = status.get("undecided_since")

    is_partial = status.get("phase") != "done"
    manifest |= {"ended": ended, "partial": is_partial, "played": played, "valid": "invalid_because" not in manifest}
    manifest |= {} if shed is None else {"shed": shed}
    manifest |= {} if undecided is None else {"undecided_since": undecided}
    scenario, planned, whole = _played(scenario, played)
    found = _assembled(planned, whole, spools, extras, undecided, rows, manifest)
    del planned  # the digest needs memory, too
    manifest["warnings"] = [*warnings, *manifest["warnings"]]
    started = datetime.fromisoformat(status["started"])
    run = make_run(found, scenario, world="live", seed=scenario.seed, started=started, extra=manifest)
    _judge(run)
    return run


def _judge(run: Run) -> None:
    """Add to the manifest how late the generator was, and whether the latencies are those of the server."""
    manifest = run.manifest
    workers = workers_of(manifest)
    for name, parts in (
        ("lateness_ms", [worker.lateness for worker in workers.values()]),
        ("receiving_ms", [worker.receiving for worker in workers.values()]),
    ):
        found = Delays.merged(parts).to_json_dict()
        manifest[name] = {key: found[key] for key in ("p50", "p99", "max")} if found["count"] else {}
    latencies = delivery_latencies(run)
    percentiles = {f"p{n}": quantile(latencies, n) if len(latencies) else math.nan for n in (50, 95, 99)}
    judgement = judge(workers, percentiles)
    manifest["warnings"] += judgement.warnings
    if not judgement.valid and manifest["valid"]:
        manifest |= {"valid": False, "invalid_because": judgement.reason}


def _assembled(
    planned: Plan,
    whole: int,
    spools: Sequence[tuple[Path, int]],
    extras: Sequence[tuple[Path, int]],
    undecided: float | None,
    rows: Path | None,
    manifest: dict[str, Any],
) -> Tables | RowFiles:
    """Return the rows of these files (path, ns to add to its times), and add to the manifest what it says of them."""
    extended = planned.extended(extra for path, ns in extras for extra in _read(path, ns))
    assert extended.extras is not None
    translation = _Translation(len(planned), whole, extended.extras)
    since = None if undecided is None else round(undecided * 1e9)
    offers = _offers(manifest.get("features"))
    assembly = Assembly(extended, SpooledFacts(spools, translation), offers, undecided_since=since)
    found: Tables | RowFiles
    if rows is None:
        found = assembly.tables()
    else:
        with disk.errors("write the rows in", rows, note=disk.TMPDIR):
            rows.mkdir(exist_ok=True)
            found = write_parts(assembly, rows)
    manifest["extras"] = len(extended.extras)
    if assembly.withdrawn is not None:
        manifest["withdrawn"] = taken = asdict(assembly.withdrawn)
        manifest["warnings"] = [
            *manifest["warnings"],
            f"{taken['devices']} devices were offline for a time, because fewer users ran than the scenario has, a task"
            " logged them out, or their user ended (StopUser, an exception in on_start):"
            f" {taken['messages']} messages were not sent, {taken['deliveries']} deliveries are"
            " absent",
        ]
    if translation.unknown:
        manifest["warnings"] = [
            *manifest["warnings"],
            f"{len(translation.unknown)} messages are not in the rows: devices received them, but no worker's file has"
            " them; their sender's process probably ended before it wrote them",
        ]
    return found


def _files(folders: Sequence[Path], pattern: str) -> list[tuple[int, Path]]:
    """Return the files of the workers, by their numbers."""
    found = [(int(path.stem.partition("-")[2]), path) for folder in folders for path in folder.glob(pattern)]
    if not found and pattern.startswith("facts"):
        raise UsageError(f"{folders[0]}: there is no spool of a worker ({pattern})")
    return sorted(found)


def _last(facts: Sequence[Facts]) -> int:
    """Return the time of the last fact in ns, or 0 if there is none."""
    return max((int(piece["at"].max(initial=0)) for piece in facts), default=0)


def _played(scenario: Scenario, seconds: float) -> tuple[Scenario, Plan, int]:
    """Return the scenario and the plan that were played, and the number of messages in the whole plan."""
    if seconds >= scenario.duration:
        planned = plan(scenario)
        return scenario, planned, len(planned)
    whole = plan(scenario)
    try:
        shorter = cut(scenario, seconds)
    except RunError:
        return scenario, whole.part(0, int(np.searchsorted(whole.at, round(seconds * 1e9)))), len(whole)
    return shorter, plan(shorter), len(whole)


def _read(path: Path, ns: int) -> Iterator[Extra]:
    """Yield the extras of a file, `ns` later. An incomplete last line is ignored, because a killed process leaves it.

    Raises: UsageError if the file cannot be read.
    """
    with disk.errors("read", path), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                extra = Extra.read(line)
                yield replace(extra, at=extra.at + ns) if ns else extra


def _offers(features: Collection[str] | None) -> Offers:
    """Return what the server offers. Without a list of features, it is imsim's own server, which offers everything."""
    if features is None:
        return Offers(pushes=False)
    return Offers(
        pushes=False,
        acks=Feature.ACK in features,
        resume=Feature.RESUME in features,
        own_devices=Feature.OWN_DEVICES in features,
        membership=Feature.MEMBERSHIP in features,
    )


class _Translation:
    """The translation of the intents of facts, from those that workers gave to those of the rows.

    planned: the number of messages of the plan that was played; whole: that of the plan that was to be played. Messages
    between them were sent by a worker that stopped a moment later than the others. They are left out.
    extras: the intents that the workers gave to the extras, in the order of the rows.
    """

    def __init__(self, planned: int, whole: int, extras: NDArray[np.int64]) -> None:
        self._planned, self._whole = planned, whole
        order = np.argsort(extras)
        self._given = extras[order]
        self._intent = planned + order
        self.unknown: set[int] = set()
        """The given intents of messages that are not among the extras."""

    def __call__(self, facts: Facts) -> Facts:
        intent = facts["intent"].astype(np.int64)
        is_extra = intent >= self._whole
        place = np.searchsorted(self._given, intent)
        is_found = is_extra & (place < len(self._given))
        is_found[is_found] = self._given[place[is_found]] == intent[is_found]
        facts["intent"][is_found] = self._intent[place[is_found]]
        self.unknown.update(intent[is_extra & ~is_found].tolist())
        is_kept = is_found | (intent < self._planned)
        return facts if is_kept.all() else facts[is_kept]


def write(run: Run, out: Path | str) -> Path:
    """Create the run's folder in `out` and return its path.

    Raises: UsageError or RunError if that fails. The run, which cannot be repeated, is then kept in the folder for
    temporary files if possible, and the error names its path.
    """
    try:
        return run.write(out)
    except ImsimError as error:
        try:
            kept = run.write(tempfile.gettempdir())
        except ImsimError:
            raise error from None
        raise type(error)(f"{error}; the run is kept as {kept}") from None


def cut(scenario: Scenario, duration: float) -> Scenario:
    """Return the scenario with this duration, in seconds.

    Raises: RunError if the scenario has no message within that time.
    """
    if duration == scenario.duration:
        return scenario
    try:
        return scenario.lasting(duration)
    except UsageError as error:
        raise RunError(f"the run was stopped after {duration:g} s, before the first message ({error})") from None
