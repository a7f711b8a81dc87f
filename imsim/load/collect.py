"""The end of a load test: the folders of its Locust processes become one run.

A process leaves in its folder:

- `facts-<worker>.spool`: the facts of its devices,
- `extras-<worker>.jsonl`: the messages that it sent beyond the plan, one `Extra` in each line,
- `status.json`: how far it is. Only the process that directs the test needs it.

This module imports neither Locust nor gevent.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from imsim import disk
from imsim.analysis import Run, make_run
from imsim.core.exceptions import ImsimError, RunError, UsageError
from imsim.results import assemble, read_facts
from imsim.scenario import Scenario, plan

_STATUS = "status.json"


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
        clocks: ns to add to the times of a worker, by its number. A worker that is left out needs no correction.
        rows: a folder for the files of the rows; it must exist as long as the run is used. It keeps the memory small.
            None keeps the rows in memory.
        shed: the number of deliveries in chatrooms that the server shed during the run; None: unknown.
        warnings: warnings for the manifest, in addition to those of the status.

    The status has these entries:

    phase: login, provision, play, drain or done.
    started: the wall time of t = 0 (ISO 8601, with a time zone). Before that, the entry is missing.
    played: the seconds of the plan that were played. If it is missing, the last fact is the end.
    ended: {"reason": why the test ended, "phase": in which phase}.
    manifest: entries for the manifest of the run, such as `features`, `workers` and `invalid_because`.

    A run that was stopped early becomes the run of a shorter scenario, because the shorter plan is a prefix of the
    longer one. If the shorter scenario has no message, the run has no rows of the plan. The run is partial if the test
    did not end in the phase "done".

    Raises: UsageError if a file cannot be read; RunError with the reason if the test ended before its clock started.
    """
    [folder] = folders if isinstance(folders, Sequence) else [folders]
    status = read_status(folder)
    scenario = cut(scenario, status["played"])
    tables = assemble(plan(scenario), read_facts([folder / spool_name(0)]), knows_server=False)
    manifest = {**status["manifest"], "warnings": [*warnings, *status["manifest"].get("warnings", ())]}
    if shed is not None:
        manifest["shed"] = shed
    started = datetime.fromisoformat(status["started"])
    return make_run(tables, scenario, world="live", seed=scenario.seed, started=started, extra=manifest)


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
