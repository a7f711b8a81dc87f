"""The search: it runs many seeds, shrinks the case of each seed that breaks an invariant, and explains it."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imsim.core import frames
from imsim.core.exceptions import UsageError
from imsim.faultsearch.case import Case
from imsim.faultsearch.case_file import check
from imsim.faultsearch.checks import Violation, check_raises, judge
from imsim.faultsearch.entries import Entry
from imsim.faultsearch.faults import KINDS
from imsim.faultsearch.plan import draw
from imsim.faultsearch.shrink import shrink
from imsim.faultsearch.situations import SOMETIMES, met
from imsim.faultsearch.trace import about, digest
from imsim.faultsearch.world import World
from imsim.scenario import Scenario
from imsim.sim.garbage import no_garbage_collection

#: A search of at least this many seeds must have met everything in `SOMETIMES`. The rarest situation occurs in nearly
#: 5% of the seeds: one of some thousands of such searches misses a situation by chance.
ENOUGH = 200

#: A kind of fault that at least this many seeds planned must have hit something in one of them, in a search of any
#: length. It does in at least two of three seeds that plan it: by chance, all of them miss once in 100,000 times.
PLANNED = 12

_SHRINKING_RUNS = 300
_BATCH = 25  # the number of seeds in one task of a worker
_FAILURES_KEPT = 10  # the number of failing seeds that are explained in full; further ones are only counted
# the number of trace lines shown from its beginning, and from the end, which led to the violation
_BEGINNING, _END = 8, 40

Progress = Callable[[float], None]
Broke = Callable[[int, str], None]


@dataclass(slots=True)
class Outcome:
    """The result of running one case."""

    case: Case
    violations: list[Violation]
    met: Counter[str]
    trace: list[Entry]

    @property
    def digest(self) -> str:
        """The digest of the trace. Two digests are equal if and only if the traces are equal byte for byte.

        It is computed on each access. That takes nearly as long as the checks, and shrinking does not need it.
        """
        return digest(self.trace)

    def about(self, violation: Violation) -> list[Entry]:
        """Return the trace entries, up to the violation, about the message, instance or conversation that it names.

        If it names none of these, return all entries up to it. The last entry is the one at which a check saw the
        violation, if a single entry showed it.
        """
        if violation.at is None:
            return about(self.trace, violation.text)
        found, last = about(self.trace[: violation.at], violation.text), self.trace[violation.at - 1]
        return found if found[-1] is last else [*found, last]


@dataclass(slots=True)
class Failure:
    """A seed that broke an invariant, with the smallest case found that breaks it too, and the outcome of that case."""

    seed: int
    violation: Violation
    smallest: Outcome
    command: str

    @property
    def trace(self) -> list[str]:
        """The lines that led to the violation in the smallest case.

        A long trace is cut to its beginning and its end, without heartbeats.
        """
        entries = self.smallest.about(self.smallest.violations[0])
        if len(entries) > _BEGINNING + _END:
            entries = [entry for entry in entries if not isinstance(entry.subject, frames.Ping | frames.Pong)]
        lines = [str(entry) for entry in entries]
        if (left_out := len(lines) - _BEGINNING - _END) <= 0:
            return lines
        return [*lines[:_BEGINNING], f"... {left_out} lines", *lines[-_END:]]

    def __str__(self) -> str:
        case, violation = self.smallest.case, self.smallest.violations[0]
        devices = [
            f"{device} ({kind})" if kind else device for device, kind in zip(case.devices, case.kinds, strict=True)
        ]
        latencies = f"client {case.client_latency}, backend {case.backend_latency}, storage {case.storage_latency}"
        lines = [
            f"seed {self.seed}: {self.violation}",
            f"smallest case: {len(case.faults)} faults, {len(case.steps)} steps",
            f"  devices: {', '.join(devices)}; gateways: {case.gateways}, routers: {case.routers}",
            f"  latencies in seconds, one way: {latencies}",
            f"  {case.policies}",
            "faults:",
            *(f"  {fault}" for fault in case.faults),
            "workload:",
            *(f"  {step}" for step in case.steps),
            f"the smallest case breaks {violation}",
            "trace:",
            *(f"  {line}" for line in self.trace),
            f"replay: {self.command}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "invariant": self.violation.invariant,
            "text": self.violation.text,
            "replay": self.command,
            "smallest": self.smallest.case.to_json(),
            "breaks": str(self.smallest.violations[0]),
            "trace": self.trace,
        }


class _Result(NamedTuple):
    """The part of one seed's outcome that a search keeps. `invariant`: the first one that it broke, or ""."""

    seed: int
    invariant: str
    met: Counter[str]
    planned: set[str]
    digest: str


