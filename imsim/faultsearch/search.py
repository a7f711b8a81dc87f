"""The search: many seeds, each a world of its own; the one that breaks something is made small and explained."""

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
from imsim.faultsearch.checks import Violation, judge, judge_raises
from imsim.faultsearch.entries import Entry
from imsim.faultsearch.faults import KINDS
from imsim.faultsearch.plan import draw
from imsim.faultsearch.shrink import shrink
from imsim.faultsearch.situations import SOMETIMES, met
from imsim.faultsearch.trace import about, digest
from imsim.faultsearch.world import World
from imsim.scenario import Scenario
from imsim.sim.garbage import no_garbage_collection

#: A search of at least this many seeds must have met everything in `SOMETIMES`. The rarest is met in nearly 5 % of the
#: seeds: chance alone misses one once in some thousands of such searches.
ENOUGH = 200

#: A kind of fault that this many seeds had in their plans must have hit something in one of them, however short the
#: search. It does in two of three seeds that have it planned, or more: chance alone misses all once in 100,000 times.
PLANNED = 12

_SHRINKING_RUNS = 300
_BATCH = 25  # seeds that a worker takes at once
_FAILURES_KEPT = 10  # seeds explained in full; the rest are only counted
_BEGINNING, _END = 8, 40  # lines of a trace that are shown: how it began, and what led to the violation

Progress = Callable[[float], None]
Broke = Callable[[int, str], None]


@dataclass(slots=True)
class Outcome:
    """What became of one case."""

    case: Case
    violations: list[Violation]
    met: Counter[str]
    trace: list[Entry]

    @property
    def digest(self) -> str:
        """Stands for the whole trace: equal if and only if that is, byte for byte. Made when asked for: it takes nearly
        as long as judging, and neither shrinking nor a test of what is found needs it."""
        return digest(self.trace)

    def about(self, violation: Violation) -> list[Entry]:
        """What the trace has, until the violation was seen, about the message, the instance or the conversation that it
        names; or all of it, if it names none. The last is the entry at which it was seen, if it was one."""
        if violation.at is None:
            return about(self.trace, violation.text)
        found, last = about(self.trace[: violation.at], violation.text), self.trace[violation.at - 1]
        return found if found[-1] is last else [*found, last]


@dataclass(slots=True)
class Failure:
    """A seed that broke something, its case as small as could be, and how that one goes."""

    seed: int
    violation: Violation
    smallest: Outcome
    command: str

    @property
    def trace(self) -> list[str]:
        """What led to the violation in the smallest case, line by line. If it is long: its beginning and its end,
        without heartbeats."""
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
            f"smallest: {len(case.faults)} faults, {len(case.steps)} steps",
            f"  devices: {', '.join(devices)}; gateways: {case.gateways}, routers: {case.routers}",
            f"  latencies in seconds, one way: {latencies}",
            f"  {case.policies}",
            "faults:",
            *(f"  {fault}" for fault in case.faults),
            "workload:",
            *(f"  {step}" for step in case.steps),
            f"which breaks {violation}",
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
    """What a search keeps of a seed. `invariant`: the first that it broke, or ""."""

    seed: int
    invariant: str
    met: Counter[str]
    planned: set[str]
    digest: str


@dataclass(slots=True)
class Report:
    """What a search found."""

    first: int
    drawn: bool = True  # whether the policies were: those of a scenario may leave no room for some situations
    count: int = 0  # how many seeds were tried: fewer than wanted if it was interrupted
    broken: dict[int, str] = field(default_factory=dict)  # seed -> the first invariant that it broke
    failures: list[Failure] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    planned: Counter[str] = field(default_factory=Counter)  # kind of fault -> how many seeds had it in their plans
    seconds: float = 0.0  # of wall time
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
        """Sums up all traces; the same for any number of jobs."""
        return str(self._sha.hexdigest())[:16]

    @property
    def unmet(self) -> list[str]:
        """What was never met."""
        return [name for name in SOMETIMES if not self.met[name]]

    @property
    def never(self) -> list[str]:
        """What had to be met at least once, and was not: a kind of fault that was planned often enough; in a long
        search every one; and in a long search that drew its policies all situations, too."""
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
        """All but the failures."""
        lines = [f"never met: {name}" for name in self.never]
        if optional := [name for name in self.unmet if name not in self.never]:
            reason = "with a SCENARIO" if not self.drawn else f"of fewer than {ENOUGH} seeds"
            lines.append(f"not met, which a search {reason} need not: {', '.join(optional)}")
        rate = self.count / self.seconds * 60 if self.seconds else 0.0
        lines.append(
            f"{self.count} seeds from {self.first} in {self.seconds:.1f} s ({rate:,.0f} a minute): "
            f"{len(self.broken)} broke an invariant; {len(SOMETIMES) - len(self.unmet)} of "
            f"{len(SOMETIMES)} faults and situations met"
        )
        if self.interrupted:
            lines.append("interrupted: these are the seeds until then")
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
    """Let the case happen, and judge it.

    Raises: UsageError if it names what is not there, or misses something.
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
        violations.append(judge_raises())
    return Outcome(case, violations, seen, world.trace)


def replay(seed: int, scenario: Scenario | None = None) -> Outcome:
    """The run of one seed, exactly as a search has it."""
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
    """Try the seeds first, first + 1, ... and shrink what breaks.

    jobs: worker processes; the result does not depend on their number. -1: one for each core.
    scenario: gives policies, the numbers of gateways and routers, and latencies in place of drawn ones.
    command: what a failure names to run, with --replay, to see it again.
    progress: called with the share done, from 0 to 1.
    broke: called with each seed that breaks something and the first invariant that it breaks, before it is made small.

    An interrupt (Ctrl-C) ends it early; what was found by then is reported.

    Raises: UsageError if there is nothing to search, or nobody to do it.
    """
    if first < 0 or count < 1:
        raise UsageError(f"faultsearch: give a first seed of 0 or more and at least 1 seed, got {first} and {count}")
    if jobs < 1 and jobs != -1:
        raise UsageError(f"faultsearch: jobs: expected at least 1, or -1 for one for each core; got {jobs}")
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
    """The smallest case that breaks the same invariant as this outcome does first, found within these runs.

    command: what shows the outcome's case again; without it, one that does.
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
