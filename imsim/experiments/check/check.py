"""`check`: judge all budgets of a file."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path

from imsim import disk
from imsim.analysis.metrics import value_of
from imsim.analysis.run import Run
from imsim.analysis.verdicts import Verdict
from imsim.core.exceptions import UsageError
from imsim.experiments.check import live, servers
from imsim.experiments.check.baseline import NAME, Baseline
from imsim.experiments.check.file import BudgetEntry, Budgets
from imsim.experiments.check.result import CheckResult, Finding
from imsim.experiments.check.simulated import LOOKS, check_simulated, save
from imsim.experiments.replicate import Progress

#: The file of the noise floors, beside the file of budgets. It is for one machine only.
NOISE = ".imsim-noise.json"


def check(
    file: str | PathLike[str] | None = None,
    *,
    baseline: str | PathLike[str] | None = None,
    base: str | None = None,
    base_command: str | None = None,
    jobs: int = -1,
    progress: Progress | None = None,
) -> CheckResult:
    """See `imsim.check`."""
    budgets = Budgets.read(file)
    servers_ = live.subjects_of(budgets)
    _check_base(budgets, base, base_command)
    findings: dict[int, Finding] = {}
    for number, entry in enumerate(budgets.entries):
        if entry.run is not None:
            findings[number] = _of_run(entry, Run.open(budgets.path.parent / entry.run))
    is_relative = any(entry.is_relative and entry.server is None for entry in budgets.entries)
    kept = Baseline.read(baseline_of(budgets, baseline)).subjects if is_relative else {}
    findings |= check_simulated(budgets, kept, jobs=jobs, progress=progress)
    if servers_:
        with _players(budgets, base, base_command) as play_of:
            floors = read_noise(budgets)
            findings |= live.check_live(servers_, play_of, floors=floors, progress=progress)
    return CheckResult(str(budgets.path), [findings[number] for number in sorted(findings)])


def calibrate(
    file: str | PathLike[str] | None = None, *, pairs: int = live.LOOKS[-1], progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Measure the noise floor of this machine for the live budgets of a file, and keep it beside the file.

    Returns:
        The smallest increase that differs from noise, as a share, for each metric of each subject.
    """
    budgets = Budgets.read(file)
    subjects = live.subjects_of(budgets)
    if not subjects:
        raise UsageError(f"{budgets.path}: no budget has a server, so there is no noise to measure")
    with _players(budgets, None, None) as play_of:
        floors = live.noise(subjects, play_of, pairs, progress or (lambda what, share: None))
    text = json.dumps({"machine": _machine(), "floors": floors}, indent=1)
    disk.write(budgets.path.parent / NOISE, f"{text}\n".encode(), name="noise")
    return {name: {metric: math.expm1(floor) for metric, floor in one.items()} for name, one in floors.items()}


def read_noise(budgets: Budgets) -> dict[str, dict[str, float]]:
    """Return the noise floors that were measured on this machine; empty if there are none."""
    try:
        fields = json.loads((budgets.path.parent / NOISE).read_text(encoding="utf-8"))
        return dict(fields["floors"]) if fields["machine"] == _machine() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _machine() -> str:
    return f"{platform.node()} {platform.machine()} {os.cpu_count()}"


def _check_base(budgets: Budgets, base: str | None, base_command: str | None) -> None:
    """Refuse a relative budget of a server without a base, and a base that no budget needs."""
    relative = [entry for entry in budgets.entries if entry.server is not None and entry.is_relative]
    if base is not None and base_command is not None:
        raise UsageError("--base-command: not together with --base, which names the base, too")
    given = base or base_command
    if relative and not given:
        raise UsageError(
            f"{budgets.path}: budget {relative[0].name!r} compares a server with its base: "
            "add --base REF (a commit) or --base-command COMMAND"
        )
    if given and not relative:
        raise UsageError(f"--base: no budget of a server in {budgets.path} has max_increase or max_decrease")
    for entry in relative:
        server = budgets.server(entry)
        if server is not None and server.command is None:
            raise UsageError(
                f"{budgets.path}: budget {entry.name!r} is relative: its server needs a command, to start base and head"
            )


@contextmanager
def _players(
    budgets: Budgets, base: str | None, base_command: str | None
) -> Iterator[Callable[[live.Subject], live.Play]]:
    """Build the servers, and yield the function that makes the player of each subject."""
    folder = budgets.path.parent
    with ExitStack() as stack:
        base_folder = None if base is None else stack.enter_context(servers.worktree(base, folder))
        for server in {repr(one.server): one.server for one in live.subjects_of(budgets)}.values():
            servers.build(server, folder)
            if base_folder is not None:
                servers.build(server, base_folder)
        yield lambda one: live.player(one, folder, base_folder, base_command)


def save_baseline(
    file: str | PathLike[str] | None = None,
    *,
    baseline: str | PathLike[str] | None = None,
    replications: int | None = None,
    jobs: int = -1,
    progress: Progress | None = None,
) -> Path:
    """Simulate the subjects of relative budgets, and write the baseline. Return its path."""
    budgets = Budgets.read(file)
    path = baseline_of(budgets, baseline)
    Baseline(save(budgets, replications or LOOKS[1], jobs, progress)).write(path)
    return path


def read_baseline(file: str | PathLike[str] | None = None, baseline: str | PathLike[str] | None = None) -> Baseline:
    """Read the baseline beside a file of budgets, or the one that is given."""
    return Baseline.read(Path(baseline) if baseline is not None else baseline_of(Budgets.read(file), None))


def diff_baseline(
    file: str | PathLike[str] | None = None,
    *,
    baseline: str | PathLike[str] | None = None,
    jobs: int = -1,
    progress: Progress | None = None,
) -> list[str]:
    """Simulate the subjects of relative budgets again. Return a line for each metric that has changed.

    The runs have the seeds of the baseline. A subject with equal rows has not changed.
    """
    budgets = Budgets.read(file)
    before = Baseline.read(baseline_of(budgets, baseline)).subjects
    count = max((len(one.seeds) for one in before.values()), default=LOOKS[0])
    now = save(budgets, count, jobs, progress)
    lines = [f"{name}: not in the baseline" for name in now if name not in before]
    lines += [f"{name}: only in the baseline" for name in before if name not in now]
    return lines + [line for name, one in now.items() if name in before for line in one.difference(before[name], name)]


def baseline_of(budgets: Budgets, baseline: str | PathLike[str] | None) -> Path:
    """Return the path of the baseline: a given one, or the file beside the budgets."""
    return budgets.path.parent / NAME if baseline is None else Path(baseline)


def _of_run(entry: BudgetEntry, run: Run) -> Finding:
    """Judge a run that has been played already. One run has no interval, so its number is compared with the limit."""
    assert entry.name is not None
    value = value_of(run, entry.measure)
    shown = value if math.isfinite(value) else None
    is_held = (value <= entry.bound if entry.is_upper else value >= entry.bound) and shown is not None
    verdict: Verdict
    if not run.valid:
        verdict, reason = "invalid", f"the run is invalid: {run.invalid_because}"
    elif is_held:
        verdict, reason = "held", ""
    elif math.isnan(value):
        verdict, reason = "invalid", "null: the run has nothing to measure"
    else:
        verdict, reason = "breached", f"beyond the limit {entry.limit}"
    if run.partial:
        reason = "; ".join(filter(None, [reason, "the run is partial"]))
    return Finding(entry.name, entry.measure, entry.limit, verdict, shown, evidence="one run", reason=reason)
