"""`check`: judge all budgets of a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from imsim.analysis.metrics import value_of
from imsim.analysis.run import Run
from imsim.experiments.check.baseline import NAME, Baseline
from imsim.experiments.check.file import BudgetEntry, Budgets
from imsim.experiments.check.result import CheckResult, Finding
from imsim.experiments.check.simulated import LOOKS, check_simulated, save
from imsim.experiments.replicate import Progress


def check(
    file: str | PathLike[str] | None = None,
    *,
    baseline: str | PathLike[str] | None = None,
    looks: Sequence[int] = LOOKS,
    jobs: int = -1,
    progress: Progress | None = None,
) -> CheckResult:
    """See `imsim.check`."""
    budgets = Budgets.read(file)
    findings: dict[int, Finding] = {}
    for number, entry in enumerate(budgets.entries):
        if entry.run is not None:
            findings[number] = _of_run(entry, Run.open(budgets.path.parent / entry.run))
    is_relative = any(entry.is_relative and entry.server is None for entry in budgets.entries)
    kept = Baseline.read(baseline_of(budgets, baseline)).subjects if is_relative else {}
    findings |= check_simulated(budgets, kept, looks=looks, jobs=jobs, progress=progress)
    return CheckResult(str(budgets.path), [findings[number] for number in sorted(findings)])


def save_baseline(
    file: str | PathLike[str] | None = None,
    *,
    baseline: str | PathLike[str] | None = None,
    replications: int = LOOKS[1],
    jobs: int = -1,
    progress: Progress | None = None,
) -> Path:
    """Simulate the subjects of relative budgets, and write the baseline. Return its path."""
    budgets = Budgets.read(file)
    path = baseline_of(budgets, baseline)
    Baseline(save(budgets, replications, jobs, progress)).write(path)
    return path


def baseline_of(budgets: Budgets, baseline: str | PathLike[str] | None) -> Path:
    """Return the path of the baseline: a given one, or the file beside the budgets."""
    return budgets.path.parent / NAME if baseline is None else Path(baseline)


def _of_run(entry: BudgetEntry, run: Run) -> Finding:
    """Judge a run that has been played already. One run has no interval, so its number is compared with the limit."""
    assert entry.name is not None
    value = value_of(run, entry.measure)
    shown = value if math.isfinite(value) else None
    is_held = (value <= entry.bound if entry.is_upper else value >= entry.bound) and shown is not None
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
    return Finding(entry.name, entry.measure, entry.limit, verdict, shown, evidence="one run", reason=reason)  # type: ignore[arg-type]
