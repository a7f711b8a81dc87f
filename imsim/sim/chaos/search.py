"""The search: many seeds, each a world of its own; the one that breaks something is made small and told."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario
from imsim.sim.chaos.case import Case
from imsim.sim.chaos.coverage import SOMETIMES, met
from imsim.sim.chaos.evidence import Evidence
from imsim.sim.chaos.invariants import Violation, check
from imsim.sim.chaos.plan import draw
from imsim.sim.chaos.shrink import shrink
from imsim.sim.chaos.trace import Entry, digest
from imsim.sim.chaos.world import ChaosWorld

#: A search of at least so many seeds must have met everything in `SOMETIMES`. The rarest is met in some 5 % of the
#: seeds: chance alone misses it in that many once in 10^11 searches; in 200, once in 30,000.
ENOUGH = 500

_SHRINKING_RUNS = 300
_BATCH = 25  # seeds that a worker takes at once
_LINES = 80  # of a message's trace that are printed
_FAILURES_KEPT = 10  # seeds told in full; the rest are only counted

Progress = Callable[[float], None]


@dataclass(slots=True)
class Outcome:
    """What became of one case. `digest` stands for the whole trace: equal if and only if that is, byte for byte."""

    case: Case
    violations: list[Violation]
    met: Counter[str]
    digest: str
    trace: list[Entry]

    def about(self, violation: Violation) -> list[Entry]:
        """The part of the trace that concerns what the violation is about: the message that it names, as
        conversation#seq, or else its first word."""
        message = re.search(r"\S+#\d+", violation.text)
        subject = f"{message[0]}[" if message else violation.text.split(" ", 1)[0]
        return [entry for entry in self.trace if subject in str(entry)]


@dataclass(slots=True)
class Failure:
    """A seed that broke something, its case as small as could be, and how that one goes."""

    seed: int
    violation: Violation
    smallest: Outcome
    command: str

    def __str__(self) -> str:
        case, violation = self.smallest.case, self.smallest.violations[0]
        lines = [
            f"seed {self.seed}: {self.violation}",
            f"smallest: {len(case.faults)} faults, {len(case.steps)} steps",
            f"  devices: {', '.join(case.devices)}; gateways: {case.gateways}, routers: {case.routers}",
            f"  {case.policies}",
            "faults:",
            *(f"  {fault}" for fault in case.faults),
            "workload:",
            *(f"  {step}" for step in case.steps),
            f"which breaks {violation}",
            "trace:",
            *(f"  {entry}" for entry in self.smallest.about(violation)[:_LINES]),
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
            "trace": [str(entry) for entry in self.smallest.about(self.smallest.violations[0])],
        }


@dataclass(slots=True)
class Report:
    """What a search found. `digest` sums up all traces; the same for any number of jobs. `seconds`: of wall time."""

    first: int
    count: int
    broken: dict[int, str]  # seed -> the first invariant that it broke
    failures: list[Failure]
    met: Counter[str]
    digest: str
    seconds: float
    drawn: bool = True  # whether the policies were: those of a scenario may leave no room for some situations

    @property
    def never(self) -> list[str]:
        """What had to be met at least once, and was not; only a search that is long and free enough is asked."""
        return [name for name in SOMETIMES if not self.met[name]] if self.count >= ENOUGH and self.drawn else []

    @property
    def passed(self) -> bool:
        return not self.broken and not self.never

    def __str__(self) -> str:
        lines = [str(failure) + "\n" for failure in self.failures]
        lines += [f"never met: {name}" for name in self.never]
        rate = self.count / self.seconds * 60 if self.seconds else 0.0
        lines.append(
            f"{self.count} seeds from {self.first} in {self.seconds:.1f} s ({rate:,.0f} a minute): "
            f"{len(self.broken)} broke an invariant; {sum(map(bool, map(self.met.get, SOMETIMES)))} of "
            f"{len(SOMETIMES)} faults and situations met"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "count": self.count,
            "passed": self.passed,
            "broken": {str(seed): invariant for seed, invariant in self.broken.items()},
            "failures": [failure.to_json() for failure in self.failures],
            "met": {name: self.met[name] for name in SOMETIMES},
            "never": self.never,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
        }


def run(case: Case) -> Outcome:
    """Let the case happen, and judge it."""
    world = ChaosWorld(case)
    world.run()
    return Outcome(case, check(Evidence(world)), met(world), digest(world.trace), world.trace)


def replay(seed: int, scenario: Scenario | None = None) -> Outcome:
    """The run of one seed, exactly as a search has it."""
    return run(draw(seed, scenario))


def search(
    first: int,
    count: int,
    jobs: int = 1,
    *,
    scenario: Scenario | None = None,
    command: str = "imsim chaos",
    progress: Progress | None = None,
) -> Report:
    """Try the seeds first, first + 1, ... and shrink what breaks.

    jobs: worker processes; the result does not depend on their number. -1: one for each core.
    scenario: gives policies, topology and latencies in place of drawn ones.
    command: what a failure tells to run, with --replay, to see it again.
    progress: told the share done, from 0 to 1.

    Raises: UsageError if there is nothing to search.
    """
    if first < 0 or count < 1:
        raise UsageError(f"chaos: give a first seed of 0 or more and at least 1 seed, got {first} and {count}")
    started = time.perf_counter()
    found = _Found()
    batches = [range(at, min(at + _BATCH, first + count)) for at in range(first, first + count, _BATCH)]
    for number, batch in enumerate(_results(batches, scenario, jobs), 1):
        found.add(batch)
        if progress:
            progress(number / len(batches))
    failures = [explain(replay(seed, scenario), command) for seed in list(found.broken)[:_FAILURES_KEPT]]
    seconds = time.perf_counter() - started
    return Report(
        first, count, found.broken, failures, found.met, found.sha.hexdigest()[:16], seconds, scenario is None
    )


@dataclass
class _Found:
    broken: dict[int, str] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)
    sha: Any = field(default_factory=hashlib.sha256)

    def add(self, batch: list[tuple[int, str, Counter[str], str]]) -> None:
        for seed, invariant, seen, trace_digest in batch:
            if invariant:
                self.broken[seed] = invariant
            self.met += seen
            self.sha.update(trace_digest.encode())


def _results(
    batches: list[range], scenario: Scenario | None, jobs: int
) -> Iterator[list[tuple[int, str, Counter[str], str]]]:
    if jobs == 1:
        yield from (_try(batch, scenario) for batch in batches)
        return
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=jobs, return_as="generator")(delayed(_try)(batch, scenario) for batch in batches)


def _try(seeds: range, scenario: Scenario | None) -> list[tuple[int, str, Counter[str], str]]:
    results = []
    for seed in seeds:
        outcome = replay(seed, scenario)
        invariant = outcome.violations[0].invariant if outcome.violations else ""
        results.append((seed, invariant, outcome.met, outcome.digest))
    return results


def explain(outcome: Outcome, command: str = "imsim chaos", *, runs: int = _SHRINKING_RUNS) -> Failure:
    """The smallest case that breaks the same invariant as this outcome does first, found within so many runs."""
    violation = outcome.violations[0]

    def breaks(case: Case) -> bool:
        world = ChaosWorld(case)
        world.run()
        return any(found.invariant == violation.invariant for found in check(Evidence(world)))

    smallest = run(shrink(outcome.case, breaks, runs))
    smallest.violations.sort(key=lambda found: found.invariant != violation.invariant)
    return Failure(outcome.case.seed, violation, smallest, f"{command} --replay {outcome.case.seed}")
