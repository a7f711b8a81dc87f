"""Replications: designs are run several times under other seeds, in parallel, until the numbers are precise enough.

The replications and their results depend on the designs and on the `Sampling` alone: never on the number of workers, or
on which of them is done first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from imsim.analysis import warmup
from imsim.analysis.intervals import CONFIDENCE, ENOUGH, Estimate, estimate, is_precise, next_count
from imsim.analysis.kinds import kind_of
from imsim.analysis.labels import heading
from imsim.analysis.metrics import Measures, Metrics, check_measured, printed
from imsim.analysis.run import Run
from imsim.analysis.run_length import Behind, Flaw, behind, flaw, needed
from imsim.core.exceptions import UsageError
from imsim.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

#: The number of replications with which a precision starts, and at which it stops.
FIRST = 20
MOST = 200

#: The metric of a precision without a name.
PRECISE = "delivery.p99"

Precision = float | Mapping[str, float]
Progress = Callable[[str, float], None]

_SPAWN = 0x7265706C  # "repl": spawn keys of replications, apart from any other use of the seed


@dataclass(frozen=True)
class Sample:
    """What is kept of one replication: its numbers (infinite where one falls among what never came, nan of nothing),
    what stands behind the percentiles among them, whether it is in steady state, and the digest of the rows that they
    are of. `series` and `run` only where `Sampling` asks for them."""

    replication: int
    seed: int
    digest: str
    values: dict[str, float]
    behind: dict[str, Behind] = field(default_factory=dict)
    steadiness: warmup.Steadiness = field(default_factory=warmup.Steadiness)
    series: warmup.Series | None = None
    run: Run | None = None


class Replications:
    """`summary()`: each number's mean over the replications with its 95 % interval; `frame`: one row a replication;
    `replications["delivery.p99"]`: one estimate.

    Replication 0 has the scenario's own seed, the others have seeds that follow from it: `imsim.simulate(scenario,
    seed=...)` with a seed of `frame` runs that one again.
    """

    def __init__(
        self,
        scenario: Scenario,
        samples: Sequence[Sample],
        precision: Mapping[str, float] | None = None,
        asked: Sequence[str] = (),
    ) -> None:
        """asked: the metrics that the user named."""
        self.scenario = scenario
        self.asked = tuple(asked)
        self.samples = tuple(samples)
        self.precision = dict(precision or {})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, metric: str) -> Estimate:
        """A percentile for which the runs are too short has no interval: it would miss, see `flaw`."""
        found = estimate(self.values(metric), *kind_of(metric).limits)
        return replace(found, low=None, high=None) if self.flaw(metric) else found

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def metrics(self) -> list[str]:
        """The names of the numbers that each replication gave."""
        return list(self.samples[0].values)

    @property
    def printed(self) -> list[str]:
        """The metrics of the printed table: all but those that cannot differ from another one."""
        return printed(self.metrics, [self.scenario], self.asked)

    def values(self, metric: str) -> list[float]:
        """A number of each replication: infinite where it falls among what never came, nan where there was nothing."""
        check_measured(metric, self.metrics)
        return [sample.values[metric] for sample in self.samples]

    @property
    def runs(self) -> list[Run]:
        """The runs themselves. Raises: UsageError unless they were kept (`keep="runs"`)."""
        if any(sample.run is None for sample in self.samples):
            raise UsageError(
                "the rows of replications are not kept, as they are large; simulate(..., keep='runs') keeps them, and "
                "simulate(scenario, seed=one of frame.seed) runs one again"
            )
        return [sample.run for sample in self.samples if sample.run is not None]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a replication: its number, its seed, the digest of its rows, and its numbers; null where a number
        falls among what never came, or of nothing."""
        import pandas as pd

        rows = [
            {"replication": sample.replication, "seed": sample.seed, "digest": sample.digest, **_shown(sample.values)}
            for sample in self.samples
        ]
        return pd.DataFrame(rows)

    def row(self) -> dict[str, object]:
        """One row of a table with a row for each design: each number's mean over the replications with the ends of its
        95 % interval (`delivery.p99`, `delivery.p99.low`, `delivery.p99.high`; nan where there is none), how many
        `replications` there were, and in how many of them some number is `null`."""
        row: dict[str, object] = {}
        undefined = [0]
        for metric in self.metrics:
            found = self[metric]
            for end, value in (("", found.value), (".low", found.low), (".high", found.high)):
                row[metric + end] = math.nan if value is None else value
            undefined.append(found.undefined)
        return {**row, "replications": len(self), "null": max(undefined)}

    def summary(self) -> pd.DataFrame:
        """A row for each number: its mean over the replications, its 95 % t-interval `low` to `high`, `relative` (half
        the interval's width as a share of the mean), and the smallest and the largest of any replication.

        `null` counts the replications in which the number is null. The mean over all is then null, too: leaving those
        out would be leaving out the worst.
        """
        import pandas as pd

        rows = {}
        for metric in self.metrics:
            found = self[metric]
            known = [value for value in self.values(metric) if math.isfinite(value)]
            rows[metric] = {
                "mean": found.value,
                "low": found.low,
                "high": found.high,
                "relative": found.relative,
                "smallest": min(known, default=None),
                "largest": max(known, default=None) if len(known) == len(self) else None,
                "null": found.undefined,
            }
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.astype({**dict.fromkeys(table.columns, float), "null": int})

    @property
    def is_precise(self) -> bool:
        """Whether every precision that was asked for is reached (True if none was). A percentile of runs that are too
        short for it is not precise, however narrow its interval is."""
        return all(
            is_precise(self[metric], share) and self.flaw(metric) is None for metric, share in self.precision.items()
        )

    def flaw(self, metric: str) -> Flaw | None:
        """What is wrong with a percentile's interval, if anything: see `imsim.analysis.run_length`."""
        return flaw(metric, self.values(metric), [sample.behind for sample in self.samples])

    @property
    def notes(self) -> list[str]:
        """What to know before these numbers are used, one sentence each."""
        notes = []
        if len(self) < 2:
            notes.append("one replication gives no interval: ask for two or more, better for 20")
        elif len(self) < ENOUGH:
            notes.append(
                f"an interval from {len(self)} replications is right only if the number is about normal from run to "
                f"run; with {ENOUGH} or more that matters little"
            )
        null = {metric: self[metric].undefined for metric in self.printed if self[metric].undefined}
        if null:
            which = ", ".join(f"{metric} in {count}" for metric, count in null.items())
            notes.append(
                f"null in some of {len(self)} replications, because it falls among what never came or there was "
                f"nothing to measure: {which}; there is no mean over all then"
            )
        notes += self.unsteady_notes
        notes += flaw_notes({metric: self.flaw(metric) for metric in self.printed}, self.scenario.duration)
        for metric, share in self.precision.items():
            if self.flaw(metric):
                notes.append(f"{metric} does not count as precise, as the runs are too short for it")
            elif not is_precise(self[metric], share):
                notes.append(f"{metric} is not as precise as asked ({share:.3g} of its value) after {len(self)}")
        return notes

    @property
    def unsteady_notes(self) -> list[str]:
        """A sentence if the service cannot keep up or the runs do not begin in steady state, and one for each node that
        dropped operations."""
        found = [sample.steadiness for sample in self.samples]
        return [*warmup.notes(found, has_faults=bool(self.scenario.faults)), *warmup.drop_notes(found)]

    def suggest_warmup(self) -> float | None:
        """Seconds to give the scenario as `warmup`, by MSER-5 on the delivery latencies averaged over the replications.

        None, with a warning, if no steady state shows in the scenario's duration.
        """
        series = [sample.series for sample in self.samples if sample.series is not None]
        seconds = warmup.suggest(series) if series else None
        if seconds is None:
            warnings.warn(
                "suggest_warmup: no steady state shows within half of the scenario's duration; make it longer, or ask "
                "whether the service can keep up at all",
                stacklevel=2,
            )
        return seconds

    def to_json_dict(self) -> dict[str, Any]:
        """What `imsim simulate --replications --json` prints."""
        return {
            "scenario": self.scenario.name,
            "seed": self.scenario.seed,
            "replications": len(self),
            "confidence": CONFIDENCE,
            "precise": self.is_precise if self.precision else None,
            "metrics": {metric: to_json(self[metric]) for metric in self.metrics},
            "digests": [sample.digest for sample in self.samples],
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"<Replications of {self.scenario.name}: {len(self)} from seed {self.scenario.seed}>"

    def __str__(self) -> str:
        table = self.summary().loc[self.printed].astype(object)
        text: str = table.where(table.notna(), "-").to_string(float_format=lambda value: f"{value:,.4g}")
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        title = f"<b>{escape(heading(self.scenario))}</b> · {len(self)} replications from seed {self.scenario.seed}"
        table = self.summary().loc[self.printed].astype(object)
        html = table.where(table.notna(), "–").to_html(float_format=lambda value: f"{value:,.4g}", border=0)
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        return f"<div>{title}{html}<small>mean over replications, 95 % interval</small>{notes}</div>"


class Store(Protocol):
    """Keeps samples from one process to the next."""

    def get(self, scenario: Scenario, replication: int) -> Sample | None: ...

    def put(self, scenario: Scenario, sample: Sample) -> None: ...


@dataclass(frozen=True)
class Sampling:
    """How often each design is run, and what is kept of it. `of` checks what a user asked for."""

    replications: int
    measures: Measures
    asked: tuple[str, ...] = ()  # the metrics that the user named, among `measures`
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
        first: int = FIRST,
        limit: int = MOST,
    ) -> Sampling:
        """metrics: what the user wants measured besides `also`, the default ones; `needs` names others, which may be
        among these.
        first, limit: how many replications there are, and at most, where the user does not say. Raises: UsageError.
        """
        count = first if replications is None else replications
        if count < 1:
            raise UsageError(f"replications: expected 1 or more, got {count}")
        wanted = _precision(precision)
        given = Measures.of(metrics).all
        asked = tuple(dict.fromkeys((*given, *wanted, *needs)))
        measures = Measures.of(metrics, also=(*also, *(name for name in (*wanted, *needs) if name not in given)))
        if wanted and count < 2:
            raise UsageError("replications: a precision needs two or more to begin with; better leave it out (20)")
        if most is not None and most < count:
            raise UsageError(f"max_replications: expected at least replications ({count}), got {most}")
        if jobs == 0:
            raise UsageError("jobs: expected a number of processes, or -1 for one on each core; got 0")
        if keep not in ("summary", "runs"):
            raise UsageError(f"keep: expected 'summary' or 'runs', got {keep!r}")
        kept: Literal["summary", "runs"] = "runs" if keep == "runs" else "summary"
        return cls(count, measures, asked, wanted, max(limit, count) if most is None else most, jobs, kept, series)

    def wants_more(self, samples: Sequence[Sample]) -> bool:
        """Whether the precision is not reached yet, but may be."""
        all_behind = [sample.behind for sample in samples]
        wanting = False
        for name, share in self.precision.items():
            values = [sample.values[name] for sample in samples]
            found = estimate(values)
            if found.undefined:
                return False
            # More replications do not mend a percentile of short runs.
            wanting = wanting or not (is_precise(found, share) or flaw(name, values, all_behind))
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
    sampling: Sampling,
    *,
    wants_more: Callable[[Sequence[Sample]], bool] | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> list[Replications]:
    """Each design's replications, in the order of `designs`.

    Replication r of every design has the seed that follows from (the design's seed, r): designs of one seed meet the
    same messages and service demands (common random numbers), and are compared pair by pair.

    With a precision, a design gets more replications, in steps that are the same everywhere, until it is reached, or
    `sampling.most` is, or they show that it never can be: a number is null, or the runs are too short for a percentile.
    `wants_more` is another such rule, in place of the precision's.
    """
    wants_more = wants_more or sampling.wants_more
    found: list[dict[int, Sample]] = [{} for _ in designs]
    counts = [sampling.replications] * len(designs)
    while True:
        pairs = [
            (number, replication)
            for number, count in enumerate(counts)
            for replication in range(count)
            if replication not in found[number]
        ]
        if not pairs:
            break
        _run(designs, pairs, sampling, found, store, progress)
        counts = [
            next_count(count, sampling.most) if wants_more(list(samples.values())) else count
            for samples, count in zip(found, counts, strict=True)
        ]
    return [
        Replications(
            design, [samples[replication] for replication in sorted(samples)], sampling.precision, sampling.asked
        )
        for design, samples in zip(designs, found, strict=True)
    ]


def _run(
    designs: Sequence[Scenario],
    pairs: Sequence[tuple[int, int]],
    sampling: Sampling,
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
    parallel = Parallel(n_jobs=sampling.jobs, return_as="generator_unordered", batch_size=1)
    tasks = (delayed(_one)(number, designs[number], replication, sampling) for number, replication in missing)
    with closing(parallel(tasks)) as results:
        for number, sample in results:
            found[number][sample.replication] = sample
            if store:
                store.put(designs[number], sample)
            done += 1
            if progress:
                progress(f"{done} of {total} runs", done / total)


def _one(number: int, design: Scenario, replication: int, sampling: Sampling) -> tuple[int, Sample]:
    """One replication, in whichever process."""
    seed = replication_seed(design.seed, replication)
    run = simulate_once(design.model_copy(update={"seed": seed}))
    sample = Sample(
        replication,
        seed,
        run.digest,
        sampling.measures(run),
        behind(run, sampling.measures.names),
        warmup.Steadiness.of(run),
        warmup.Series.of(run) if sampling.series else None,
        # Without the DataFrames that measuring has made of the tables.
        Run(run.tables, run.scenario, run.manifest) if sampling.keep == "runs" else None,
    )
    return number, sample


def simulate_once(
    scenario: Scenario,
    *,
    spans: bool = False,
    progress: Callable[[float], None] | None = None,
    warnings: Sequence[str] = (),
) -> Run:
    """One run in simulated time. `warnings`: what its manifest says besides."""
    from imsim.sim import simulate

    started = datetime.now(UTC)
    tables = simulate(scenario, progress=progress, spans=spans)
    extra = {"warnings": list(warnings)} if warnings else None
    return Run.make(tables, scenario, world="sim", seed=scenario.seed, started=started, extra=extra)


def _precision(precision: Precision | None) -> dict[str, float]:
    if precision is None:
        return {}
    wanted = dict(precision) if isinstance(precision, Mapping) else {PRECISE: precision}
    for metric, share in wanted.items():
        if not (isinstance(share, int | float) and 0 < share < 1):
            raise UsageError(
                f"precision: expected a share of {metric} between 0 and 1, as in 0.05 for 5 %, got {share!r}"
            )
    return wanted


def flaw_notes(flaws: Mapping[str, Flaw | None], duration: float) -> list[str]:
    """A sentence for each kind of flaw, with the metrics that have it. `duration`: of the runs, seconds."""
    notes = []
    if few := [f"{metric} ({needed(metric):,})" for metric, found in flaws.items() if found == "few"]:
        notes.append(
            f"a run has fewer latencies than a percentile takes: {', '.join(few)}. With fewer it may be "
            "off, and an interval would miss it: lengthen `duration`"
        )
    if short := [metric for metric, found in flaws.items() if found == "short"]:
        notes.append(
            f"runs of {duration:g} s are too short for {', '.join(short)}: halves of them give clearly less, so it is "
            "too low, and an interval would miss it. Lengthen `duration` (unless the service cannot keep up); more "
            "replications do not help"
        )
    return notes


def to_json(found: Estimate) -> dict[str, Any]:
    return {"mean": found.value, "low": found.low, "high": found.high, "null": found.undefined}


def _shown(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}