@dataclass(slots=True)
class Report:
    """The result of a search."""

    first: int
    drawn: bool = True  # whether policies were drawn; those of a scenario may rule out some situations
    count: int = 0  # the number of seeds run: smaller than requested if the search was interrupted
    broken: dict[int, str] = field(default_factory=dict)  # seed -> the first invariant that it broke
    failures: list[Failure] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    planned: Counter[str] = field(default_factory=Counter)  # kind of fault -> the number of seeds that planned it
    seconds: float = 0.0  # wall time
    interrupted: bool = False
    _sha: Any = field(default_factory=hashlib.sha256)

    def _add(self, results: list[_Result]) -> None:
        self.count += len(results)
        for result in results:
            if result.invariant:
                self.broken[result.seed] = result.invariant
            self.met += result.met
            self.planned.update(result.planned)
            self._sha.update(result.digest.encode())

    @property
    def digest(self) -> str:
        """The digest of all traces. It does not depend on the number of jobs."""
        return str(self._sha.hexdigest())[:16]

    @property
    def unmet(self) -> list[str]:
        """The faults and situations that no seed met."""
        return [name for name in SOMETIMES if not self.met[name]]

    @property
    def never(self) -> list[str]:
        """The faults and situations that the search had to meet, and did not.

        Required are: the kinds of faults that enough seeds planned; in a long search, all kinds of faults; and in a
        long search with drawn policies, all situations too.
        """
        required = {f"fault: {kind}" for kind in KINDS if self.planned[kind] >= PLANNED or self.count >= ENOUGH}
        if self.count >= ENOUGH and self.drawn:
            required.update(SOMETIMES)
        return [name for name in self.unmet if name in required]

    @property
    def passed(self) -> bool:
        return not self.broken and not self.never

    def __str__(self) -> str:
        return "\n".join([*(f"{failure}\n" for failure in self.failures), self.summary])

    @property
    def summary(self) -> str:
        """The report without the failures."""
        lines = [f"never met: {name}" for name in self.never]
        if optional := [name for name in self.unmet if name not in self.never]:
            reason = "with a SCENARIO" if not self.drawn else f"of fewer than {ENOUGH} seeds"
            lines.append(f"not met, but not required in a search {reason}: {', '.join(optional)}")
        rate = self.count / self.seconds * 60 if self.seconds else 0.0
        lines.append(
            f"{self.count} seeds from {self.first} in {self.seconds:.1f} s ({rate:,.0f} a minute): "
            f"{len(self.broken)} broke an invariant; met {len(SOMETIMES) - len(self.unmet)} of "
            f"{len(SOMETIMES)} faults and situations"
        )
        if self.interrupted:
            lines.append("interrupted: the report covers the seeds run until then")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "count": self.count,
            "interrupted": self.interrupted,
            "passed": self.passed,
            "broken": {str(seed): invariant for seed, invariant in self.broken.items()},
            "failures": [failure.to_json() for failure in self.failures],
            "met": {name: self.met[name] for name in SOMETIMES},
            "unmet": self.unmet,
            "never": self.never,
            "planned": {kind: self.planned[kind] for kind in KINDS},
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
        }


