"""Running designs: each several times under other seeds, in parallel, until the numbers are as precise as asked.

Which replications there are, and what comes out of each, depends on the designs and on what was asked alone: never on
how many workers there are, or which of them is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np

from imsim.analysis import Run
from imsim.analysis.intervals import estimate, is_precise, next_count
from imsim.analysis.metrics import Measures, Metrics
from imsim.analysis.replications import Replications, Sample
from imsim.analysis.run_length import behind, flaw
from imsim.analysis.warmup import Series
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

#: With which a given precision starts, and what stops it.
FIRST = 20
MOST = 200

#: What a precision without a name is of.
PRECISE = "delivery.p99"

Precision = float | Mapping[str, float]
Progress = Callable[[str, float], None]

_SPAWN = 0x7265706C  # "repl": spawn keys of replications, apart from any other use of the seed


class Store(Protocol):
    """Keeps samples from one process to the next."""

    def get(self, scenario: Scenario, replication: int) -> Sample | None: ...

    def put(self, scenario: Scenario, sample: Sample) -> None: ...


@dataclass(frozen=True)
class Asked:
    """How often each design is run, and what is kept of it. `of` checks what a user asked for."""

    replications: int
    measures: Measures
    precision: dict[str, float] = field(default_factory=dict)
    most: int = MOST
    jobs: int = -1
    keep: Literal["summary", "runs"] = "summary"
    series: bool = False  # for the warm-up

    @classmethod
    def of(
        cls,
        metrics: Metrics = (),
        *,
        also: Sequence[str] = (),
        needs: Sequence[str] = (),
        replications: int | None = None,
        precision: Precision | None = None,
        most: int | None = None,
        jobs: int = -1,
        keep: str = "summary",
        series: bool = False,
    ) -> Asked:
        """metrics: what the user wants measured besides `also`; `needs` may be among these. Raises: UsageError."""
        count = FIRST if replications is None else replications
        if count < 1:
            raise UsageError(f"replications: expected 1 or more, got {count}")
        wanted = _precision(precision)
        own = Measures.of(metrics).all
        measures = Measures.of(metrics, also=(*also, *(name for name in (*wanted, *needs) if name not in own)))
        if wanted and count < 2:
            raise UsageError("replications: a precision needs two or more to begin with; better leave it out (20)")
        if most is not None and most < count:
            raise UsageError(f"max_replications: expected at least replications ({count}), got {most}")
        if jobs == 0:
            raise UsageError("jobs: expected a number of processes, or -1 for one on each core; got 0")
        if keep not in ("summary", "runs"):
            raise UsageError(f"keep: expected 'summary' or 'runs', got {keep!r}")
        kept: Literal["summary", "runs"] = "runs" if keep == "runs" else "summary"
        return cls(count, measures, wanted, max(MOST, count) if most is None else most, jobs, kept, series)

    def wants_more(self, samples: Sequence[Sample]) -> bool:
        """Whether the precision is not reached yet, but may be."""
        stands = [sample.behind for sample in samples]
        wanting = False
        for name, share in self.precision.items():
            values = [sample.values[name] for sample in samples]
            found = estimate(values)
            if found.undefined:
                return False
            # What is wrong with a percentile of short runs more of them do not mend.
            wanting = wanting or not (is_precise(found, share) or flaw(name, values, stands))
        return wanting


def replication_seed(seed: int, replication: int) -> int:
    """Replication 0 has the seed itself, so that a single run is the first of many. Seeds fit JSON's and TOML's
    numbers."""
    if replication == 0:
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(_SPAWN, replication))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 11


def replicate(
    designs: Sequence[Scenario],
    asked: Asked,
    *,
    wants_more: Callable[[Sequence[Sample]], bool] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> list[Replications]:
    """Each design's replications, in the order of `designs`.

    Replication r of every design has the seed that follows from (the design's seed, r): designs of one seed meet the
    same messages and the same luck (common random numbers), and are compared pair by pair.

    With a precision, a design gets more replications, in steps that are the same everywhere, until it is reached, or
    `asked.most` is, or they show that it never can be: a number is null, or the runs are too short for a percentile.
    `wants_more` is another such rule, in place of the precision's.
    """
    wants_more = wants_more or asked.wants_more
    found: list[dict[int, Sample]] = [{} for _ in designs]
    counts = [asked.replications] * len(designs)
    while True:
        pairs = [
            (number, replication)
            for number, count in enumerate(counts)
            for replication in range(count)
            if replication not in found[number]
        ]
        if not pairs:
            break
        _run(designs, pairs, asked, found, store, progress)
        counts = [
            next_count(count, asked.most) if wants_more(list(samples.values())) else count
            for samples, count in zip(found, counts, strict=True)
        ]
    return [
        Replications(design, [samples[replication] for replication in sorted(samples)], asked.precision)
        for design, samples in zip(designs, found, strict=True)
    ]


def _run(
    designs: Sequence[Scenario],
    pairs: Sequence[tuple[int, int]],
    asked: Asked,
    found: list[dict[int, Sample]],
    store: Store | None,
    progress: Progress | None,
) -> None:
    """Run these (design, replication) pairs, of which the store may have some."""
    missing = []
    for number, replication in pairs:
        kept = store.get(designs[number], replication) if store else None
        if kept is None:
            missing.append((number, replication))
        else:
            found[number][replication] = kept
    if not missing:
        return

    from joblib import Parallel, delayed

    done = sum(map(len, found))
    total = done + len(missing)
    # No backend is named, so `with joblib.parallel_config("dask")` chooses another one. As each is done it is kept.
    parallel = Parallel(n_jobs=asked.jobs, return_as="generator_unordered", batch_size=1)
    tasks = (delayed(_one)(number, designs[number], replication, asked) for number, replication in missing)
    with closing(parallel(tasks)) as results:
        for number, sample in results:
            found[number][sample.replication] = sample
            if store:
                store.put(designs[number], sample)
            done += 1
            if progress:
                progress(f"{done} of {total} runs", done / total)


def _one(number: int, design: Scenario, replication: int, asked: Asked) -> tuple[int, Sample]:
    """One replication, in whichever process."""
    from imsim.sim import simulate

    seed = replication_seed(design.seed, replication)
    scenario = design.model_copy(update={"seed": seed})
    started = datetime.now(UTC)
    run = Run.make(simulate(scenario), scenario, world="sim", seed=seed, started=started)
    sample = Sample(
        replication,
        seed,
        run.digest,
        asked.measures(run),
        behind(run, asked.measures.names),
        Series.of(run) if asked.series else None,
        # Without the DataFrames that measuring has made of the tables.
        Run(run.tables, scenario, run.manifest) if asked.keep == "runs" else None,
    )
    return number, sample


def _precision(precision: Precision | None) -> dict[str, float]:
    if precision is None:
        return {}
    wanted = dict(precision) if isinstance(precision, Mapping) else {PRECISE: precision}
    for metric, share in wanted.items():
        if not 0 < share < 1:
            raise UsageError(
                f"precision: expected a share of {metric} between 0 and 1, as in 0.05 for 5 %, got {share!r}"
            )
    return wanted
