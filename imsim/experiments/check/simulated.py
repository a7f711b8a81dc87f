"""Budgets of simulated scenarios.

Each subject is replicated at growing numbers of seeds (`LOOKS`), until every budget on it is decided. The seeds are
fixed, so the same commit gives the same verdict, bit for bit. A relative budget is judged by the paired differences
from a baseline under the same seeds (common random numbers). If the runs are too short for the percentile of an
absolute budget, they are made longer, as in a capacity search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from imsim.analysis.intervals import estimate
from imsim.analysis.run_length import is_steady
from imsim.analysis.verdicts import NONE, Evidence, Verdict, decide, evidence
from imsim.core.exceptions import UsageError
from imsim.experiments.capacity import LONGEST, lengthening
from imsim.experiments.check.baseline import Subject
from imsim.experiments.check.file import BudgetEntry, Budgets
from imsim.experiments.check.result import Finding
from imsim.experiments.comparison import difference
from imsim.experiments.replicate import Progress, Replications, Sample, Sampling, replicate
from imsim.scenario import Scenario

#: The numbers of replications after which the budgets are judged.
LOOKS = (10, 20, 40, 80)


def name_of(entry: BudgetEntry) -> str:
    """Return the name of the subject of a budget: its scenario and the changes."""
    seed = [] if entry.seed is None else [f"seed={entry.seed}"]
    return " ".join([str(entry.scenario), *(f"{path}={value}" for path, value in sorted(entry.set.items())), *seed])


class _Samples:
    """A store of the finished replications of one scenario."""

    def __init__(self) -> None:
        self._kept: dict[int, Sample] = {}

    def get(self, _scenario: Scenario, replication: int) -> Sample | None:
        return self._kept.get(replication)

    def put(self, _scenario: Scenario, sample: Sample) -> None:
        self._kept[sample.replication] = sample


@dataclass
class _Subject:
    """A scenario with the absolute, or with the relative budgets on it."""

    name: str
    scenario: Scenario
    entries: dict[int, BudgetEntry] = field(default_factory=dict)  # by the number of the budget
    found: Replications | None = None
    samples: _Samples = field(default_factory=_Samples)

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.measure for entry in self.entries.values()))

    @property
    def is_relative(self) -> bool:
        return any(entry.is_relative for entry in self.entries.values())


def _subjects(budgets: Budgets) -> list[_Subject]:
    """Return the simulated subjects of a file."""
    subjects: dict[tuple[str, bool], _Subject] = {}
    scenarios: dict[str, Scenario] = {}
    for number, entry in enumerate(budgets.entries):
        if entry.scenario is not None and entry.server is None:
            name = name_of(entry)
            if name not in scenarios:
                scenarios[name] = budgets.scenario(entry)
            one = subjects.setdefault((name, entry.is_relative), _Subject(name, scenarios[name]))
            one.entries[number] = entry
    return list(subjects.values())


def save(budgets: Budgets, replications: int, jobs: int = -1, progress: Progress | None = None) -> dict[str, Subject]:
    """Return the baseline of the simulated subjects that have relative budgets.

    Raises:
        UsageError: the file has no relative budget of a simulated scenario.
    """
    relative = [one for one in _subjects(budgets) if one.is_relative]
    if not relative:
        raise UsageError(f"{budgets.path}: no budget of a simulated scenario has max_increase or max_decrease")
    return {one.name: Subject.of(_replicate(one, replications, jobs, progress), one.metrics) for one in relative}


def check_simulated(
    budgets: Budgets,
    baseline: Mapping[str, Subject],
    *,
    looks: Sequence[int] = LOOKS,
    jobs: int = -1,
    progress: Progress | None = None,
) -> dict[int, Finding]:
    """Judge the budgets of simulated scenarios.

    Returns:
        The finding on each of them, by the number of the budget.
    """
    subjects = _subjects(budgets)
    numbers = [number for one in subjects for number in one.entries]
    proofs: dict[int, Evidence] = dict.fromkeys(numbers, NONE)
    verdicts: dict[int, Verdict] = {
        number: "invalid"
        for one in subjects
        for number, entry in one.entries.items()
        if entry.is_relative and not _is_in(baseline.get(one.name), entry)
    }
    for count in looks:
        for one in subjects:
            if all(number in verdicts for number in one.entries):
                continue
            one.found = _replicate(one, count, jobs, progress)
            while not one.is_relative and (longer := _longer(one, budgets)) is not None:
                one.scenario, one.samples = longer, _Samples()
                one.found = _replicate(one, count, jobs, progress)
            for number, entry in one.entries.items():
                if number not in verdicts:
                    proofs[number] = _evidence(entry, one, baseline.get(one.name)).at_looks(len(looks))
        for number, verdict in zip(numbers, decide([proofs[number] for number in numbers]), strict=True):
            if verdict != "undecided":
                verdicts.setdefault(number, verdict)
    return {
        number: _finding(entry, one, baseline.get(one.name), verdicts.get(number, "undecided"))
        for one in subjects
        for number, entry in one.entries.items()
    }


def _replicate(one: _Subject, count: int, jobs: int, progress: Progress | None) -> Replications:
    sampling = Sampling.of(one.metrics, replications=count, most=count, jobs=jobs)

    def report(what: str, share: float) -> None:
        if progress:
            progress(f"{one.name}: {what}", share)

    (found,) = replicate([one.scenario], sampling, wants_more=lambda _: False, store=one.samples, progress=report)
    return found


def _longer(one: _Subject, budgets: Budgets) -> Scenario | None:
    """Return the scenario with a longer duration, if its runs are too short for a percentile; else None."""
    assert one.found is not None
    flawed = [metric for metric in one.metrics if one.found.flaw(metric) is not None]
    if not flawed or not is_steady(one.scenario):
        return None
    most = budgets.scenario(next(iter(one.entries.values()))).duration * LONGEST
    longer = min(one.scenario.duration * max(lengthening(one.found, metric) for metric in flawed), most)
    return one.scenario.replace({"duration": longer}) if longer > one.scenario.duration else None


def _evidence(entry: BudgetEntry, one: _Subject, base: Subject | None) -> Evidence:
    """Return the evidence of the replications so far about one budget."""
    assert one.found is not None
    values = one.found.values(entry.measure)
    sign = 1 if entry.is_upper else -1
    if not entry.is_relative:
        least = entry.kind.least if entry.is_upper else -entry.kind.most
        is_too_low = entry.is_upper and one.found.flaw(entry.measure) is not None
        return evidence([sign * v for v in values], sign * entry.bound, least=least, is_too_low=is_too_low)
    assert base is not None
    pairs = _pairs(entry, one.found, base)
    if pairs.is_unchanged:
        return Evidence(1.0, 0.0)
    return evidence([sign * (now - entry.bound * before) for before, now in pairs.values], 0.0)


def _is_in(base: Subject | None, entry: BudgetEntry) -> bool:
    """Return whether the baseline has the metric of this budget."""
    return base is not None and entry.measure in base.values


@dataclass(frozen=True)
class _Pairs:
    """The values of a metric in the baseline and now, by seed."""

    values: Sequence[tuple[float, float]]
    is_unchanged: bool


def _pairs(entry: BudgetEntry, found: Replications, base: Subject) -> _Pairs:
    """Return the pairs of a relative budget. There are none if the seeds differ."""
    before = dict(zip(base.seeds, zip(base.digests, base.values[entry.measure], strict=True), strict=True))
    both = [sample for sample in found.samples if sample.seed in before]
    values = [(math.inf if (kept := before[one.seed][1]) is None else kept, one.values[entry.measure]) for one in both]
    return _Pairs(values, bool(both) and all(one.digest == before[one.seed][0] for one in both))


def _finding(entry: BudgetEntry, one: _Subject, base: Subject | None, verdict: Verdict) -> Finding:
    finding = Finding(str(entry.name), entry.measure, entry.limit, verdict)
    if verdict == "invalid":
        text = "the baseline does not have this budget: save it again with `imsim baseline save`"
        return replace(finding, reason=text)
    assert one.found is not None
    found = one.found[entry.measure]
    runs = f"{len(one.found)} replications of {one.scenario.duration:.4g} s"
    if not entry.is_relative:
        reason = _reason(entry, one.found, verdict)
        return replace(finding, value=found.value, low=found.low, high=found.high, evidence=runs, reason=reason)
    assert base is not None
    pairs = _pairs(entry, one.found, base)
    before, now = ([pair[at] for pair in pairs.values] for at in (0, 1))
    change = difference(entry.measure, before, now).relative
    return replace(
        finding,
        value=estimate(now).value,
        base=estimate(before).value,
        change=change.value,
        low=change.low,
        high=change.high,
        evidence=f"unchanged: equal rows in {runs}" if pairs.is_unchanged else f"{len(now)} pairs under the same seeds",
        reason="" if verdict == "held" else _relative_reason(verdict, base, one.scenario),
    )


def _reason(entry: BudgetEntry, found: Replications, verdict: Verdict) -> str:
    if verdict == "held":
        return ""
    undefined = found[entry.measure].undefined
    if undefined:
        why = "it falls among messages that never arrived, or has no values"
        return f"null in {undefined} of {len(found)} replications: {why}"
    if verdict == "breached":
        return f"beyond the limit {entry.limit}"
    flaw = found.flaw(entry.measure)
    if flaw:
        return "the runs are too short for this percentile: lengthen the scenario's duration"
    return f"the interval has the limit {entry.limit} in it after {len(found)} replications"


def _relative_reason(verdict: Verdict, base: Subject, scenario: Scenario) -> str:
    changes = base.changes(scenario)
    text = "beyond the limit" if verdict == "breached" else "the interval has the limit in it"
    return f"{text}; the scenario has changed in {'; '.join(changes[:3])}" if changes else text