def run(case: Case) -> Outcome:
    """Run the case and check every invariant.

    Raises: UsageError if the case refers to an unknown name, or a required part is missing.
    """
    check(case)
    return _run(case)


@no_garbage_collection()
def _run(case: Case) -> Outcome:
    world = World(case)
    world.run()
    violations, seen = judge(world), Counter[str]()
    try:
        seen = met(world)
    except Exception:
        violations.append(check_raises())
    return Outcome(case, violations, seen, world.trace)


def replay(seed: int, scenario: Scenario | None = None) -> Outcome:
    """Return the outcome of one seed, exactly as in a search."""
    return _run(draw(seed, scenario))


def search(
    first: int,
    count: int,
    jobs: int = 1,
    *,
    scenario: Scenario | None = None,
    command: str = "imsim faultsearch",
    progress: Progress | None = None,
    broke: Broke | None = None,
) -> Report:
    """Run the seeds first, first + 1, ..., and shrink the cases that break an invariant.

    jobs: the number of worker processes; the result does not depend on it. -1: one for each core.
    scenario: gives the policies, the counts of gateways and routers, and the latencies; otherwise they are drawn.
    command: the command that a failure prints, with --replay SEED, to run the seed again.
    progress: called with the share of seeds done, from 0 to 1.
    broke: called with each failing seed and the first invariant that it breaks, before its case is shrunk.

    An interrupt (Ctrl-C) ends the search early; the report covers the seeds run until then.

    Raises: UsageError if `first`, `count` or `jobs` is out of range.
    """
    if first < 0 or count < 1:
        raise UsageError(f"faultsearch: first must be at least 0 and count at least 1 (got {first} and {count})")
    if jobs < 1 and jobs != -1:
        raise UsageError(f"faultsearch: jobs: must be at least 1, or -1 for one for each core (got {jobs})")
    started, report = time.perf_counter(), Report(first, scenario is None)
    batches = (range(at, min(at + _BATCH, first + count)) for at in range(first, first + count, _BATCH))
    try:
        for batch in _results(batches, scenario, jobs):
            report._add(batch)
            if progress:
                progress(report.count / count)
            for seed, invariant in [(one.seed, one.invariant) for one in batch if one.invariant]:
                if broke:
                    broke(seed, invariant)
                if len(report.failures) < _FAILURES_KEPT:
                    report.failures.append(explain(replay(seed, scenario), f"{command} --replay {seed}"))
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.perf_counter() - started
    return report


def _results(batches: Iterator[range], scenario: Scenario | None, jobs: int) -> Iterator[list[_Result]]:
    if jobs == 1:
        yield from (_try(batch, scenario) for batch in batches)
        return
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=jobs, return_as="generator")(delayed(_try)(batch, scenario) for batch in batches)


def _try(seeds: range, scenario: Scenario | None) -> list[_Result]:
    results = []
    for seed in seeds:
        outcome = replay(seed, scenario)
        invariant = outcome.violations[0].invariant if outcome.violations else ""
        planned = {fault.kind for fault in outcome.case.faults}
        results.append(_Result(seed, invariant, outcome.met, planned, outcome.digest))
    return results


def explain(outcome: Outcome, command: str | None = None, *, runs: int = _SHRINKING_RUNS) -> Failure:
    """Return the smallest case that breaks the first invariant of this outcome, found within `runs` runs.

    command: the command that runs the outcome's case again; None: choose one.
    """
    violation, case = outcome.violations[0], outcome.case
    if command is None:
        is_drawn = case == draw(case.seed)
        command = "imsim faultsearch " + (f"--replay {case.seed}" if is_drawn else "--case FILE, with the case in FILE")

    @no_garbage_collection()
    def breaks(smaller: Case) -> bool:
        world = World(smaller)
        world.run()
        return any(found.invariant == violation.invariant for found in judge(world))

    smallest = _run(shrink(case, breaks, runs))
    smallest.violations.sort(key=lambda found: found.invariant != violation.invariant)
    return Failure(case.seed, violation, smallest, command)
